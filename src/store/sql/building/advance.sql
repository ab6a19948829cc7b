-- Nothing if somebody else has gone on from there, or it is not to be built any more.
UPDATE embedding_generations
SET source_id = $5, cursor_version = $8, cursor_id = $9, problem = NULL
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND id = $3 AND state = 'building' AND builder = $4
    AND (source_id IS DISTINCT FROM $5 OR (cursor_version, cursor_id) = ($6, $7))
