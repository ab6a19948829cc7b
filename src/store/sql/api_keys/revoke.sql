UPDATE api_keys
SET revoked_at = clock_timestamp()
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1 AND revoked_at IS NULL
