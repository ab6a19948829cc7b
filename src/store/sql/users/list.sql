SELECT id, email, name, role, disabled_at, created_at, updated_at
FROM users
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND (created_at, id) < ($1, $2)
ORDER BY created_at DESC, id DESC
OFFSET $3
LIMIT $4
