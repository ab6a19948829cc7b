-- Newest first. A condition whose value is null is none: statements are planned for the values that they are sent with,
-- so each combination has its index.
SELECT s.id, s.widget_id, s.meeting_id, s.visitor_id, s.visitor_name, s.is_verified, s.metadata::text, s.last_seq,
    s.last_revision, s.last_message_at, s.created_at, s.updated_at, s.ended_at
FROM sessions s
WHERE s.tenant_id = (SELECT tertulia_tenant_id())
    AND ($1::uuid IS NULL OR s.widget_id = $1)
    AND ($2::uuid IS NULL OR s.meeting_id = $2)
    AND ($3::text IS NULL OR s.visitor_id = $3)
    AND ($4::boolean IS NULL OR (s.ended_at IS NULL) = $4)
    AND ($5::timestamptz IS NULL OR s.created_at >= $5)
    AND ($6::timestamptz IS NULL OR s.created_at < $6)
    AND (s.created_at, s.id) < ($7, $8)
ORDER BY s.created_at DESC, s.id DESC
OFFSET $9
LIMIT $10
