-- One that has ended keeps the time of its end. Under the row's lock, so no message is numbered after it.
UPDATE sessions
SET updated_at = CASE WHEN ended_at IS NULL THEN clock_timestamp() ELSE updated_at END,
    ended_at = coalesce(ended_at, clock_timestamp())
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING id, widget_id, meeting_id, visitor_id, visitor_name, is_verified, metadata::text, last_seq, last_revision,
    last_message_at, created_at, updated_at, ended_at
