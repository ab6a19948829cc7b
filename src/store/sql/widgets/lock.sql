-- As find, and nobody else changes it until the transaction ends.
SELECT id, name, embed_key, allowed_origins, is_identity_required, settings::text, disabled_at, created_at, updated_at
FROM widgets
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
FOR NO KEY UPDATE
