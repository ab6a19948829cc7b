SELECT id, slug, name, tier, created_at
FROM tenants
WHERE slug = $1
