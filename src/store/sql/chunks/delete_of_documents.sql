DELETE FROM knowledge_chunks
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND document_id = ANY ($1)
