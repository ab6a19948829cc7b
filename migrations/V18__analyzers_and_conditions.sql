-- The language of a knowledge base's words, and what a question demands of hits: its phrases, and nothing it excludes.
-- Functions that older servers call stay as they are; these have other parameters.
SET LOCAL lock_timeout = '5s';

-- Each is also the name of a text search configuration. Never changed: words are made with it as they are written.
ALTER TABLE knowledge_bases ADD COLUMN analyzer text NOT NULL DEFAULT 'english'
    CONSTRAINT knowledge_bases_analyzer CHECK (analyzer IN (
        'english', 'simple', 'arabic', 'danish', 'dutch', 'finnish', 'french', 'german', 'greek', 'hungarian',
        'italian', 'norwegian', 'portuguese', 'romanian', 'russian', 'spanish', 'swedish', 'tamil', 'turkish'
    ));
GRANT INSERT (analyzer) ON knowledge_bases TO tertulia_app, tertulia_service;

CREATE FUNCTION tertulia_configuration(analyzer text) RETURNS regconfig
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN ('pg_catalog.' || analyzer)::regconfig;

CREATE FUNCTION tertulia_words(analyzer text, title text, heading text, content text) RETURNS tsvector
LANGUAGE sql STABLE PARALLEL SAFE
RETURN setweight(to_tsvector(tertulia_configuration(analyzer), coalesce(title, '')), 'A')
    || setweight(to_tsvector(tertulia_configuration(analyzer), heading), 'B')
    || to_tsvector(tertulia_configuration(analyzer), content);

CREATE OR REPLACE FUNCTION knowledge_chunks_stamp() RETURNS trigger
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
        SELECT b.version, b.analyzer, g.dimensions, d.title, d.knowledge_base_id AS document_base INTO seen
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
        NEW.words := public.tertulia_words(seen.analyzer, seen.title, NEW.heading, NEW.content);
    END IF;
    RETURN NEW;
END
$$;
DROP FUNCTION tertulia_words(text, text, text);

