-- The knowledge base is locked, so the chunks that are seen here are all there are.
WITH gone AS (
    DELETE FROM knowledge_chunks c
    USING documents d
    WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1 AND d.external_id = $3
        AND c.tenant_id = d.tenant_id AND c.document_id = d.id
)
INSERT INTO documents
    (tenant_id, knowledge_base_id, id, external_id, title, source_url, mime_type, metadata, content_sha256)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, $5, $6, $7::text::jsonb, $8)
ON CONFLICT (tenant_id, knowledge_base_id, external_id) DO UPDATE
SET title = excluded.title, source_url = excluded.source_url, mime_type = excluded.mime_type,
    metadata = excluded.metadata, content_sha256 = excluded.content_sha256, updated_at = now()
RETURNING id
