-- Knowledge bases whose oldest deletion is that old: an index probe for each knowledge base, however long the logs are.
SELECT b.tenant_id, b.id
FROM knowledge_bases b
CROSS JOIN LATERAL (
    SELECT d.created_at
    FROM chunk_deletions d
    WHERE d.tenant_id = b.tenant_id AND d.knowledge_base_id = b.id
    ORDER BY d.version, d.chunk_id
    LIMIT 1
) AS oldest
WHERE oldest.created_at < now() - make_interval(secs => $1)
