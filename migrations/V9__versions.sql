-- A transaction that changes what a search finds takes the next version of the knowledge base once, under the lock of
-- the knowledge base's row, and stamps its chunks and deletions with it. The lock is held until the commit, so versions
-- become visible in their order: who has seen one has seen all that are smaller. Triggers do it, so any client may write.

-- Any change of `version`, or of the generation, asks for the transaction's version, which is taken at most once. Where
-- a savepoint is rolled back, so is a version taken within it, with all that was stamped with it.
CREATE FUNCTION knowledge_bases_take_version() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    is_asked boolean := (NEW.version, NEW.generation_id) IS DISTINCT FROM (OLD.version, OLD.generation_id);
    is_taken boolean := (OLD.version_xid, OLD.versioned_at)
        IS NOT DISTINCT FROM (pg_current_xact_id(), transaction_timestamp());
BEGIN
    IF (NEW.tenant_id, NEW.id) IS DISTINCT FROM (OLD.tenant_id, OLD.id) THEN
        RAISE EXCEPTION 'the id of a knowledge base cannot change' USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.version := OLD.version;
    NEW.version_xid := OLD.version_xid;
    NEW.versioned_at := OLD.versioned_at;
    IF is_asked AND NOT is_taken THEN
        NEW.version := OLD.version + 1;
        NEW.version_xid := pg_current_xact_id();
        NEW.versioned_at := transaction_timestamp();
        PERFORM pg_notify('tertulia_knowledge', format('%s %s %s', NEW.tenant_id, NEW.id, NEW.version));
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER take_version BEFORE UPDATE ON knowledge_bases
    FOR EACH ROW EXECUTE FUNCTION knowledge_bases_take_version();

-- Wakes servers that have it loaded, which then find it gone.
CREATE FUNCTION knowledge_bases_notify_deletion() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tertulia_knowledge', format('%s %s %s', OLD.tenant_id, OLD.id, OLD.version));
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_deletion AFTER DELETE ON knowledge_bases
    FOR EACH ROW EXECUTE FUNCTION knowledge_bases_notify_deletion();

-- What the words of a chunk are found by: title, heading and text, in this order of weight.
CREATE FUNCTION tertulia_words(title text, heading text, content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN setweight(to_tsvector('pg_catalog.english'::regconfig, coalesce(title, '')), 'A')
    || setweight(to_tsvector('pg_catalog.english'::regconfig, heading), 'B')
    || to_tsvector('pg_catalog.english'::regconfig, content);

-- Runs with the writer's rights: row security hides another tenant's knowledge base, so none can be touched.
CREATE FUNCTION knowledge_chunks_stamp() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    seen record;
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.tenant_id, NEW.knowledge_base_id, NEW.generation_id, NEW.document_id, NEW.id)
        IS DISTINCT FROM (OLD.tenant_id, OLD.knowledge_base_id, OLD.generation_id, OLD.document_id, OLD.id)
    THEN
        RAISE EXCEPTION 'a chunk cannot change its id or move' USING
            ERRCODE = 'restrict_violation', HINT = 'Delete it and insert a new one.';
    END IF;
    LOOP
        SELECT b.version, g.dimensions, d.title, d.knowledge_base_id AS document_base INTO seen
        FROM public.knowledge_bases b
        LEFT JOIN public.embedding_generations g
            ON g.tenant_id = b.tenant_id AND g.knowledge_base_id = b.id AND g.id = NEW.generation_id
        LEFT JOIN public.documents d ON d.tenant_id = b.tenant_id AND d.id = NEW.document_id
        WHERE b.tenant_id = NEW.tenant_id AND b.id = NEW.knowledge_base_id
            AND b.version_xid = pg_current_xact_id() AND b.versioned_at = transaction_timestamp();
        EXIT WHEN FOUND;
        -- The version is not taken yet. What was read before the lock is of no use, so it is all read again.
        UPDATE public.knowledge_bases b SET version = b.version + 1
        WHERE b.tenant_id = NEW.tenant_id AND b.id = NEW.knowledge_base_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no knowledge base %', NEW.knowledge_base_id
                USING ERRCODE = 'foreign_key_violation';
        END IF;
    END LOOP;
    IF seen.document_base IS DISTINCT FROM NEW.knowledge_base_id THEN
        RAISE EXCEPTION 'the knowledge base has no document %', NEW.document_id
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    -- That the generation is there is for the foreign key to say.
    IF public.vector_dims(NEW.embedding) <> seen.dimensions THEN
        RAISE EXCEPTION 'the embedding has % dimensions, its generation has %',
            public.vector_dims(NEW.embedding), seen.dimensions USING ERRCODE = 'check_violation';
    END IF;
    NEW.version := seen.version;
    -- Words cost more than all the rest. On an update they are made again only where they can differ; null says that the
    -- document's title did.
    IF TG_OP = 'UPDATE' AND NEW.words IS NOT NULL
        AND (NEW.heading, NEW.content) IS NOT DISTINCT FROM (OLD.heading, OLD.content)
    THEN
        NEW.words := OLD.words;
    ELSE
        NEW.words := public.tertulia_words(seen.title, NEW.heading, NEW.content);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON knowledge_chunks
    FOR EACH ROW EXECUTE FUNCTION knowledge_chunks_stamp();

