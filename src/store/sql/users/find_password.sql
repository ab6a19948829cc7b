SELECT password_hash
FROM users
WHERE tenant_id = $1 AND id = $2
