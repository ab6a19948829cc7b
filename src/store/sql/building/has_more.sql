SELECT EXISTS (
    SELECT FROM knowledge_chunks s
    WHERE s.tenant_id = $1 AND s.knowledge_base_id = $2 AND s.generation_id = $3 AND (s.version, s.id) > ($4, $5)
) AS has_more
