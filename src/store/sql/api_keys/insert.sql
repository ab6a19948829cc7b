INSERT INTO api_keys (tenant_id, id, public_id, secret_sha256, name, scopes, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
