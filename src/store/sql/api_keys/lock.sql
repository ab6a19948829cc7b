-- As find, and nobody else changes it until the transaction ends.
SELECT id, public_id, name, scopes, expires_at, revoked_at, last_used_at, replaces_id, created_at
FROM api_keys
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
FOR NO KEY UPDATE
