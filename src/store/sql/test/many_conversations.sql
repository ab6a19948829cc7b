-- The tenant whose id stands for $TENANT gets 6 000 sessions of four messages each, one every ten minutes: of ten
-- widgets, but each sixteenth of one of twenty meetings; each 49th goes on. Each eighth message was edited.
INSERT INTO widgets (tenant_id, id, name, embed_key)
SELECT '$TENANT', lpad(n::text, 32, '0')::uuid, 'site', 'wk_' || n || '_$TENANT'
FROM generate_series(0, 9) AS n;
INSERT INTO meetings (tenant_id, id, title)
SELECT '$TENANT', lpad(n::text, 32, '0')::uuid, 'weekly'
FROM generate_series(0, 19) AS n;
INSERT INTO sessions
    (tenant_id, id, widget_id, meeting_id, visitor_id, last_seq, last_revision, created_at, ended_at)
SELECT '$TENANT', lpad(n::text, 32, '0')::uuid, CASE WHEN n % 16 > 0 THEN lpad((n % 10)::text, 32, '0')::uuid END,
    CASE WHEN n % 16 = 0 THEN lpad((n % 20)::text, 32, '0')::uuid END, 'v' || n % 1000, 4, 1, at.created_at,
    CASE WHEN n % 49 > 0 THEN at.created_at + interval '5 minutes' END
FROM generate_series(1, 6000) AS n
CROSS JOIN LATERAL (SELECT '2026-01-01Z'::timestamptz + n * interval '10 minutes' AS created_at) AS at;
INSERT INTO messages (tenant_id, session_id, id, seq, role, content, client_id, timestamp, revision)
SELECT '$TENANT', lpad((n / 4)::text, 32, '0')::uuid, lpad(n::text, 32, '0')::uuid, n % 4 + 1, 'user',
    'question about number ' || n || CASE WHEN n % 7 = 0 THEN ' and replication' ELSE '' END, n::text,
    '2026-01-01Z'::timestamptz + n / 4 * interval '10 minutes' + n % 4 * interval '20 seconds', (n % 8 = 0)::integer
FROM generate_series(4, 24003) AS n;
