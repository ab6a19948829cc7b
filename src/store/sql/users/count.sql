SELECT count(*)
FROM users
WHERE tenant_id = (SELECT tertulia_tenant_id())
