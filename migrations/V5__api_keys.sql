CREATE TABLE api_keys (
    tenant_id     uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Finds the row before the tenant is known, so it is unique over all tenants.
    public_id     text NOT NULL UNIQUE,
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    name          text NOT NULL DEFAULT '',
    scopes        text[] NOT NULL DEFAULT '{}',
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX api_keys_newest ON api_keys (tenant_id, created_at DESC, id DESC);

-- Keys are read before there is a tenant and managed by operators, both with the service role. The application role
-- has no business with them.
CALL tertulia_secure('api_keys');
GRANT SELECT, INSERT, UPDATE, DELETE ON api_keys TO tertulia_service;

-- Tells servers, which remember keys, that one changed. A new key is told too: somebody may have tried it too early.
CREATE FUNCTION api_keys_notify() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('tertulia_api_keys', OLD.public_id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('tertulia_api_keys', NEW.public_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_insert AFTER INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION api_keys_notify();
CREATE TRIGGER notify_delete AFTER DELETE ON api_keys FOR EACH ROW EXECUTE FUNCTION api_keys_notify();
-- Noting that a key was used changes nothing for anybody.
CREATE TRIGGER notify_update AFTER UPDATE ON api_keys FOR EACH ROW
WHEN ((OLD.tenant_id, OLD.id, OLD.public_id, OLD.secret_sha256, OLD.scopes, OLD.expires_at, OLD.revoked_at)
    IS DISTINCT FROM
    (NEW.tenant_id, NEW.id, NEW.public_id, NEW.secret_sha256, NEW.scopes, NEW.expires_at, NEW.revoked_at))
EXECUTE FUNCTION api_keys_notify();
