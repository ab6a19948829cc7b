UPDATE users
SET name = $2, role = $3, updated_at = clock_timestamp()
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING id, email, name, role, disabled_at, created_at, updated_at
