-- Reads the source from its start again; what is encoded already is not encoded again.
UPDATE embedding_generations
SET cursor_version = 0, cursor_id = '00000000-0000-0000-0000-000000000000'
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND id = $3 AND state = 'building' AND builder = $4
