-- Groups that policies name, the owner that migrates, and the logins of the two pools. See store/mod.rs for what each may.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tertulia_app', 'tertulia_service'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
    FOREACH name IN ARRAY ARRAY['tertulia_owner', 'tertulia_user', 'tertulia_svc'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
    END LOOP;
END
$$;
ALTER ROLE tertulia_owner CREATEROLE;
GRANT tertulia_app TO tertulia_user;
GRANT tertulia_service TO tertulia_svc;
