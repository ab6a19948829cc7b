-- People of a tenant, and where they are logged in.

CREATE TABLE users (
    tenant_id     uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    -- In lower case, so that one address is one person; by the letters of ASCII, as servers have it.
    email         text COLLATE "C" NOT NULL
        CHECK (email = lower(email) AND octet_length(email) BETWEEN 3 AND 254 AND email LIKE '_%@_%'),
    name          text NOT NULL DEFAULT '' CHECK (char_length(name) <= 200),
    role          text NOT NULL CHECK (role IN ('owner', 'admin', 'agent', 'viewer')),
    -- Null for who has not chosen one yet.
    password_hash text CHECK (password_hash LIKE '$argon2id$%' AND octet_length(password_hash) <= 512),
    disabled_at   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, email)
);
CREATE INDEX users_newest ON users (tenant_id, created_at DESC, id DESC);

CREATE TABLE auth_sessions (
    tenant_id    uuid NOT NULL,
    id           uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id      uuid NOT NULL,
    -- Finds the row before the tenant is known, so it is unique over all tenants.
    token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
    expires_at   timestamptz NOT NULL,
    -- Roughly: written every half hour at most.
    last_used_at timestamptz NOT NULL DEFAULT now(),
    -- What the person sees in the list of logins.
    user_agent   text CHECK (octet_length(user_agent) <= 1024),
    address      inet,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX auth_sessions_of_user ON auth_sessions (tenant_id, user_id, created_at DESC, id DESC);
-- What can be deleted, of all tenants.
CREATE INDEX auth_sessions_expiry ON auth_sessions (expires_at);

CALL tertulia_secure('users');
CALL tertulia_secure('auth_sessions');
-- Logging in is the service role's: it comes before there is a tenant. The application role sets passwords and ends
-- logins, and reads neither hash.
GRANT SELECT (tenant_id, id, email, name, role, disabled_at, created_at, updated_at), DELETE,
    INSERT, UPDATE (email, name, role, password_hash, disabled_at, updated_at) ON users TO tertulia_app;
GRANT SELECT (tenant_id, id, user_id, expires_at, last_used_at, user_agent, address, created_at), DELETE
    ON auth_sessions TO tertulia_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON users, auth_sessions TO tertulia_service;

-- Tells servers, which remember logins, that one ended or is another's by now. That it was used is no news, and nobody
-- has tried a new one too early: tokens are not guessed.
CREATE FUNCTION auth_sessions_notify() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tertulia_auth_sessions', encode(OLD.token_sha256, 'hex'));
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_delete AFTER DELETE ON auth_sessions FOR EACH ROW EXECUTE FUNCTION auth_sessions_notify();
CREATE TRIGGER notify_update AFTER UPDATE ON auth_sessions FOR EACH ROW
WHEN ((OLD.tenant_id, OLD.id, OLD.user_id, OLD.token_sha256)
    IS DISTINCT FROM (NEW.tenant_id, NEW.id, NEW.user_id, NEW.token_sha256)
    OR NEW.expires_at < OLD.expires_at)
EXECUTE FUNCTION auth_sessions_notify();

-- What servers remember of a login holds its person. With the owner's rights, because the hashes of tokens are not for
-- the application role to read. Where somebody is removed, the logins go too, and tell so themselves.
CREATE FUNCTION users_notify() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM pg_notify('tertulia_auth_sessions', encode(s.token_sha256, 'hex'))
    FROM auth_sessions s
    WHERE s.tenant_id = OLD.tenant_id AND s.user_id = OLD.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_update AFTER UPDATE ON users FOR EACH ROW
WHEN ((OLD.email, OLD.name, OLD.role, OLD.password_hash, OLD.disabled_at)
    IS DISTINCT FROM (NEW.email, NEW.name, NEW.role, NEW.password_hash, NEW.disabled_at))
EXECUTE FUNCTION users_notify();
