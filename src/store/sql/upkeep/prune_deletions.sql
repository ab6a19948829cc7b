-- Whoever knows less than `pruned_version` starts afresh, so it is raised in the very statement that deletes.
WITH raised AS (
    UPDATE knowledge_bases
    SET pruned_version = greatest(pruned_version, $3)
    WHERE tenant_id = $1 AND id = $2
)
DELETE FROM chunk_deletions
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND version <= $3
