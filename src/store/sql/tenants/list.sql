SELECT id, slug, name, tier, created_at
FROM tenants
ORDER BY slug
