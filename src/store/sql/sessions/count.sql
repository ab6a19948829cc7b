SELECT count(*)
FROM sessions s
WHERE s.tenant_id = (SELECT tertulia_tenant_id())
    AND ($1::uuid IS NULL OR s.widget_id = $1)
    AND ($2::uuid IS NULL OR s.meeting_id = $2)
    AND ($3::text IS NULL OR s.visitor_id = $3)
    AND ($4::boolean IS NULL OR (s.ended_at IS NULL) = $4)
    AND ($5::timestamptz IS NULL OR s.created_at >= $5)
    AND ($6::timestamptz IS NULL OR s.created_at < $6)
