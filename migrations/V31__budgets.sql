CREATE TABLE budgets (
    tenant_id            uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id                   uuid NOT NULL DEFAULT gen_random_uuid(),
    -- What it limits: everything of the tenant, or one widget, key or session, of which `scope_id` is the id.
    scope                text NOT NULL CHECK (scope IN ('tenant', 'widget', 'api_key', 'session')),
    scope_id             uuid NOT NULL,
    period               text NOT NULL CHECK (period IN ('day', 'week', 'month', 'total')),
    limit_nanodollars    bigint NOT NULL CHECK (limit_nanodollars >= 0),
    -- Whether calls past it are refused, or only told of.
    is_hard              boolean NOT NULL DEFAULT true,
    -- Per cent of the limit at which an alert is due.
    thresholds           smallint[] NOT NULL DEFAULT '{50,80,100}'
        CHECK (cardinality(thresholds) <= 10 AND 0 < ALL (thresholds) AND 1000 >= ALL (thresholds)),
    -- The period that the two sums below are of. They stay when the limit changes.
    period_start         timestamptz NOT NULL DEFAULT now(),
    spent_nanodollars    bigint NOT NULL DEFAULT 0 CHECK (spent_nanodollars >= 0),
    -- By calls that are under way.
    reserved_nanodollars bigint NOT NULL DEFAULT 0 CHECK (reserved_nanodollars >= 0),
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, scope, scope_id, period),
    CHECK (scope <> 'tenant' OR scope_id = tenant_id)
) WITH (fillfactor = 50); -- Sums change with every call, in place while there is room on the page.
CREATE INDEX budgets_newest ON budgets (tenant_id, created_at DESC, id DESC);

CREATE TABLE budget_alerts (
    tenant_id         uuid NOT NULL,
    id                uuid NOT NULL DEFAULT gen_random_uuid(),
    budget_id         uuid NOT NULL,
    period_start      timestamptz NOT NULL,
    threshold         smallint NOT NULL CHECK (threshold BETWEEN 1 AND 1000),
    spent_nanodollars bigint NOT NULL CHECK (spent_nanodollars >= 0),
    limit_nanodollars bigint NOT NULL CHECK (limit_nanodollars >= 0),
    triggered_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    -- Once for each threshold and period.
    UNIQUE (tenant_id, budget_id, period_start, threshold),
    FOREIGN KEY (tenant_id, budget_id) REFERENCES budgets ON DELETE CASCADE
);
CREATE INDEX budget_alerts_newest ON budget_alerts (tenant_id, triggered_at DESC, id DESC);

CALL tertulia_secure('budgets');
CALL tertulia_secure('budget_alerts');
GRANT SELECT, INSERT, UPDATE, DELETE ON budgets TO tertulia_app;
GRANT SELECT, INSERT ON budget_alerts TO tertulia_app;
GRANT SELECT, UPDATE ON budgets TO tertulia_service;
GRANT SELECT, INSERT ON budget_alerts TO tertulia_service;
