CREATE TABLE messages (
    tenant_id  uuid NOT NULL,
    session_id uuid NOT NULL,
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    -- 1, 2, 3 and so on within its session, without a gap.
    seq        bigint NOT NULL CHECK (seq > 0),
    role       text NOT NULL CHECK (role IN ('user', 'assistant', 'agent', 'system')),
    -- The person of the tenant who wrote it.
    user_id    uuid,
    -- Who wrote it, as others see it; null where the session and the role say it.
    sender     text CHECK (char_length(sender) <= 200),
    content    text NOT NULL CHECK (octet_length(content) <= 262144),
    -- The sender's own name of it: what is sent again under it is the same message.
    client_id  text COLLATE "C" CHECK (octet_length(client_id) BETWEEN 1 AND 128),
    metadata   jsonb NOT NULL DEFAULT '{}' CHECK (tertulia_is_metadata(metadata)),
    -- When it was posted; within a session later ones have later times.
    timestamp  timestamptz NOT NULL DEFAULT now(),
    -- Which edit or deletion within its session was this message's last; 0 for none. A client that knows the session up
    -- to a revision asks for what is past it.
    revision   bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
    edited_at  timestamptz,
    -- A deleted message keeps its number and nothing else.
    deleted_at timestamptz CHECK (deleted_at IS NULL OR content = ''),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, session_id, seq),
    FOREIGN KEY (tenant_id, session_id) REFERENCES sessions ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE SET NULL (user_id)
);
CREATE UNIQUE INDEX messages_client_id ON messages (tenant_id, session_id, client_id) WHERE client_id IS NOT NULL;
CREATE INDEX messages_by_time ON messages (tenant_id, session_id, timestamp);
CREATE INDEX messages_revised ON messages (tenant_id, session_id, revision) WHERE revision > 0;
-- A tenant's messages of all sessions: for exports, and for searches to find where they start.
CREATE INDEX messages_newest ON messages (tenant_id, timestamp DESC, id DESC);
CREATE INDEX messages_of_user ON messages (tenant_id, user_id) WHERE user_id IS NOT NULL;

CALL tertulia_secure('messages');
-- Messages are changed by the function that keeps their history, and deleted with their session.
GRANT SELECT, INSERT ON messages TO tertulia_app;
GRANT SELECT ON messages TO tertulia_service;
