-- For each number of dimensions that any generation has: how many chunks there are, and on how many its index was built,
-- which is null where there is no index and 0 where nobody has noted it.
SELECT
    g.dimensions,
    sum(g.chunk_count)::bigint AS chunk_count,
    CASE WHEN i.indexrelid IS NOT NULL
        THEN coalesce(substring(obj_description(i.indexrelid, 'pg_class') FROM '^built on (\d{1,18}) chunks$')::bigint, 0)
    END AS built_on
FROM embedding_generations g
LEFT JOIN pg_index i
    ON i.indexrelid = to_regclass('public.knowledge_chunks_nearest_' || g.dimensions) AND i.indisvalid
GROUP BY g.dimensions, i.indexrelid
ORDER BY g.dimensions
