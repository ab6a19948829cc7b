-- In one order, so that two who each remove another owner wait for one another.
SELECT id
FROM users
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND role = 'owner'
ORDER BY id
FOR NO KEY UPDATE
