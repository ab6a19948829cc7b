SELECT DISTINCT held.key COLLATE "C" AS key
FROM knowledge_chunks c
JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id,
    jsonb_each(d.metadata || c.metadata) AS held (key, value)
WHERE c.tenant_id = (SELECT tertulia_tenant_id()) AND c.knowledge_base_id = $1 AND c.generation_id = $2
    AND jsonb_typeof(held.value) <> 'null'
ORDER BY 1
LIMIT 20
