INSERT INTO api_keys (tenant_id, id, public_id, secret_sha256, name, scopes, requests_per_minute, expires_at, replaces_id)
SELECT tenant_id, $1, $3, $4, name, scopes, requests_per_minute, $5, id
FROM api_keys
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $2
RETURNING id, public_id, name, scopes, expires_at, revoked_at, last_used_at, replaces_id, created_at
