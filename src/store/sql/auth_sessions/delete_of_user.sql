DELETE FROM auth_sessions
WHERE tenant_id = $1 AND user_id = $2 AND id IS DISTINCT FROM $3
