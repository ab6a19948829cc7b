-- What each call of a model cost. No foreign keys to what it was for: what was paid stays paid when that goes.
CREATE TABLE cost_events (
    tenant_id           uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id                  uuid NOT NULL DEFAULT gen_random_uuid(),
    kind                text NOT NULL CHECK (kind IN ('chat', 'embedding', 'rerank')),
    session_id          uuid,
    message_id          uuid,
    widget_id           uuid,
    api_key_id          uuid,
    provider            text NOT NULL CHECK (char_length(provider) BETWEEN 1 AND 100),
    model               text NOT NULL CHECK (char_length(model) BETWEEN 1 AND 200),
    -- All that went in, of which so many were cached; and all that came out, of which so many were thought.
    input_tokens        bigint NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
    cached_input_tokens bigint NOT NULL DEFAULT 0 CHECK (cached_input_tokens BETWEEN 0 AND input_tokens),
    output_tokens       bigint NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    reasoning_tokens    bigint NOT NULL DEFAULT 0 CHECK (reasoning_tokens BETWEEN 0 AND output_tokens),
    -- Whether they were counted here, because the provider gave no figures.
    is_estimated        boolean NOT NULL DEFAULT false,
    cost_nanodollars    bigint NOT NULL CHECK (cost_nanodollars >= 0),
    -- The version of the table that it was priced by, so that later prices change no past.
    price_version       text NOT NULL CHECK (char_length(price_version) BETWEEN 1 AND 100),
    -- One call is settled once.
    call_id             uuid NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, call_id)
);
CREATE INDEX cost_events_newest ON cost_events (tenant_id, created_at DESC, id DESC);
CREATE INDEX cost_events_of_session ON cost_events (tenant_id, session_id, created_at DESC, id DESC)
    WHERE session_id IS NOT NULL;

-- The same, rolled up.
CREATE TABLE cost_summaries (
    tenant_id        uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    period_start     timestamptz NOT NULL,
    period_end       timestamptz NOT NULL CHECK (period_end > period_start),
    kind             text NOT NULL CHECK (kind IN ('chat', 'embedding', 'rerank')),
    provider         text NOT NULL CHECK (char_length(provider) BETWEEN 1 AND 100),
    model            text NOT NULL CHECK (char_length(model) BETWEEN 1 AND 200),
    calls            bigint NOT NULL CHECK (calls >= 0),
    input_tokens     bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens    bigint NOT NULL CHECK (output_tokens >= 0),
    cost_nanodollars bigint NOT NULL CHECK (cost_nanodollars >= 0),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, period_start, period_end, kind, provider, model)
);

CALL tertulia_secure('cost_events');
CALL tertulia_secure('cost_summaries');
GRANT SELECT, INSERT ON cost_events TO tertulia_app;
GRANT SELECT ON cost_summaries TO tertulia_app;
GRANT SELECT, INSERT ON cost_events TO tertulia_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON cost_summaries TO tertulia_service;
