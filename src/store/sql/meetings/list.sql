SELECT id, title, starts_at, ends_at, ended_at, metadata::text, created_at, updated_at
FROM meetings
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND (starts_at, id) < ($1, $2)
ORDER BY starts_at DESC, id DESC
OFFSET $3
LIMIT $4
