CREATE TABLE meetings (
    tenant_id  uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    title      text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 500),
    starts_at  timestamptz NOT NULL DEFAULT now(),
    -- As planned; null for an open end.
    ends_at    timestamptz CHECK (ends_at >= starts_at),
    -- When it really ended.
    ended_at   timestamptz,
    metadata   jsonb NOT NULL DEFAULT '{}' CHECK (tertulia_is_metadata(metadata)),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX meetings_newest ON meetings (tenant_id, created_at DESC, id DESC);
CREATE INDEX meetings_by_start ON meetings (tenant_id, starts_at DESC, id DESC);

CREATE TABLE meeting_participants (
    tenant_id  uuid NOT NULL,
    meeting_id uuid NOT NULL,
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Null for a guest.
    user_id    uuid,
    name       text NOT NULL DEFAULT '' CHECK (char_length(name) <= 200),
    role       text NOT NULL DEFAULT 'participant' CHECK (role IN ('host', 'participant')),
    joined_at  timestamptz,
    left_at    timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, meeting_id, id),
    FOREIGN KEY (tenant_id, meeting_id) REFERENCES meetings ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE SET NULL (user_id)
);
-- A person is in a meeting once; also the meetings of a person.
CREATE UNIQUE INDEX meeting_participants_of_user ON meeting_participants (tenant_id, user_id, meeting_id)
    WHERE user_id IS NOT NULL;

CALL tertulia_secure('meetings');
CALL tertulia_secure('meeting_participants');
GRANT SELECT, INSERT, UPDATE, DELETE ON meetings, meeting_participants TO tertulia_app;
GRANT SELECT ON meetings, meeting_participants TO tertulia_service;
