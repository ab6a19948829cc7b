-- Two groups that hold rights; login roles are members of one of them and own nothing. Roles belong to the whole
-- cluster, so another database may have made them, even at this very moment.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tertulia_app', 'tertulia_service'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

-- No statement runs for ever and no forgotten transaction holds its locks. A setting of a group is not handed on to its
-- members, so it stands on the database, and the owner, whose migrations may take longer, is let off.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET statement_timeout = ''30s''', current_database());
    EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = ''60s''', current_database());
    EXECUTE format('ALTER ROLE %I IN DATABASE %I SET statement_timeout = 0', current_user, current_database());
END
$$;
