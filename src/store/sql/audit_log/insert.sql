INSERT INTO audit_log
    (tenant_id, id, actor_kind, actor_id, action, resource_id, request_id, address, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb)
