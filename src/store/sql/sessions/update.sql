UPDATE sessions
SET visitor_name = $2, metadata = $3::jsonb, updated_at = clock_timestamp()
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING id, widget_id, meeting_id, visitor_id, visitor_name, is_verified, metadata::text, last_seq, last_revision,
    last_message_at, created_at, updated_at, ended_at
