-- Documents whose own metadata match a filter, with how many chunks each has.
SELECT d.id, d.external_id, d.metadata::text,
    (
        SELECT count(*)
        FROM knowledge_chunks c
        WHERE c.tenant_id = d.tenant_id AND c.document_id = d.id AND c.generation_id = $2
    ) AS chunk_count
FROM documents d
WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1 AND d.external_id > $3
    AND tertulia_matches(d.metadata, $4::text::jsonb)
ORDER BY d.external_id
LIMIT $5
