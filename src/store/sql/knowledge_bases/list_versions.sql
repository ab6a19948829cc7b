SELECT b.tenant_id, b.id, b.version
FROM unnest($1::uuid[], $2::uuid[]) AS wanted (tenant_id, id)
JOIN knowledge_bases b ON b.tenant_id = wanted.tenant_id AND b.id = wanted.id
