INSERT INTO sessions (tenant_id, id, widget_id, meeting_id, visitor_id, visitor_name, is_verified, metadata)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, $5, $6, $7::jsonb)
RETURNING id, widget_id, meeting_id, visitor_id, visitor_name, is_verified, metadata::text, last_seq, last_revision,
    last_message_at, created_at, updated_at, ended_at
