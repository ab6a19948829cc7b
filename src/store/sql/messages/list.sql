-- The history from its start, or what came after a message, with how far it goes; a row without a message if there is none.
SELECT s.last_seq, found.*
FROM sessions s
LEFT JOIN LATERAL (
    SELECT m.id, m.session_id, m.seq, m.role, m.user_id, m.sender, m.content, m.client_id, m.metadata::text, m.timestamp,
        m.revision, m.edited_at, m.deleted_at
    FROM messages m
    WHERE m.tenant_id = s.tenant_id AND m.session_id = s.id AND m.seq > $2
    ORDER BY m.seq
    LIMIT $3
) AS found ON true
WHERE s.tenant_id = (SELECT tertulia_tenant_id()) AND s.id = $1
