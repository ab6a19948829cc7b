-- One that has ended keeps the time of its end.
UPDATE meetings
SET updated_at = CASE WHEN ended_at IS NULL THEN clock_timestamp() ELSE updated_at END,
    ended_at = coalesce(ended_at, clock_timestamp())
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING id, title, starts_at, ends_at, ended_at, metadata::text, created_at, updated_at
