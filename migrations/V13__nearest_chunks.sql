-- Vectors for searches that Postgres answers.

-- An index has one number of dimensions; 256 is the default encoder's. Others get theirs from the server's upkeep, which
-- also builds them anew once the table has grown: centroids of an almost empty table are useless.
CREATE INDEX knowledge_chunks_nearest_256 ON knowledge_chunks
    USING ivfflat ((embedding::vector(256)) vector_cosine_ops) WITH (lists = 100)
    WHERE vector_dims(embedding) = 256;

-- The chunks nearest to the question, nearest first; `similarity` is the cosine.
--
-- A knowledge base of up to 10,000 chunks is scanned, exactly. A larger one is asked by the index, with many probes: the
-- default of one finds less than half. The index knows neither tenant nor knowledge base nor filter, so where it comes
-- back with too few, everything is scanned after all: if as many as asked for match, so many are found.
CREATE FUNCTION tertulia_nearest_chunks(base uuid, generation uuid, question vector, filter jsonb, hits bigint)
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
                ORDER BY (c.embedding::vector(%1$s)) <=> $1::vector(%1$s)
                LIMIT $6
            ) AS near
        $query$, dimensions) INTO ids, distances USING question, tenant, base, generation, filter, hits;
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
    ORDER BY c.embedding <=> question, c.id
    LIMIT hits;
END
$$;
REVOKE ALL ON FUNCTION tertulia_nearest_chunks FROM public;
GRANT EXECUTE ON FUNCTION tertulia_nearest_chunks TO tertulia_app;
