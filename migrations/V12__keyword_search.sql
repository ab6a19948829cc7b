-- Full text for searches that Postgres answers.

-- Knowledge base and words in one index, so that a search reads the words of its own knowledge base only.
CREATE INDEX knowledge_chunks_words ON knowledge_chunks USING gin (tenant_id, knowledge_base_id, words);

-- Any of the question's words; null if it has none that count. Words past the 64th are left out: a question is not that
-- long, and each word is a walk through the index.
CREATE FUNCTION tertulia_any_word(question text) RETURNS tsquery
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    SELECT string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
    FROM (
        SELECT lexeme
        FROM unnest(to_tsvector('pg_catalog.english'::regconfig, question))
        ORDER BY positions[1]
        LIMIT 64
    ) AS words
);

-- The best chunks by the question's words, best first; `score` is 0 to 1.
--
-- `@@` is not leakproof, so under row security no index would be used for it (30 ms against 0.5 ms, 200,000 rows).
-- Hence the owner's rights, and the tenant of the transaction in the condition itself.
CREATE FUNCTION tertulia_keyword_hits(base uuid, generation uuid, question text, filter jsonb, hits bigint)
RETURNS TABLE (chunk_id uuid, score real)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    tenant uuid := tertulia_tenant_id();
    asked tsquery := tertulia_any_word(question);
BEGIN
    IF asked IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    -- Weights of text, of nothing, of headings and of the title; 32: rank / (rank + 1).
    SELECT c.id, ts_rank('{0.3, 0.3, 0.6, 1}', c.words, asked, 32)
    FROM knowledge_chunks c
    WHERE c.tenant_id = tenant AND c.knowledge_base_id = base AND c.generation_id = generation AND c.words @@ asked
        AND (filter IS NULL OR tertulia_matches((
            SELECT d.metadata FROM documents d WHERE d.tenant_id = c.tenant_id AND d.id = c.document_id
        ) || c.metadata, filter))
    ORDER BY 2 DESC, 1
    LIMIT hits;
END
$$;
REVOKE ALL ON FUNCTION tertulia_keyword_hits FROM public;
GRANT EXECUTE ON FUNCTION tertulia_keyword_hits TO tertulia_app;
