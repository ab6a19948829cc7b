-- Requests that must not be done twice, and what was answered, to be repeated.
CREATE TABLE idempotency_keys (
    tenant_id       uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    -- Empty for the tenant's keys and people; a visitor's session, so that no visitor is told another's answer.
    caller          text COLLATE "C" NOT NULL DEFAULT '' CHECK (octet_length(caller) <= 128),
    -- Method and pattern of the route.
    route           text COLLATE "C" NOT NULL CHECK (octet_length(route) BETWEEN 1 AND 255),
    key             text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    -- Of path and body: under one key there is one request.
    request_sha256  bytea NOT NULL CHECK (octet_length(request_sha256) = 32),
    -- Until then the request is under way; past it, and without an answer, its server is gone and another takes over.
    leased_until    timestamptz NOT NULL,
    response_status smallint CHECK (response_status BETWEEN 200 AND 599),
    -- Names and values, an object.
    response_header jsonb CHECK (jsonb_typeof(response_header) = 'object'),
    response_body   bytea CHECK (octet_length(response_body) <= 1048576),
    expires_at      timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, caller, route, key),
    CHECK ((response_status IS NULL) = (response_body IS NULL))
);
-- What can be deleted, of all tenants.
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CALL tertulia_secure('idempotency_keys');
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO tertulia_app;
GRANT SELECT, DELETE ON idempotency_keys TO tertulia_service;
