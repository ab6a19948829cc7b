INSERT INTO meeting_participants (tenant_id, meeting_id, id, user_id, name, role, joined_at, left_at)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, $5, $6, $7)
RETURNING id, user_id, name, role, joined_at, left_at, created_at
