-- Its sessions stay, without a meeting.
DELETE FROM meetings
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
