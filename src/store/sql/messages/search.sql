-- Newest first. Row security decides a second time who may see what the function has found.
SELECT m.id, m.session_id, m.seq, m.role, m.user_id, m.sender, m.content, m.client_id, m.metadata::text, m.timestamp,
    m.revision, m.edited_at, m.deleted_at
FROM tertulia_message_hits($1, $2, $3, $4) AS hit
JOIN messages m ON m.tenant_id = (SELECT tertulia_tenant_id()) AND m.id = hit.message_id
ORDER BY m.timestamp DESC, m.id DESC