-- A chunk shows its document's title, address and metadata, so where these change it does too. The lock comes first: a
-- chunk that another transaction is adding just now would be missed otherwise, and keep the old title.
CREATE FUNCTION documents_stamp_chunks() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.knowledge_bases b SET version = b.version + 1
    WHERE b.tenant_id = NEW.tenant_id AND b.id = NEW.knowledge_base_id;
    UPDATE public.knowledge_chunks c
    SET words = CASE WHEN NEW.title = OLD.title THEN c.words END
    WHERE c.tenant_id = NEW.tenant_id AND c.document_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER stamp_chunks AFTER UPDATE ON documents FOR EACH ROW
WHEN ((OLD.external_id, OLD.title, OLD.source_url, OLD.metadata)
    IS DISTINCT FROM (NEW.external_id, NEW.title, NEW.source_url, NEW.metadata))
EXECUTE FUNCTION documents_stamp_chunks();

CREATE FUNCTION documents_refuse_move() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a document cannot change its id or move to another knowledge base' USING
        ERRCODE = 'restrict_violation', HINT = 'Delete it and insert a new one.';
END
$$;
CREATE TRIGGER refuse_move BEFORE UPDATE ON documents FOR EACH ROW
WHEN ((OLD.tenant_id, OLD.knowledge_base_id, OLD.id) IS DISTINCT FROM (NEW.tenant_id, NEW.knowledge_base_id, NEW.id))
EXECUTE FUNCTION documents_refuse_move();

-- With the owner's rights, because nobody else may write the log. A knowledge base that is deleted itself takes no
-- version and needs no log.
CREATE FUNCTION knowledge_chunks_log_deletions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    WITH taken AS (
        UPDATE knowledge_bases b SET version = b.version + 1
        FROM (SELECT DISTINCT tenant_id, knowledge_base_id FROM gone) AS touched
        WHERE b.tenant_id = touched.tenant_id AND b.id = touched.knowledge_base_id
        RETURNING b.tenant_id, b.id, b.version
    )
    INSERT INTO chunk_deletions (tenant_id, knowledge_base_id, version, chunk_id)
    SELECT taken.tenant_id, taken.id, taken.version, gone.id
    FROM gone JOIN taken ON gone.tenant_id = taken.tenant_id AND gone.knowledge_base_id = taken.id
    ON CONFLICT DO NOTHING; -- Deleted, inserted and deleted again in one transaction.
    RETURN NULL;
END
$$;
CREATE TRIGGER log_deletions AFTER DELETE ON knowledge_chunks
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION knowledge_chunks_log_deletions();

-- TRUNCATE tells nobody which rows went.
CREATE FUNCTION tertulia_refuse_truncate() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% cannot be truncated', TG_TABLE_NAME USING
        ERRCODE = 'restrict_violation', HINT = 'Use DELETE, or delete the knowledge base.';
END
$$;
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON knowledge_chunks
    FOR EACH STATEMENT EXECUTE FUNCTION tertulia_refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON chunk_deletions
    FOR EACH STATEMENT EXECUTE FUNCTION tertulia_refuse_truncate();
