SELECT tenant_id, id
FROM api_keys
WHERE public_id = $1 AND revoked_at IS NULL
