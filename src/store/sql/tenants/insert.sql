INSERT INTO tenants (id, slug, tier)
VALUES ($1, $2, $3)
ON CONFLICT (slug) DO NOTHING
RETURNING id
