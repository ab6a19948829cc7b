-- Not one under which something was committed: that must not be done again.
DELETE FROM idempotency_keys
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND caller = $1 AND key = $2 AND leased_until = $3
    AND response_status IS NULL AND committed_at IS NULL
