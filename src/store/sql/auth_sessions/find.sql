SELECT expires_at
FROM auth_sessions
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
