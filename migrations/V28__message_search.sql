-- Full text of messages, newest first.

CREATE FUNCTION tertulia_day(at timestamptz) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (at AT TIME ZONE 'UTC')::date - '2000-01-01'::date;

CREATE FUNCTION tertulia_day_start(day integer) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('2000-01-01'::date + day)::timestamp AT TIME ZONE 'UTC';

-- Tenant, day and words in one index, so that the messages of one day are found without all the others. The words do
-- not stand in the row: whoever reads the history would have to read past them. No list of pending entries, which every
-- search would read (17 ms against 2 ms while messages were posted, and posting was no faster with it).
CREATE INDEX messages_words ON messages
    USING gin (tenant_id, tertulia_day(timestamp), to_tsvector('pg_catalog.english'::regconfig, content))
    WITH (fastupdate = off);

-- The newest messages before `before_time` and `before_id` that fulfil the question, newest first.
--
-- Such an index gives no order, and a word that every tenth message has would have each of those read. Hence one day
-- after the other, of those on which anything was said. Once some thousand messages have shown that the question is a
-- rare one, which gives less than two hits a day, all that is left is searched at once. What costs more is a phrase,
-- which an identifier with underscores is too: where its words stand is looked up in each text that has them all.
--
-- `@@` is not leakproof, so under row security no index would be used for it (30 ms against 0.5 ms, 200,000 rows).
-- Hence the owner's rights, and the tenant of the transaction in each condition.
CREATE FUNCTION tertulia_message_hits(question text, before_time timestamptz, before_id uuid, hits bigint)
RETURNS TABLE (message_id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 50
SET search_path = pg_catalog, public, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    tenant uuid := tertulia_tenant_id();
    asked tsquery := websearch_to_tsquery('pg_catalog.english'::regconfig, question);
    day integer;
    days integer := 0;
    messages_seen bigint := 0;
    missing bigint := hits;
    found_now bigint;
BEGIN
    -- Exclusions alone would find nearly everything there is.
    IF querytree(asked) IN ('', 'T') THEN
        RETURN;
    END IF;
    LOOP
        SELECT tertulia_day(m.timestamp) INTO day
        FROM messages m
        WHERE m.tenant_id = tenant AND (m.timestamp, m.id) < (before_time, before_id)
        ORDER BY m.timestamp DESC, m.id DESC
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        -- What matches is materialized, lest the order be had by walking through all that was ever said.
        RETURN QUERY
        WITH matching AS MATERIALIZED (
            SELECT m.timestamp, m.id
            FROM messages m
            WHERE m.tenant_id = tenant AND tertulia_day(m.timestamp) = day
                AND to_tsvector('pg_catalog.english'::regconfig, m.content) @@ asked
                AND (m.timestamp, m.id) < (before_time, before_id)
        )
        SELECT matching.id FROM matching ORDER BY matching.timestamp DESC, matching.id DESC LIMIT missing;
        GET DIAGNOSTICS found_now = ROW_COUNT;
        missing := missing - found_now;
        IF missing <= 0 THEN
            RETURN;
        END IF;
        days := days + 1;
        IF days < 14 AND messages_seen < 2000 THEN
            SELECT messages_seen + count(*) INTO messages_seen
            FROM (
                SELECT
                FROM messages m
                WHERE m.tenant_id = tenant AND m.timestamp >= tertulia_day_start(day)
                    AND (m.timestamp, m.id) < (before_time, before_id)
                LIMIT 2000
            ) AS seen;
        END IF;
        -- No id comes before this one.
        before_time := tertulia_day_start(day);
        before_id := '00000000-0000-0000-0000-000000000000';
        EXIT WHEN hits - missing < 2 * days AND (days >= 14 OR messages_seen >= 2000 AND days >= 3);
    END LOOP;
    RETURN QUERY
    WITH matching AS MATERIALIZED (
        SELECT m.timestamp, m.id
        FROM messages m
        WHERE m.tenant_id = tenant AND to_tsvector('pg_catalog.english'::regconfig, m.content) @@ asked
            AND (m.timestamp, m.id) < (before_time, before_id)
    )
    SELECT matching.id FROM matching ORDER BY matching.timestamp DESC, matching.id DESC LIMIT missing;
END
$$;
REVOKE ALL ON FUNCTION tertulia_message_hits FROM public;
GRANT EXECUTE ON FUNCTION tertulia_message_hits TO tertulia_app;
