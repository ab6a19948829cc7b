UPDATE widgets
SET name = $2, allowed_origins = $3, is_identity_required = $4, settings = $5::jsonb, disabled_at = $6,
    updated_at = clock_timestamp()
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING id, name, embed_key, allowed_origins, is_identity_required, settings::text, disabled_at, created_at, updated_at
