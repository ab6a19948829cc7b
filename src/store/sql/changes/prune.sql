-- By version rather than by time, so that what is left of the log has no gap. `marked` takes the knowledge base's lock
-- before any deletion's, as writers do. Rows are named by their place, because nobody updates them and a join of the piece
-- with its own table has been planned as a loop in a loop.
WITH piece AS (
    SELECT d.ctid AS place, d.version, d.created_at
    FROM chunk_deletions d
    WHERE d.tenant_id = $1 AND d.knowledge_base_id = $2
    ORDER BY d.version, d.chunk_id
    LIMIT $4
), marked AS (
    UPDATE knowledge_bases b
    SET pruned_version = greatest(b.pruned_version, old.version)
    FROM (SELECT max(version) AS version FROM piece WHERE created_at < now() - make_interval(secs => $3)) AS old
    WHERE b.tenant_id = $1 AND b.id = $2 AND old.version IS NOT NULL
    RETURNING old.version
)
DELETE FROM chunk_deletions d
WHERE d.tenant_id = $1 AND d.knowledge_base_id = $2
    AND d.ctid = ANY (ARRAY(SELECT piece.place FROM piece JOIN marked ON piece.version <= marked.version))
