-- With their logins; what they wrote stays, without a name.
DELETE FROM users
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
