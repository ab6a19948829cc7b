-- How far a replica has replayed the log; no row of a server that is none.
SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint AS position
WHERE pg_is_in_recovery()
