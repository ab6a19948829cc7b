-- The first of the keys that no chunk of the knowledge base has a value for; an empty knowledge base knows all keys.
SELECT wanted.key
FROM unnest($3::text[]) WITH ORDINALITY AS wanted (key, place)
WHERE EXISTS (
    SELECT FROM knowledge_chunks c
    WHERE c.tenant_id = (SELECT tertulia_tenant_id()) AND c.knowledge_base_id = $1 AND c.generation_id = $2
) AND NOT EXISTS (
    SELECT FROM knowledge_chunks c
    JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id
    WHERE c.tenant_id = (SELECT tertulia_tenant_id()) AND c.knowledge_base_id = $1 AND c.generation_id = $2
        AND jsonb_typeof((d.metadata || c.metadata) -> wanted.key) <> 'null'
)
ORDER BY wanted.place
LIMIT 1
