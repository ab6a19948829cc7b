-- A generation can have been made active without this server; the knowledge base knows best.
SELECT g.id, g.encoder, g.dimensions, CASE WHEN g.id = b.generation_id THEN 'active' ELSE g.state END AS state,
    g.chunk_count, active.chunk_count AS total, g.problem, g.created_at
FROM knowledge_bases b
JOIN embedding_generations active
    ON active.tenant_id = b.tenant_id AND active.knowledge_base_id = b.id AND active.id = b.generation_id
JOIN embedding_generations g ON g.tenant_id = b.tenant_id AND g.knowledge_base_id = b.id
WHERE b.tenant_id = (SELECT tertulia_tenant_id()) AND b.id = $1
LIMIT 100
