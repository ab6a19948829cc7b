-- The history backwards: the newest but for some, or what came before a message, with how far it goes; a row without a
-- message if there is none. The sum is done apart, as row security keeps it from an index condition.
WITH history AS MATERIALIZED (
    SELECT s.tenant_id, s.id, s.last_seq, LEAST($2, s.last_seq + 1 - $3) AS upper
    FROM sessions s
    WHERE s.tenant_id = (SELECT tertulia_tenant_id()) AND s.id = $1
)
SELECT h.last_seq, found.*
FROM history h
LEFT JOIN LATERAL (
    SELECT m.id, m.session_id, m.seq, m.role, m.user_id, m.sender, m.content, m.client_id, m.metadata::text, m.timestamp,
        m.revision, m.edited_at, m.deleted_at
    FROM messages m
    WHERE m.tenant_id = h.tenant_id AND m.session_id = h.id AND m.seq < h.upper
    ORDER BY m.seq DESC
    LIMIT $4
) AS found ON true
