INSERT INTO users (tenant_id, id, email, name, role, password_hash)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, $5)
RETURNING id, email, name, role, disabled_at, created_at, updated_at
