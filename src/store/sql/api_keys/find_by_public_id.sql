-- Whether its use is to be noted: not that of a wrong secret, or of a key that holds no more.
SELECT tenant_id, id, secret_sha256, scopes, expires_at,
    secret_sha256 = $2 AND coalesce(expires_at > now(), true)
        AND coalesce(last_used_at < now() - make_interval(secs => $3), true) AS is_touch_due
FROM api_keys
WHERE public_id = $1 AND revoked_at IS NULL
