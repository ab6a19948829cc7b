SELECT d.id, d.external_id, d.title, d.source_url, d.mime_type, d.metadata::text, d.content_sha256, d.created_at, d.updated_at,
    (
        SELECT count(*)
        FROM knowledge_chunks c
        WHERE c.tenant_id = d.tenant_id AND c.document_id = d.id AND c.generation_id = b.generation_id
    ) AS chunk_count
FROM documents d
JOIN knowledge_bases b ON b.tenant_id = d.tenant_id AND b.id = d.knowledge_base_id
WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1 AND d.external_id > $2
ORDER BY d.external_id
OFFSET $3
LIMIT $4
