-- Chunks whose originals were deleted while their document stayed.
DELETE FROM knowledge_chunks t
WHERE t.tenant_id = $1 AND t.knowledge_base_id = $2 AND t.generation_id = $4 AND NOT EXISTS (
    SELECT FROM knowledge_chunks s
    WHERE s.tenant_id = t.tenant_id AND s.document_id = t.document_id AND s.generation_id = $3 AND s.ordinal = t.ordinal
)
