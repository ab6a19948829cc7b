DELETE FROM auth_sessions
WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM auth_sessions WHERE expires_at < now() ORDER BY expires_at LIMIT $1)
