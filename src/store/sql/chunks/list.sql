SELECT c.id, c.ordinal, c.heading, c.content, c.metadata::text, c.version
FROM knowledge_chunks c
WHERE c.tenant_id = (SELECT tertulia_tenant_id()) AND c.document_id = $1 AND c.ordinal > $2
    AND c.generation_id = (
        SELECT b.generation_id
        FROM documents d
        JOIN knowledge_bases b ON b.tenant_id = d.tenant_id AND b.id = d.knowledge_base_id
        WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.id = $1
    )
ORDER BY c.ordinal
OFFSET $3
LIMIT $4
