-- As find, and nobody else changes it until the transaction ends.
SELECT id, title, starts_at, ends_at, ended_at, metadata::text, created_at, updated_at
FROM meetings
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
FOR NO KEY UPDATE
