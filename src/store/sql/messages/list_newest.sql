-- The history backwards: the newest, or what came before a message.
SELECT m.id, m.session_id, m.seq, m.role, m.user_id, m.sender, m.content, m.client_id, m.metadata::text, m.timestamp,
    m.revision, m.edited_at, m.deleted_at
FROM messages m
WHERE m.tenant_id = (SELECT tertulia_tenant_id()) AND m.session_id = $1 AND m.seq < $2
ORDER BY m.seq DESC
LIMIT $3
