-- Each chunk of the source has one of the target by now, so that others are there exactly if there are more; that some are
-- missing, because they were deleted by themselves, likewise.
SELECT t.chunk_count - s.chunk_count AS surplus
FROM embedding_generations s
JOIN embedding_generations t ON t.tenant_id = s.tenant_id AND t.knowledge_base_id = s.knowledge_base_id AND t.id = $4
WHERE s.tenant_id = $1 AND s.knowledge_base_id = $2 AND s.id = $3
