WITH base AS (
    INSERT INTO knowledge_bases (tenant_id, id, name, generation_id, analyzer)
    VALUES (tertulia_tenant_id(), $1, $2, $3, $6)
    RETURNING tenant_id, id, name, analyzer, version, generation_id, document_count, created_at
), generation AS (
    INSERT INTO embedding_generations (tenant_id, knowledge_base_id, id, encoder, dimensions)
    SELECT tenant_id, id, generation_id, $4, $5
    FROM base
    RETURNING encoder, dimensions, chunk_count
)
SELECT base.id, base.name, base.analyzer, base.version, base.generation_id, generation.encoder, generation.dimensions,
    base.document_count, generation.chunk_count, base.created_at
FROM base, generation
