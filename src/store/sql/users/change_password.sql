-- The one that was checked, or nothing: it may have been changed since.
UPDATE users
SET password_hash = $4, updated_at = clock_timestamp()
WHERE tenant_id = $1 AND id = $2 AND password_hash = $3
