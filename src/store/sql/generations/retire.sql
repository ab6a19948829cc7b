UPDATE embedding_generations
SET state = 'retired'
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND knowledge_base_id = $1 AND id = $2 AND state = 'building'
