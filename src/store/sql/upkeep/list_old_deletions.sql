-- For each knowledge base, the newest version whose deletions are older than `$1` seconds.
SELECT tenant_id, knowledge_base_id, max(version)
FROM chunk_deletions
WHERE created_at < now() - make_interval(secs => $1)
GROUP BY tenant_id, knowledge_base_id
