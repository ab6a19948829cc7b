-- Another encoder's generation is built beside the active one, chunk by chunk, by one server at a time, and made the active
-- one when it is complete. What is needed for that stands in its row, so any server can go on where another stopped.
SET LOCAL lock_timeout = '5s';
ALTER TABLE embedding_generations
    ADD COLUMN state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'building', 'retired')),
    -- The generation whose chunks are read, and up to where they are: the last one's version and id.
    ADD COLUMN source_id uuid,
    ADD COLUMN cursor_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN cursor_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    -- Who works on it, and until when nobody else does. A lease and not a lock, because poolers keep no sessions.
    ADD COLUMN builder uuid,
    ADD COLUMN leased_until timestamptz,
    -- What keeps it from going on, for people to read.
    ADD COLUMN problem text;

CREATE UNIQUE INDEX embedding_generations_building ON embedding_generations (tenant_id, knowledge_base_id)
    WHERE state = 'building';
CREATE INDEX embedding_generations_due ON embedding_generations (tenant_id, knowledge_base_id, id) WHERE state <> 'active';

GRANT INSERT (state), UPDATE (state) ON embedding_generations TO tertulia_app;
GRANT UPDATE (state, source_id, cursor_version, cursor_id, builder, leased_until, problem)
    ON embedding_generations TO tertulia_service;
