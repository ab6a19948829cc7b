-- The first of the keys that no document of the knowledge base has a value for; an empty knowledge base knows all keys.
SELECT wanted.key
FROM unnest($2::text[]) WITH ORDINALITY AS wanted (key, place)
WHERE EXISTS (
    SELECT FROM documents d
    WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1
) AND NOT EXISTS (
    SELECT FROM documents d
    WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1
        AND jsonb_typeof(d.metadata -> wanted.key) <> 'null'
)
ORDER BY wanted.place
LIMIT 1
