SELECT id, public_id, name, scopes, expires_at, revoked_at, last_used_at, replaces_id, created_at
FROM api_keys
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND (created_at, id) < ($1, $2)
ORDER BY created_at DESC, id DESC
OFFSET $3
LIMIT $4
