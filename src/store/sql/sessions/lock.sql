-- As find, and nobody else changes it until the transaction ends.
SELECT s.id, s.widget_id, s.meeting_id, s.visitor_id, s.visitor_name, s.is_verified, s.metadata::text, s.last_seq,
    s.last_revision, s.last_message_at, s.created_at, s.updated_at, s.ended_at
FROM sessions s
WHERE s.tenant_id = (SELECT tertulia_tenant_id()) AND s.id = $1
FOR NO KEY UPDATE
