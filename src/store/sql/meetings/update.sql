UPDATE meetings
SET title = $2, starts_at = $3, ends_at = $4, metadata = $5::jsonb, updated_at = clock_timestamp()
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING id, title, starts_at, ends_at, ended_at, metadata::text, created_at, updated_at
