-- In the transaction that does what was asked for, as its last statement. True if the key is still ours, or if the
-- transaction wrote nothing, so that nothing hangs on it.
WITH committed AS (
    UPDATE idempotency_keys
    SET committed_at = clock_timestamp()
    WHERE tenant_id = (SELECT tertulia_tenant_id()) AND caller = $1 AND key = $2 AND leased_until = $3
        AND response_status IS NULL AND pg_current_xact_id_if_assigned() IS NOT NULL
    RETURNING 1
)
SELECT EXISTS (SELECT FROM committed) OR pg_current_xact_id_if_assigned() IS NULL AS may_commit
