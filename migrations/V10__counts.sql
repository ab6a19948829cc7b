-- How much there is, for lists and for the decision whether it fits into memory: counting a large knowledge base takes
-- longer than the search. Written with the owner's rights, under the lock that versions are taken under.

CREATE FUNCTION documents_count() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE knowledge_bases b
    SET document_count = b.document_count + CASE TG_OP WHEN 'INSERT' THEN touched.count ELSE -touched.count END
    FROM (SELECT tenant_id, knowledge_base_id, count(*) FROM changed GROUP BY tenant_id, knowledge_base_id) AS touched
    WHERE b.tenant_id = touched.tenant_id AND b.id = touched.knowledge_base_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_inserts AFTER INSERT ON documents REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION documents_count();
CREATE TRIGGER count_deletions AFTER DELETE ON documents REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION documents_count();

CREATE FUNCTION knowledge_chunks_count() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE embedding_generations g
    SET chunk_count = g.chunk_count + CASE TG_OP WHEN 'INSERT' THEN touched.count ELSE -touched.count END
    FROM (
        SELECT tenant_id, knowledge_base_id, generation_id, count(*)
        FROM changed
        GROUP BY tenant_id, knowledge_base_id, generation_id
    ) AS touched
    WHERE g.tenant_id = touched.tenant_id AND g.knowledge_base_id = touched.knowledge_base_id
        AND g.id = touched.generation_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_inserts AFTER INSERT ON knowledge_chunks REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION knowledge_chunks_count();
-- Triggers of one event run in the order of their names: after `log_deletions`, which locks the knowledge base first.
CREATE TRIGGER number_deletions AFTER DELETE ON knowledge_chunks REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION knowledge_chunks_count();
