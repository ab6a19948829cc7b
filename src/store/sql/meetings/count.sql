SELECT count(*)
FROM meetings
WHERE tenant_id = (SELECT tertulia_tenant_id())
