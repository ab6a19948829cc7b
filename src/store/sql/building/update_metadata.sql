-- What else a chunk has that was not encoded anew.
UPDATE knowledge_chunks t
SET metadata = s.metadata
FROM unnest($3::uuid[], $4::bigint[]) AS read (id, version)
JOIN knowledge_chunks s ON s.tenant_id = $1 AND s.id = read.id AND s.version = read.version
WHERE t.tenant_id = $1 AND t.document_id = s.document_id AND t.generation_id = $2 AND t.ordinal = s.ordinal
    AND t.metadata IS DISTINCT FROM s.metadata
