SELECT k.tenant_id, k.id, k.public_id, k.secret_sha256, k.name, k.scopes, k.expires_at, k.revoked_at, k.last_used_at,
    k.created_at, t.tier
FROM api_keys AS k JOIN tenants AS t ON t.id = k.tenant_id
WHERE k.public_id = $1 AND k.revoked_at IS NULL
