-- Who changed what. Nobody's role but the owner's can change or delete an entry.
CREATE TABLE audit_log (
    tenant_id   uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    -- `operator` is somebody at the command line, `server` the server on its own.
    actor_kind  text NOT NULL CHECK (actor_kind IN ('user', 'api_key', 'visitor', 'operator', 'server')),
    -- The person's, the key's, or the session's of a visitor. No foreign key: entries outlive those they tell of.
    actor_id    uuid,
    -- Such as `message.edit`.
    action      text COLLATE "C" NOT NULL CHECK (action ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'),
    -- What was changed: a message, a user and so on.
    resource_id uuid,
    request_id  text CHECK (octet_length(request_id) <= 128),
    address     inet,
    -- What changed, as it was and as it became; null where there was or is nothing.
    before      jsonb,
    after       jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX audit_log_newest ON audit_log (tenant_id, created_at DESC, id DESC);
CREATE INDEX audit_log_of_resource ON audit_log (tenant_id, resource_id, created_at DESC, id DESC);
CREATE INDEX audit_log_of_actor ON audit_log (tenant_id, actor_id, created_at DESC, id DESC);

CALL tertulia_secure('audit_log');
GRANT SELECT, INSERT ON audit_log TO tertulia_app, tertulia_service;
