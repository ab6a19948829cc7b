-- Where the building of a generation is; from the start if it was reading another generation than the active one.
SELECT b.generation_id AS source_id,
    CASE WHEN g.source_id = b.generation_id THEN g.cursor_version ELSE 0 END AS cursor_version,
    CASE WHEN g.source_id = b.generation_id THEN g.cursor_id ELSE '00000000-0000-0000-0000-000000000000' END AS cursor_id
FROM knowledge_bases b
JOIN embedding_generations g ON g.tenant_id = b.tenant_id AND g.knowledge_base_id = b.id AND g.id = $3
WHERE b.tenant_id = $1 AND b.id = $2 AND g.state = 'building' AND g.builder = $4
