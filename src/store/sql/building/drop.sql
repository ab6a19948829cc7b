DELETE FROM embedding_generations
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND id = $3 AND state = 'retired'
