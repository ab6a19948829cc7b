SELECT tenant_id, id, public_id, secret_sha256, name, scopes, expires_at, revoked_at, last_used_at, created_at
FROM api_keys
WHERE public_id = $1 AND revoked_at IS NULL
