UPDATE knowledge_bases
SET version = version + 1
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING version
