UPDATE api_keys
SET expires_at = least(expires_at, $2)
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
