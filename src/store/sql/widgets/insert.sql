INSERT INTO widgets (tenant_id, id, name, embed_key, allowed_origins, is_identity_required, identity_secrets, settings)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, $5, ARRAY[$6::bytea], $7::jsonb)
RETURNING id, name, embed_key, allowed_origins, is_identity_required, settings::text, disabled_at, created_at, updated_at
