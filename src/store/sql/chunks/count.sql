SELECT count(*)
FROM knowledge_chunks c
JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id
JOIN knowledge_bases b ON b.tenant_id = d.tenant_id AND b.id = d.knowledge_base_id
WHERE c.tenant_id = (SELECT tertulia_tenant_id()) AND c.document_id = $1 AND c.generation_id = b.generation_id
