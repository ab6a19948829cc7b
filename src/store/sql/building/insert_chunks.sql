-- Copies of the source's chunks with other embeddings. A chunk that was changed since it was read has a later version and
-- comes again; one that is gone has no row here.
INSERT INTO knowledge_chunks
    (tenant_id, knowledge_base_id, generation_id, document_id, id, ordinal, heading, content, metadata, embedding)
SELECT s.tenant_id, s.knowledge_base_id, $3, s.document_id, read.new_id, s.ordinal, s.heading, s.content, s.metadata,
    ($7::real[])[read.first:read.last]::vector
FROM unnest($4::uuid[], $5::bigint[], $6::uuid[], $8::integer[], $9::integer[]) AS read (id, version, new_id, first, last)
JOIN knowledge_chunks s ON s.tenant_id = $1 AND s.id = read.id AND s.version = read.version
WHERE s.knowledge_base_id = $2
ON CONFLICT (tenant_id, document_id, generation_id, ordinal) DO UPDATE
SET heading = excluded.heading, content = excluded.content, metadata = excluded.metadata, embedding = excluded.embedding
