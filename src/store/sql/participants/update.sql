-- A value that is null stays as it is.
UPDATE meeting_participants
SET name = coalesce($3, name), role = coalesce($4, role), joined_at = coalesce($5, joined_at),
    left_at = coalesce($6, left_at)
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND meeting_id = $1 AND id = $2
RETURNING id, user_id, name, role, joined_at, left_at, created_at
