CREATE TABLE webhooks (
    tenant_id       uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    url             text NOT NULL CHECK (url ~ '^https?://[^/]' AND octet_length(url) <= 2048),
    -- Which events it wants, such as `message.created`.
    events          text[] NOT NULL
        CHECK (cardinality(events) BETWEEN 1 AND 100 AND array_position(events, NULL) IS NULL),
    -- What deliveries are signed with: the current secret, then the one before it while that still holds.
    secrets         bytea[] NOT NULL CHECK (cardinality(secrets) BETWEEN 1 AND 2),
    -- Since when every delivery has failed; one that fails for too long is disabled.
    failing_since   timestamptz,
    disabled_at     timestamptz,
    disabled_reason text CHECK (char_length(disabled_reason) <= 500),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX webhooks_newest ON webhooks (tenant_id, created_at DESC, id DESC);

-- Deliveries: a row for each event and webhook, written by the transaction that the event tells of.
CREATE TABLE outbox (
    tenant_id    uuid NOT NULL,
    id           uuid NOT NULL DEFAULT gen_random_uuid(),
    webhook_id   uuid NOT NULL,
    -- The same for all webhooks that are told; receivers know by it what they have seen.
    event_id     uuid NOT NULL,
    event        text NOT NULL,
    payload      jsonb NOT NULL,
    state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts     integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- When to try next. Who tries moves it on first, as a lease: a server that dies leaves nothing undone.
    due_at       timestamptz NOT NULL DEFAULT now(),
    -- What came of the last try.
    last_status  smallint,
    last_error   text CHECK (char_length(last_error) <= 500),
    finished_at  timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CHECK ((state = 'pending') = (finished_at IS NULL)),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks ON DELETE CASCADE
);
CREATE INDEX outbox_of_webhook ON outbox (tenant_id, webhook_id, created_at DESC, id DESC);
CREATE INDEX outbox_of_event ON outbox (tenant_id, event_id);
-- What is to be done, and what can be deleted, of all tenants.
CREATE INDEX outbox_due ON outbox (due_at) WHERE state = 'pending';
CREATE INDEX outbox_finished ON outbox (finished_at) WHERE finished_at IS NOT NULL;

CALL tertulia_secure('webhooks');
CALL tertulia_secure('outbox');
-- A secret is shown when it is made and never again; deliveries are the service role's.
GRANT SELECT (tenant_id, id, url, events, failing_since, disabled_at, disabled_reason, created_at, updated_at),
    INSERT, DELETE, UPDATE (url, events, secrets, failing_since, disabled_at, disabled_reason, updated_at)
    ON webhooks TO tertulia_app;
GRANT SELECT, UPDATE (failing_since, disabled_at, disabled_reason, updated_at) ON webhooks TO tertulia_service;
GRANT SELECT, INSERT, UPDATE (state, attempts, due_at, finished_at) ON outbox TO tertulia_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO tertulia_service;
