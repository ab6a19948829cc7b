UPDATE knowledge_bases
SET generation_id = $3
WHERE tenant_id = $1 AND id = $2
