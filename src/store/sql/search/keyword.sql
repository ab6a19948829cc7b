SELECT c.id, c.document_id, d.external_id, d.title, d.source_url, c.heading, c.ordinal, c.content,
    (d.metadata || c.metadata)::text AS metadata, hit.score
FROM tertulia_keyword_hits(
    $1, $2, tertulia_configuration($6), $3, $7, $4::text::jsonb,
    tertulia_condition(tertulia_configuration($6), $8, $9), $5
) AS hit
JOIN knowledge_chunks c ON c.tenant_id = (SELECT tertulia_tenant_id()) AND c.id = hit.chunk_id
JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id
ORDER BY hit.score DESC, c.id
