SELECT c.id, c.ordinal, c.heading, c.content, c.metadata::text, c.version
FROM knowledge_chunks c
JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id
JOIN knowledge_bases b ON b.tenant_id = d.tenant_id AND b.id = d.knowledge_base_id
WHERE c.tenant_id = (SELECT tertulia_tenant_id()) AND c.document_id = $1 AND c.generation_id = b.generation_id
    AND c.ordinal > $2
ORDER BY c.ordinal
OFFSET $3
LIMIT $4
