CREATE TABLE knowledge_bases (
    tenant_id      uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id             uuid NOT NULL DEFAULT gen_random_uuid(),
    name           text NOT NULL,
    -- The generation that searches ask.
    generation_id  uuid NOT NULL,
    -- Grows with every transaction that changes what searches find; see the migration of the versions.
    version        bigint NOT NULL DEFAULT 0 CHECK (version >= 0),
    -- The transaction that took the version, by number and by time: numbers begin anew in a restored database.
    version_xid    xid8,
    versioned_at   timestamptz,
    -- Deletions up to here are no longer logged: who knows less has to start afresh.
    pruned_version bigint NOT NULL DEFAULT 0 CHECK (pruned_version BETWEEN 0 AND version),
    document_count bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name)
) WITH (fillfactor = 50); -- Versions and counts change with every write, in place while there is room on the page.
CREATE INDEX knowledge_bases_newest ON knowledge_bases (tenant_id, created_at DESC, id DESC);

-- What encoded the chunks, and into how many dimensions. Vectors of two generations are never compared; a new
-- generation is built beside the old one, then `knowledge_bases.generation_id` is switched.
CREATE TABLE embedding_generations (
    tenant_id         uuid NOT NULL,
    knowledge_base_id uuid NOT NULL,
    id                uuid NOT NULL DEFAULT gen_random_uuid(),
    encoder           text NOT NULL,
    dimensions        integer NOT NULL CHECK (dimensions BETWEEN 1 AND 16000),
    chunk_count       bigint NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, knowledge_base_id, id),
    FOREIGN KEY (tenant_id, knowledge_base_id) REFERENCES knowledge_bases ON DELETE CASCADE
) WITH (fillfactor = 50);

-- Each of the two needs the other, so this one is checked at the end of the transaction.
ALTER TABLE knowledge_bases ADD CONSTRAINT knowledge_bases_generation
    FOREIGN KEY (tenant_id, id, generation_id) REFERENCES embedding_generations DEFERRABLE INITIALLY DEFERRED;

CALL tertulia_secure('knowledge_bases');
CALL tertulia_secure('embedding_generations');
-- Counts are kept by triggers with the owner's rights, versions by a trigger whatever is written into them.
GRANT SELECT, DELETE, INSERT (tenant_id, id, name, generation_id), UPDATE (name, generation_id, version)
    ON knowledge_bases TO tertulia_app, tertulia_service;
GRANT UPDATE (pruned_version) ON knowledge_bases TO tertulia_service;
GRANT SELECT, DELETE, INSERT (tenant_id, knowledge_base_id, id, encoder, dimensions)
    ON embedding_generations TO tertulia_app, tertulia_service;
