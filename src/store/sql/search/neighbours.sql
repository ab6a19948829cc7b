-- Chunks that stand up to $5 places before or after those that were found, and pass the filter.
SELECT hit.place, c.id, c.ordinal, c.content
FROM unnest($2::uuid[], $3::integer[]) WITH ORDINALITY AS hit (document_id, ordinal, place)
JOIN knowledge_chunks c ON c.tenant_id = (SELECT tertulia_tenant_id()) AND c.document_id = hit.document_id
    AND c.generation_id = $1 AND c.ordinal BETWEEN hit.ordinal::bigint - $5 AND hit.ordinal::bigint + $5
    AND c.ordinal <> hit.ordinal
JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id
WHERE $4::text IS NULL OR tertulia_matches(d.metadata || c.metadata, $4::text::jsonb)
ORDER BY hit.place, c.ordinal
