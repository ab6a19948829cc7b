DELETE FROM meeting_participants
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND meeting_id = $1 AND id = $2
