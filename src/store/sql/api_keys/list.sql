SELECT tenant_id, id, public_id, secret_sha256, name, scopes, expires_at, revoked_at, last_used_at, created_at
FROM api_keys
WHERE tenant_id = $1
ORDER BY created_at DESC, id DESC
