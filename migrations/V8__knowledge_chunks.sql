CREATE TABLE knowledge_chunks (
    tenant_id         uuid NOT NULL,
    knowledge_base_id uuid NOT NULL,
    generation_id     uuid NOT NULL,
    document_id       uuid NOT NULL,
    id                uuid NOT NULL DEFAULT gen_random_uuid(),
    ordinal           integer NOT NULL CHECK (ordinal >= 0),
    -- Headings that the chunk stands under, outermost first, joined by ' › '.
    heading           text NOT NULL DEFAULT '',
    content           text NOT NULL,
    -- As many dimensions as the generation says, which a trigger checks: the type of a column knows only one number.
    embedding         vector NOT NULL,
    -- Lies on top of the document's.
    metadata          jsonb NOT NULL DEFAULT '{}' CHECK (tertulia_is_metadata(metadata)),
    -- The two below are the triggers' own, whatever a client writes into them.
    version           bigint NOT NULL,
    words             tsvector NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, document_id, generation_id, ordinal),
    FOREIGN KEY (tenant_id, knowledge_base_id, generation_id) REFERENCES embedding_generations ON DELETE CASCADE,
    -- That the document is one of the same knowledge base is for a trigger to check. As a third column here it would have
    -- a planner without statistics prefer an index in which it reads the whole knowledge base for each chunk.
    FOREIGN KEY (tenant_id, document_id) REFERENCES documents ON DELETE CASCADE
);
-- What is past a watermark, in the order of versions; also what a knowledge base and a generation hold.
CREATE INDEX knowledge_chunks_changes
    ON knowledge_chunks (tenant_id, knowledge_base_id, generation_id, version, id);
-- A scan for the nearest reads every vector, so they stay in the row and the texts move out first.
ALTER TABLE knowledge_chunks ALTER COLUMN embedding SET STORAGE MAIN;

-- Chunks that are gone, until the log is pruned.
CREATE TABLE chunk_deletions (
    tenant_id         uuid NOT NULL,
    knowledge_base_id uuid NOT NULL,
    version           bigint NOT NULL,
    chunk_id          uuid NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, knowledge_base_id, version, chunk_id),
    FOREIGN KEY (tenant_id, knowledge_base_id) REFERENCES knowledge_bases ON DELETE CASCADE
);

CALL tertulia_secure('knowledge_chunks');
CALL tertulia_secure('chunk_deletions');
GRANT SELECT, INSERT, UPDATE, DELETE ON knowledge_chunks TO tertulia_app, tertulia_service;
GRANT SELECT ON chunk_deletions TO tertulia_app;
GRANT SELECT, DELETE ON chunk_deletions TO tertulia_service;
