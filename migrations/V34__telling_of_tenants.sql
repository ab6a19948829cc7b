-- Tells servers, which remember what a tenant may, that its tier, name or settings changed, or that it is gone.
SET LOCAL lock_timeout = '5s';
CREATE FUNCTION tenants_notify() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tertulia_tenants', OLD.id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_update AFTER UPDATE ON tenants FOR EACH ROW
WHEN ((OLD.id, OLD.slug, OLD.name, OLD.tier, OLD.settings)
    IS DISTINCT FROM (NEW.id, NEW.slug, NEW.name, NEW.tier, NEW.settings))
EXECUTE FUNCTION tenants_notify();
CREATE TRIGGER notify_delete AFTER DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION tenants_notify();
