SELECT tenant_id, id, secret_sha256, scopes, expires_at,
    coalesce(last_used_at < now() - make_interval(secs => $2), true) AS is_touch_due
FROM api_keys
WHERE public_id = $1 AND revoked_at IS NULL
