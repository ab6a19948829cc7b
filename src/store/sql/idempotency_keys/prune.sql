DELETE FROM idempotency_keys
WHERE (tenant_id, caller, key) IN (
    SELECT tenant_id, caller, key FROM idempotency_keys WHERE expires_at < now() ORDER BY expires_at LIMIT $1
)
