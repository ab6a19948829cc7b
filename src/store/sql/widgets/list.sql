SELECT id, name, embed_key, allowed_origins, is_identity_required, settings::text, disabled_at, created_at, updated_at
FROM widgets
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND (created_at, id) < ($1, $2)
ORDER BY created_at DESC, id DESC
OFFSET $3
LIMIT $4
