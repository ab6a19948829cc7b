-- Only as long as the password is the one that was checked. Whoever changes it waits for the lock and then ends this
-- login with the others, or has changed it before, and there is none.
INSERT INTO auth_sessions (tenant_id, id, user_id, token_sha256, expires_at, user_agent, address)
SELECT tenant_id, $3, id, $4, clock_timestamp() + make_interval(secs => $5), $6, $7
FROM users
WHERE tenant_id = $1 AND id = $2 AND password_hash = $8 AND disabled_at IS NULL
FOR SHARE
RETURNING expires_at
