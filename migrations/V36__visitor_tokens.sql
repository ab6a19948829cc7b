-- What visitors' tokens are signed with, and until when the secrets before the current ones hold.
SET LOCAL lock_timeout = '5s';
ALTER TABLE widgets
    -- The current one, then the one before it. Each widget has its own, also those that older servers make.
    ADD COLUMN signing_secrets bytea[] NOT NULL
        DEFAULT ARRAY[sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))]
        CHECK (cardinality(signing_secrets) BETWEEN 1 AND 2),
    ADD COLUMN signing_overlap_until timestamptz,
    ADD COLUMN identity_overlap_until timestamptz;
-- A browser asks whether a page may ask before it says whose widget it shows.
CREATE INDEX widgets_of_origin ON widgets USING gin (allowed_origins);

-- Puts another secret in the place of the current one, which holds for `overlap` seconds more. With the owner's rights,
-- because the application role reads no secret. False if the tenant has no such widget.
CREATE FUNCTION tertulia_rotate_widget_secret(of_widget uuid, kind text, new_secret bytea, overlap double precision)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => overlap);
    left_over integer := CASE WHEN overlap > 0 THEN 1 ELSE 0 END;
BEGIN
    IF kind = 'identity' THEN
        UPDATE widgets w
        SET identity_secrets = ARRAY[new_secret] || w.identity_secrets[1:left_over], identity_overlap_until = until,
            updated_at = clock_timestamp()
        WHERE w.tenant_id = tertulia_tenant_id() AND w.id = of_widget;
    ELSE
        UPDATE widgets w
        SET signing_secrets = ARRAY[new_secret] || w.signing_secrets[1:left_over], signing_overlap_until = until,
            updated_at = clock_timestamp()
        WHERE w.tenant_id = tertulia_tenant_id() AND w.id = of_widget;
    END IF;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION tertulia_rotate_widget_secret FROM public;
GRANT EXECUTE ON FUNCTION tertulia_rotate_widget_secret TO tertulia_app;

-- Tells servers, which remember what they check tokens with, that a widget changed or is gone, or that its origins are
-- new ones.
CREATE FUNCTION widgets_notify() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tertulia_widgets', coalesce(OLD.tenant_id, NEW.tenant_id) || ' ' || coalesce(OLD.id, NEW.id));
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_change AFTER INSERT OR UPDATE OR DELETE ON widgets FOR EACH ROW EXECUTE FUNCTION widgets_notify();
