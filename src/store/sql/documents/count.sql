SELECT document_count
FROM knowledge_bases
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
