-- Questions that nobody could answer, each once, however often and in whatever words it was asked.
CREATE TABLE unresolved_problems (
    tenant_id        uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id               uuid NOT NULL DEFAULT gen_random_uuid(),
    -- In the words of who asked first.
    question         text NOT NULL CHECK (octet_length(question) BETWEEN 1 AND 8192),
    -- What it means, and to which encoder: problems are compared with open ones of the same tenant and encoder only.
    encoder          text NOT NULL,
    embedding        vector NOT NULL CHECK (vector_norm(embedding) > 0),
    state            text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'resolved', 'dismissed')),
    asked_count      bigint NOT NULL DEFAULT 1 CHECK (asked_count > 0),
    last_asked_at    timestamptz NOT NULL DEFAULT now(),
    answer           text CHECK (octet_length(answer) <= 262144),
    resolved_at      timestamptz,
    resolved_by      uuid,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CHECK ((state = 'open') = (resolved_at IS NULL)),
    FOREIGN KEY (tenant_id, resolved_by) REFERENCES users ON DELETE SET NULL (resolved_by)
);
CREATE INDEX unresolved_problems_newest ON unresolved_problems (tenant_id, created_at DESC, id DESC);
CREATE INDEX unresolved_problems_in_state ON unresolved_problems (tenant_id, state, last_asked_at DESC, id DESC);
CREATE INDEX unresolved_problems_of_user ON unresolved_problems (tenant_id, resolved_by) WHERE resolved_by IS NOT NULL;

-- Who waits for an answer.
CREATE TABLE unresolved_problem_users (
    tenant_id   uuid NOT NULL,
    problem_id  uuid NOT NULL,
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Where it was asked, and where the answer goes.
    session_id  uuid NOT NULL,
    -- The visitor of the session, so that one who asks in two sessions is told once; null for nobody in particular.
    visitor_id  text COLLATE "C" CHECK (octet_length(visitor_id) BETWEEN 1 AND 255),
    notified_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, problem_id, id),
    FOREIGN KEY (tenant_id, problem_id) REFERENCES unresolved_problems ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, session_id) REFERENCES sessions ON DELETE CASCADE
);
CREATE UNIQUE INDEX unresolved_problem_users_of_session ON unresolved_problem_users (tenant_id, session_id, problem_id);
CREATE UNIQUE INDEX unresolved_problem_users_of_visitor ON unresolved_problem_users (tenant_id, problem_id, visitor_id)
    WHERE visitor_id IS NOT NULL;
-- Those who are still to be told, in pieces.
CREATE INDEX unresolved_problem_users_waiting ON unresolved_problem_users (tenant_id, problem_id, id)
    WHERE notified_at IS NULL;

CALL tertulia_secure('unresolved_problems');
CALL tertulia_secure('unresolved_problem_users');
GRANT SELECT, INSERT, UPDATE, DELETE ON unresolved_problems, unresolved_problem_users TO tertulia_app;
GRANT SELECT ON unresolved_problems TO tertulia_service;
GRANT SELECT, UPDATE (notified_at) ON unresolved_problem_users TO tertulia_service;
