UPDATE embedding_generations
SET state = 'retired'
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND id = $3
