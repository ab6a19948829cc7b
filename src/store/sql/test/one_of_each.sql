-- A row of each kind for the tenant whose id stands for $TENANT; two keys, of which one replaces the other, and two
-- sessions.
INSERT INTO users (tenant_id, id, email, role)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000001', 'ada@example.com', 'owner');
INSERT INTO auth_sessions (tenant_id, user_id, token_sha256, expires_at)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000001', sha256('$TENANT'), now() + interval '1 hour');
INSERT INTO api_keys (tenant_id, id, public_id, secret_sha256, replaces_id)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000002', 'old of $TENANT', sha256('old'), NULL),
    ('$TENANT', '01890000-0000-7000-8000-000000000003', 'new of $TENANT', sha256('new'),
        '01890000-0000-7000-8000-000000000002');
INSERT INTO widgets (tenant_id, id, name, embed_key)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000004', 'site', 'wk_$TENANT');
INSERT INTO meetings (tenant_id, id, title) VALUES ('$TENANT', '01890000-0000-7000-8000-000000000005', 'weekly');
INSERT INTO meeting_participants (tenant_id, meeting_id, user_id)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000005', '01890000-0000-7000-8000-000000000001');
INSERT INTO sessions (tenant_id, id, widget_id, meeting_id, last_seq)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000006', '01890000-0000-7000-8000-000000000004', NULL, 1),
    ('$TENANT', '01890000-0000-7000-8000-000000000007', NULL, '01890000-0000-7000-8000-000000000005', 0);
INSERT INTO messages (tenant_id, session_id, seq, role, user_id, content)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000006', 1, 'agent', '01890000-0000-7000-8000-000000000001', 'Hi.');
INSERT INTO audit_log (tenant_id, actor_kind, action) VALUES ('$TENANT', 'server', 'tenant.seed');
INSERT INTO idempotency_keys (tenant_id, route, key, request_sha256, leased_until, expires_at)
VALUES ('$TENANT', 'POST /v1/sessions', 'once', sha256('x'), now(), now());
INSERT INTO cost_events (tenant_id, kind, provider, model, cost_nanodollars, price_version, call_id)
VALUES ('$TENANT', 'chat', 'p', 'm', 1000, '1', gen_random_uuid());
INSERT INTO cost_summaries
    (tenant_id, period_start, period_end, kind, provider, model, calls, input_tokens, output_tokens, cost_nanodollars)
VALUES ('$TENANT', '2026-01-01', '2026-02-01', 'chat', 'p', 'm', 1, 0, 0, 1000);
INSERT INTO budgets (tenant_id, id, scope, scope_id, period, limit_nanodollars)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000008', 'tenant', '$TENANT', 'month', 5000000000);
INSERT INTO budget_alerts (tenant_id, budget_id, period_start, threshold, spent_nanodollars, limit_nanodollars)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000008', '2026-01-01', 50, 2500000000, 5000000000);
INSERT INTO unresolved_problems (tenant_id, id, question, encoder, embedding, state, resolved_at, resolved_by)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000009', 'Why?', 'test', '[1,0,0]', 'resolved', now(),
    '01890000-0000-7000-8000-000000000001');
INSERT INTO unresolved_problem_users (tenant_id, problem_id, session_id)
VALUES ('$TENANT', '01890000-0000-7000-8000-000000000009', '01890000-0000-7000-8000-000000000006');
INSERT INTO webhooks (tenant_id, id, url, events, secrets)
VALUES ('$TENANT', '01890000-0000-7000-8000-00000000000a', 'https://example.com/hook', '{message.created}', '{secret}');
INSERT INTO outbox (tenant_id, webhook_id, event_id, event, payload)
VALUES ('$TENANT', '01890000-0000-7000-8000-00000000000a', gen_random_uuid(), 'message.created', '{}');
