SELECT count(*)
FROM api_keys
WHERE tenant_id = (SELECT tertulia_tenant_id())
