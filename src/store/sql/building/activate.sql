UPDATE embedding_generations
SET state = 'active', builder = NULL, leased_until = NULL, problem = NULL
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND id = $3 AND state = 'building' AND builder = $4
    AND (source_id IS DISTINCT FROM $5 OR (cursor_version, cursor_id) = ($6, $7))
