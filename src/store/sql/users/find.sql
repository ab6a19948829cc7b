SELECT id, email, name, role, disabled_at, created_at, updated_at
FROM users
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
