-- It is done, and its answer is not kept.
UPDATE idempotency_keys
SET committed_at = coalesce(committed_at, clock_timestamp()), leased_until = clock_timestamp()
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND caller = $1 AND key = $2 AND leased_until = $3
    AND response_status IS NULL
