INSERT INTO api_keys (tenant_id, id, public_id, secret_sha256, name, scopes, expires_at)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, $5, $6)
RETURNING id, public_id, name, scopes, expires_at, revoked_at, last_used_at, replaces_id, created_at
