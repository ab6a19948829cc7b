-- Replaces a document with its first chunks as one statement with kept plans. All documents of a knowledge base wait for
-- its row's lock, so what is parsed, planned or sent back and forth under it is what ingestion waits for.
--
-- The embeddings come as one array, each chunk's from its `first` to its `last` place: an array of vectors would need the
-- extension's types on the wire. Gives no row if the knowledge base is gone, and no document if its generation is another.
CREATE FUNCTION tertulia_put_document(
    base_id uuid, base_generation uuid, new_id uuid, new_external_id text, new_title text, new_source_url text,
    new_mime_type text, new_metadata text, new_sha256 bytea, chunk_ids uuid[], ordinals integer[], headings text[],
    contents text[], chunk_metadata text[], components real[], firsts integer[], lasts integer[]
) RETURNS TABLE (document_id uuid, version bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    tenant uuid := tertulia_tenant_id();
    active uuid;
BEGIN
    -- Locks the knowledge base until the end of the transaction; the trigger makes it one step per transaction.
    UPDATE knowledge_bases b SET version = b.version + 1
    WHERE b.tenant_id = tenant AND b.id = base_id
    RETURNING b.version, b.generation_id INTO version, active;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF active IS DISTINCT FROM base_generation THEN
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT d.id INTO document_id FROM documents d
    WHERE d.tenant_id = tenant AND d.knowledge_base_id = base_id AND d.external_id = new_external_id;
    IF FOUND THEN
        -- The knowledge base is locked, so the chunks that are seen here are all there are.
        DELETE FROM knowledge_chunks c WHERE c.tenant_id = tenant AND c.document_id = tertulia_put_document.document_id;
        UPDATE documents d
        SET title = new_title, source_url = new_source_url, mime_type = new_mime_type, metadata = new_metadata::jsonb,
            content_sha256 = new_sha256, updated_at = now()
        WHERE d.tenant_id = tenant AND d.id = tertulia_put_document.document_id;
    ELSE
        document_id := new_id;
        INSERT INTO documents
            (tenant_id, knowledge_base_id, id, external_id, title, source_url, mime_type, metadata, content_sha256)
        VALUES (tenant, base_id, new_id, new_external_id, new_title, new_source_url, new_mime_type,
            new_metadata::jsonb, new_sha256);
    END IF;
    IF cardinality(chunk_ids) > 0 THEN
        INSERT INTO knowledge_chunks
            (tenant_id, knowledge_base_id, generation_id, document_id, id, ordinal, heading, content, metadata, embedding)
        SELECT tenant, base_id, base_generation, tertulia_put_document.document_id, c.id, c.ordinal, c.heading, c.content,
            c.metadata::jsonb, components[c.first:c.last]::vector
        FROM unnest(chunk_ids, ordinals, headings, contents, chunk_metadata, firsts, lasts)
            AS c (id, ordinal, heading, content, metadata, first, last);
    END IF;
    RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION tertulia_put_document FROM public;
GRANT EXECUTE ON FUNCTION tertulia_put_document TO tertulia_app;
