-- The embeddings come as one array, each chunk's from its `first` to its `last` place: an array of vectors would need
-- the extension's types on the wire.
INSERT INTO knowledge_chunks
    (tenant_id, knowledge_base_id, generation_id, document_id, id, ordinal, heading, content, metadata, embedding)
SELECT tertulia_tenant_id(), $1, $2, $3, c.id, c.ordinal, c.heading, c.content, c.metadata::jsonb,
    ($9::real[])[c.first:c.last]::vector
FROM unnest($4::uuid[], $5::integer[], $6::text[], $7::text[], $8::text[], $10::integer[], $11::integer[])
    AS c (id, ordinal, heading, content, metadata, first, last)
