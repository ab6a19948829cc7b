-- By version rather than by time, so that what is left of the log has no gap.
WITH old AS (
    SELECT tenant_id, knowledge_base_id, max(version) AS version
    FROM chunk_deletions
    WHERE created_at < now() - make_interval(secs => $1)
    GROUP BY tenant_id, knowledge_base_id
), marked AS (
    UPDATE knowledge_bases b
    SET pruned_version = old.version
    FROM old
    WHERE b.tenant_id = old.tenant_id AND b.id = old.knowledge_base_id AND b.pruned_version < old.version
)
DELETE FROM chunk_deletions d
USING old
WHERE d.tenant_id = old.tenant_id AND d.knowledge_base_id = old.knowledge_base_id AND d.version <= old.version
