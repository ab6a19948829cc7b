UPDATE users
SET password_hash = $2, updated_at = clock_timestamp()
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
