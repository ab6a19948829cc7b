-- Gives no row if the key is somebody's: answered, committed, or under way.
INSERT INTO idempotency_keys AS held (tenant_id, caller, route, key, request_sha256, leased_until, expires_at)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5),
    clock_timestamp() + make_interval(secs => $6))
ON CONFLICT (tenant_id, caller, key) DO UPDATE
SET route = excluded.route, request_sha256 = excluded.request_sha256, leased_until = excluded.leased_until,
    expires_at = excluded.expires_at, created_at = excluded.created_at, committed_at = NULL, response_status = NULL,
    response_header = NULL, response_body = NULL
WHERE held.expires_at <= clock_timestamp()
    OR (held.response_status IS NULL AND held.committed_at IS NULL AND held.leased_until <= clock_timestamp())
RETURNING leased_until
