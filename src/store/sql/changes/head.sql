SELECT b.version, b.generation_id, g.encoder, g.dimensions, g.chunk_count, b.pruned_version, b.analyzer
FROM knowledge_bases b
JOIN embedding_generations g
    ON g.tenant_id = b.tenant_id AND g.knowledge_base_id = b.id AND g.id = b.generation_id
WHERE b.tenant_id = $1 AND b.id = $2
