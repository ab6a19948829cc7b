-- The next chunks of the source; no text for those of which the generation has a chunk with the same text already.
SELECT s.version, s.id, s.document_id, s.ordinal,
    CASE WHEN t.id IS NULL THEN s.heading END AS heading,
    CASE WHEN t.id IS NULL THEN s.content END AS content
FROM knowledge_chunks s
LEFT JOIN knowledge_chunks t
    ON t.tenant_id = s.tenant_id AND t.document_id = s.document_id AND t.generation_id = $4 AND t.ordinal = s.ordinal
    AND t.heading = s.heading AND t.content = s.content
WHERE s.tenant_id = $1 AND s.knowledge_base_id = $2 AND s.generation_id = $3 AND (s.version, s.id) > ($5, $6)
ORDER BY s.version, s.id
LIMIT $7
