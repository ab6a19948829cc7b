-- Generations of all tenants that one of the encoders of this server can go on with, or that are to be dropped, and that
-- nobody else works on.
SELECT g.tenant_id, g.knowledge_base_id, g.id, g.state, g.encoder
FROM embedding_generations g
WHERE g.state <> 'active' AND (g.state = 'retired' OR g.encoder = ANY ($1))
    AND (g.builder = $2 OR g.leased_until IS NULL OR g.leased_until < now())
    -- One that was made active without this server.
    AND NOT EXISTS (
        SELECT FROM knowledge_bases b
        WHERE b.tenant_id = g.tenant_id AND b.id = g.knowledge_base_id AND b.generation_id = g.id
    )
ORDER BY g.tenant_id, g.knowledge_base_id, g.id
LIMIT 100
