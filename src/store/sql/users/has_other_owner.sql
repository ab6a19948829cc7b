-- One who is not disabled, with a password or without: the application role cannot read which.
SELECT EXISTS (
    SELECT
    FROM users
    WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id <> $1 AND role = 'owner' AND disabled_at IS NULL
)