-- Any of the question's words, 64 at most, and what begins like the last one if that is still being typed; null if it
-- has none that count.
CREATE FUNCTION tertulia_any_word(configuration regconfig, question text, is_prefix boolean) RETURNS tsquery
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN (
    SELECT string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''' || ending, ' | ')::tsquery
    FROM (
        (
            SELECT lexeme, '' AS ending
            FROM unnest(to_tsvector(configuration, question))
            ORDER BY positions[1]
            LIMIT 64
        )
        UNION ALL
        (
            SELECT lexeme, ':*'
            FROM unnest(to_tsvector('pg_catalog.simple'::regconfig, question))
            WHERE is_prefix
            ORDER BY positions[cardinality(positions)] DESC
            LIMIT 1
        )
    ) AS words
);

-- Each of the phrases and none of what is excluded; null if that leaves out nothing.
CREATE FUNCTION tertulia_condition(configuration regconfig, phrases text[], excluded text[]) RETURNS tsquery
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET client_min_messages = warning
AS $$
DECLARE
    condition tsquery := '';
    part text;
BEGIN
    FOREACH part IN ARRAY phrases LOOP
        condition := condition && phraseto_tsquery(configuration, part);
    END LOOP;
    FOREACH part IN ARRAY excluded LOOP
        condition := condition && !! phraseto_tsquery(configuration, part);
    END LOOP;
    RETURN CASE WHEN numnode(condition) > 0 THEN condition END;
END
$$;

-- As its namesake, which says why it has the owner's rights.
CREATE FUNCTION tertulia_keyword_hits(
    base uuid, generation uuid, configuration regconfig, question text, is_prefix boolean, filter jsonb,
    condition tsquery, hits bigint
) RETURNS TABLE (chunk_id uuid, score real)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    tenant uuid := tertulia_tenant_id();
    asked tsquery := tertulia_any_word(configuration, question, is_prefix);
    wanted tsquery := asked && coalesce(condition, '');
BEGIN
    IF asked IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    -- Weights of text, of nothing, of headings and of the title; 32: rank / (rank + 1).
    SELECT c.id, ts_rank('{0.3, 0.3, 0.6, 1}', c.words, asked, 32)
    FROM knowledge_chunks c
    WHERE c.tenant_id = tenant AND c.knowledge_base_id = base AND c.generation_id = generation AND c.words @@ wanted
        AND (filter IS NULL OR tertulia_matches((
            SELECT d.metadata FROM documents d WHERE d.tenant_id = c.tenant_id AND d.id = c.document_id
        ) || c.metadata, filter))
    ORDER BY 2 DESC, 1
    LIMIT hits;
END
$$;
REVOKE ALL ON FUNCTION tertulia_keyword_hits(uuid, uuid, regconfig, text, boolean, jsonb, tsquery, bigint) FROM public;
GRANT EXECUTE ON FUNCTION tertulia_keyword_hits(uuid, uuid, regconfig, text, boolean, jsonb, tsquery, bigint)
    TO tertulia_app;

-- As its namesake, of the chunks that fulfil `condition`.
CREATE FUNCTION tertulia_nearest_chunks(
    base uuid, generation uuid, question vector, filter jsonb, condition tsquery, hits bigint
)
RETURNS TABLE (chunk_id uuid, similarity double precision)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    tenant uuid := tertulia_tenant_id();
    dimensions integer := vector_dims(question);
    is_large boolean := (
        SELECT g.chunk_count > 10000
        FROM embedding_generations g
        WHERE g.tenant_id = tenant AND g.knowledge_base_id = base AND g.id = generation
    );
    ids uuid[];
    distances double precision[];
BEGIN
    IF is_large AND to_regclass('public.knowledge_chunks_nearest_' || dimensions) IS NOT NULL THEN
        PERFORM set_config('ivfflat.probes', '40', true);
        EXECUTE format($query$
            SELECT array_agg(near.id), array_agg(near.distance)
            FROM (
                SELECT c.id, (c.embedding::vector(%1$s)) <=> $1::vector(%1$s) AS distance
                FROM knowledge_chunks c
                WHERE c.tenant_id = $2 AND c.knowledge_base_id = $3 AND c.generation_id = $4
                    AND vector_dims(c.embedding) = %1$s
                    AND ($5 IS NULL OR tertulia_matches((
                        SELECT d.metadata FROM documents d WHERE d.tenant_id = c.tenant_id AND d.id = c.document_id
                    ) || c.metadata, $5))
                    AND ($7 IS NULL OR c.words @@ $7)
                ORDER BY (c.embedding::vector(%1$s)) <=> $1::vector(%1$s)
                LIMIT $6
            ) AS near
        $query$, dimensions) INTO ids, distances USING question, tenant, base, generation, filter, hits, condition;
        IF cardinality(ids) >= hits THEN
            RETURN QUERY
            SELECT near.id, 1 - near.distance
            FROM unnest(ids, distances) AS near (id, distance)
            ORDER BY near.distance, near.id;
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
    -- Without the index's cast, so that it cannot be used.
    SELECT c.id, 1 - (c.embedding <=> question)
    FROM knowledge_chunks c
    WHERE c.tenant_id = tenant AND c.knowledge_base_id = base AND c.generation_id = generation
        AND (filter IS NULL OR tertulia_matches((
            SELECT d.metadata FROM documents d WHERE d.tenant_id = c.tenant_id AND d.id = c.document_id
        ) || c.metadata, filter))
        AND (condition IS NULL OR c.words @@ condition)
    ORDER BY c.embedding <=> question, c.id
    LIMIT hits;
END
$$;
REVOKE ALL ON FUNCTION tertulia_nearest_chunks(uuid, uuid, vector, jsonb, tsquery, bigint) FROM public;
GRANT EXECUTE ON FUNCTION tertulia_nearest_chunks(uuid, uuid, vector, jsonb, tsquery, bigint) TO tertulia_app;
