SELECT count(*)
FROM knowledge_bases
WHERE tenant_id = (SELECT tertulia_tenant_id())
