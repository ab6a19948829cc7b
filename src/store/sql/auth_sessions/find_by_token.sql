SELECT s.tenant_id, s.id, s.user_id, s.expires_at, u.role, t.tier,
    s.last_used_at < now() - make_interval(secs => $2) AS is_touch_due
FROM auth_sessions s
JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
JOIN tenants t ON t.id = s.tenant_id
WHERE s.token_sha256 = $1 AND s.expires_at > now() AND u.disabled_at IS NULL
