SELECT version, chunk_id
FROM chunk_deletions
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND (version, chunk_id) > ($3, $4)
ORDER BY version, chunk_id
LIMIT $5
