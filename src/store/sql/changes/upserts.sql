SELECT c.version, c.id, c.document_id, d.external_id, d.title, d.source_url, c.heading, c.ordinal, c.content,
    vector_send(c.embedding) AS embedding, (d.metadata || c.metadata)::text AS metadata
FROM knowledge_chunks c
JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id
WHERE c.tenant_id = $1 AND c.knowledge_base_id = $2 AND c.generation_id = $3 AND (c.version, c.id) > ($4, $5)
ORDER BY c.version, c.id
LIMIT $6
