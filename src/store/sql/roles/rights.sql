-- What the current role can do, counting the roles it could switch to.
SELECT
    current_user::text,
    EXISTS (SELECT FROM pg_roles r WHERE r.rolsuper AND pg_has_role(current_user, r.oid, 'MEMBER')),
    EXISTS (SELECT FROM pg_roles r WHERE r.rolbypassrls AND pg_has_role(current_user, r.oid, 'MEMBER')),
    ARRAY(
        SELECT c.oid::regclass::text
        FROM pg_class c
        WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND pg_has_role(current_user, c.relowner, 'MEMBER')
        ORDER BY 1
    ),
    EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'tertulia_app' AND pg_has_role(current_user, r.oid, 'USAGE')),
    EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'tertulia_service' AND pg_has_role(current_user, r.oid, 'MEMBER'))
