-- What takes a number of a session. Both lock the session's row first, so numbers become visible in their order: who
-- has seen one has seen all that are smaller.

-- Posts a message as one statement. What was posted under the same client id is given back as it is, `is_new` false.
-- Gives no row if the session is gone, and one without an id if it has ended.
CREATE FUNCTION tertulia_post_message(
    of_session uuid, new_id uuid, new_role text, new_user_id uuid, new_sender text, new_content text,
    new_client_id text, new_metadata text
) RETURNS TABLE (id uuid, seq bigint, "timestamp" timestamptz, is_new boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    tenant uuid := tertulia_tenant_id();
    has_ended boolean;
BEGIN
    SELECT s.ended_at IS NOT NULL INTO has_ended
    FROM sessions s
    WHERE s.tenant_id = tenant AND s.id = of_session
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF new_client_id IS NOT NULL THEN
        SELECT m.id, m.seq, m.timestamp, false INTO id, seq, "timestamp", is_new
        FROM messages m
        WHERE m.tenant_id = tenant AND m.session_id = of_session AND m.client_id = new_client_id;
        IF FOUND THEN
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    IF has_ended THEN
        RETURN NEXT;
        RETURN;
    END IF;
    id := new_id;
    is_new := true;
    -- Clocks are set back at times; times within a session are not.
    UPDATE sessions s
    SET last_seq = s.last_seq + 1,
        last_message_at = greatest(clock_timestamp(), s.last_message_at + interval '1 microsecond')
    WHERE s.tenant_id = tenant AND s.id = of_session
    RETURNING s.last_seq, s.last_message_at INTO seq, "timestamp";
    INSERT INTO messages
        (tenant_id, session_id, id, seq, role, user_id, sender, content, client_id, metadata, timestamp)
    VALUES (tenant, of_session, new_id, tertulia_post_message.seq, new_role, new_user_id, new_sender, new_content,
        new_client_id, new_metadata::jsonb, tertulia_post_message.timestamp);
    RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION tertulia_post_message FROM public;
GRANT EXECUTE ON FUNCTION tertulia_post_message TO tertulia_app;

-- Gives a message another text, or deletes it where there is none, and writes down what it was. Gives no row if the
-- message is gone. With the owner's rights, so that no other way leads past the history.
CREATE FUNCTION tertulia_edit_message(
    of_session uuid, message uuid, new_content text, by_kind text, by_id uuid, log_id uuid, by_request text
) RETURNS TABLE (seq bigint, revision bigint, edited_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    tenant uuid := tertulia_tenant_id();
    old_content text;
BEGIN
    PERFORM FROM sessions s WHERE s.tenant_id = tenant AND s.id = of_session FOR NO KEY UPDATE;
    SELECT m.seq, m.content INTO seq, old_content
    FROM messages m
    WHERE m.tenant_id = tenant AND m.session_id = of_session AND m.id = message AND m.deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    edited_at := clock_timestamp();
    UPDATE sessions s
    SET last_revision = s.last_revision + 1
    WHERE s.tenant_id = tenant AND s.id = of_session
    RETURNING s.last_revision INTO revision;
    UPDATE messages m
    SET content = coalesce(new_content, ''),
        metadata = CASE WHEN new_content IS NULL THEN '{}' ELSE m.metadata END,
        revision = tertulia_edit_message.revision,
        edited_at = tertulia_edit_message.edited_at,
        deleted_at = CASE WHEN new_content IS NULL THEN tertulia_edit_message.edited_at END
    WHERE m.tenant_id = tenant AND m.id = message;
    INSERT INTO audit_log (tenant_id, id, actor_kind, actor_id, action, resource_id, request_id, before, after)
    VALUES (tenant, log_id, by_kind, by_id, CASE WHEN new_content IS NULL THEN 'message.delete' ELSE 'message.edit' END,
        message, by_request, jsonb_build_object('content', old_content),
        CASE WHEN new_content IS NOT NULL THEN jsonb_build_object('content', new_content) END);
    RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION tertulia_edit_message FROM public;
GRANT EXECUTE ON FUNCTION tertulia_edit_message TO tertulia_app;
