UPDATE documents d
SET metadata = changed.metadata::jsonb, updated_at = now()
FROM unnest($2::uuid[], $3::text[]) AS changed (id, metadata)
WHERE d.tenant_id = (SELECT tertulia_tenant_id()) AND d.knowledge_base_id = $1 AND d.id = changed.id
