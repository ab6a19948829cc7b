-- How far the log is written. All that was committed is below it, as long as commits wait for the log.
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS position
