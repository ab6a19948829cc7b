-- Whether its use is to be noted: not that of a wrong secret, or of a key that holds no more.
SELECT k.tenant_id, k.id, k.secret_sha256, k.scopes, k.expires_at, t.tier,
    k.secret_sha256 = $2 AND coalesce(k.expires_at > now(), true)
        AND coalesce(k.last_used_at < now() - make_interval(secs => $3), true) AS is_touch_due
FROM api_keys AS k
JOIN tenants AS t ON t.id = k.tenant_id
WHERE k.public_id = $1 AND k.revoked_at IS NULL
