-- The tenant whose rows this transaction sees; null, which equals nothing, where none was set. Once a transaction-local
-- setting has ended, the session reads it as '' and not as null.
CREATE FUNCTION tertulia_tenant_id() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('tertulia.tenant_id', true), '')::uuid;

-- Puts a table under row security: members of tertulia_service and the owner, who migrates and whose SECURITY DEFINER
-- functions name the tenant themselves, see all rows; everybody else sees the tenant's. Each table of a tenant's data
-- calls this in its own migration. The sub-select has the setting read once per statement and not once per row.
CREATE PROCEDURE tertulia_secure(secured regclass, tenant_column name DEFAULT 'tenant_id')
LANGUAGE plpgsql AS $$
DECLARE
    own text := format('%I = (SELECT tertulia_tenant_id())', tenant_column);
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', secured);
    EXECUTE format('CREATE POLICY tenant ON %s USING (%s) WITH CHECK (%s)', secured, own, own);
    EXECUTE format('CREATE POLICY service ON %s TO tertulia_service USING (true) WITH CHECK (true)', secured);
    EXECUTE format('CREATE POLICY owner ON %s TO %I USING (true) WITH CHECK (true)', secured, current_user);
END
$$;
REVOKE ALL ON PROCEDURE tertulia_secure FROM public;
