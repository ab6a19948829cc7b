-- A knowledge base with three chunks of three dimensions, of which one was deleted two days ago, one just now.
INSERT INTO tenants (id, slug) VALUES ('01890000-0000-7000-8000-000000000001', 'initech');
BEGIN;
INSERT INTO knowledge_bases (tenant_id, id, name, generation_id)
VALUES ('01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000002', 'manual',
    '01890000-0000-7000-8000-000000000003');
INSERT INTO embedding_generations (tenant_id, knowledge_base_id, id, encoder, dimensions)
VALUES ('01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000002',
    '01890000-0000-7000-8000-000000000003', 'test', 3);
COMMIT;
BEGIN;
INSERT INTO documents (tenant_id, knowledge_base_id, id, external_id)
VALUES ('01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000002',
    '01890000-0000-7000-8000-000000000004', 'a');
INSERT INTO knowledge_chunks (tenant_id, knowledge_base_id, generation_id, document_id, ordinal, content, embedding)
SELECT '01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000002',
    '01890000-0000-7000-8000-000000000003', '01890000-0000-7000-8000-000000000004', n, 'text', '[1,0,0]'
FROM generate_series(0, 2) AS n;
COMMIT;
BEGIN;
DELETE FROM knowledge_chunks WHERE ordinal = 0;
UPDATE chunk_deletions SET created_at = now() - interval '2 days';
COMMIT;
BEGIN;
DELETE FROM knowledge_chunks WHERE ordinal = 1;
COMMIT;
