SELECT u.tenant_id, u.id, u.email, u.name, u.role, u.disabled_at, u.created_at, u.updated_at, u.password_hash
FROM tenants t
JOIN users u ON u.tenant_id = t.id
WHERE t.slug = $1 AND u.email = $2
