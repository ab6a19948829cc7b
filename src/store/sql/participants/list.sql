-- In the order in which they were added, since ids grow.
SELECT id, user_id, name, role, joined_at, left_at, created_at
FROM meeting_participants
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND meeting_id = $1 AND id > $2
ORDER BY id
OFFSET $3
LIMIT $4
