SELECT count(*)
FROM widgets
WHERE tenant_id = (SELECT tertulia_tenant_id())
