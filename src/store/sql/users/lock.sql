-- As find, and nobody else changes it until the transaction ends.
SELECT id, email, name, role, disabled_at, created_at, updated_at
FROM users
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
FOR NO KEY UPDATE
