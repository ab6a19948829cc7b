-- Of some documents, those that are still there and still match, held until the transaction ends.
SELECT d.id, d.external_id, d.metadata::text,
    (
        SELECT count(*)
        FROM knowledge_chunks c
        WHERE c.tenant_id = d.tenant_id AND c.document_id = d.id AND c.generation_id = $2
    ) AS chunk_count
FROM documents d
WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1 AND d.id = ANY ($3)
    AND tertulia_matches(d.metadata, $4::text::jsonb)
FOR UPDATE OF d
