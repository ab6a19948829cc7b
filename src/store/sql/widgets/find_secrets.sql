SELECT w.tenant_id, w.id, w.allowed_origins, w.is_identity_required, w.disabled_at IS NOT NULL AS is_disabled,
    w.identity_secrets, w.identity_overlap_until, w.signing_secrets, w.signing_overlap_until, t.tier
FROM widgets AS w
JOIN tenants AS t ON t.id = w.tenant_id
WHERE w.tenant_id = $1 AND w.id = $2
