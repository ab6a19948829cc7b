SELECT DISTINCT held.key COLLATE "C" AS key
FROM documents d, jsonb_each(d.metadata) AS held (key, value)
WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1
    AND jsonb_typeof(held.value) <> 'null'
ORDER BY 1
LIMIT 20
