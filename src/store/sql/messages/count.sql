-- Numbers have no gap, and those of deleted messages stay.
SELECT last_seq
FROM sessions
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
