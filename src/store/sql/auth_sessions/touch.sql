-- It goes on for as long as a new one, but not for ever.
UPDATE auth_sessions
SET last_used_at = now(),
    expires_at = greatest(
        expires_at, least(now() + make_interval(secs => $3), created_at + make_interval(secs => $4))
    )
WHERE tenant_id = $1 AND id = $2
RETURNING expires_at
