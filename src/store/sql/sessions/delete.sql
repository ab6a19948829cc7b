-- The log has how much was deleted, and no word of it.
WITH deleted AS (
    DELETE FROM sessions
    WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
    RETURNING tenant_id, id, last_seq
)
INSERT INTO audit_log (tenant_id, id, actor_kind, actor_id, action, resource_id, request_id, before)
SELECT tenant_id, $2, $3, $4, 'session.delete', id, $5, jsonb_build_object('messages', last_seq)
FROM deleted
