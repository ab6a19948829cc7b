UPDATE knowledge_bases
SET version = version + 1
WHERE tenant_id = $1 AND id = $2 AND generation_id <> $3
