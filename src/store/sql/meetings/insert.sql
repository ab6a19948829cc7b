INSERT INTO meetings (tenant_id, id, title, starts_at, ends_at, metadata)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, $5::jsonb)
RETURNING id, title, starts_at, ends_at, ended_at, metadata::text, created_at, updated_at
