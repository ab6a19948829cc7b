DELETE FROM documents
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND knowledge_base_id = $1 AND id = ANY ($2)
