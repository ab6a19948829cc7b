SELECT b.id, b.name, b.analyzer, b.version, b.generation_id, g.encoder, g.dimensions, b.document_count, g.chunk_count,
    b.created_at
FROM knowledge_bases b
JOIN embedding_generations g
    ON g.tenant_id = b.tenant_id AND g.knowledge_base_id = b.id AND g.id = b.generation_id
WHERE b.tenant_id = (SELECT tertulia_tenant_id()) AND b.id = $1
