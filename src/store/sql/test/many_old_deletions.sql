-- A knowledge base of the same tenant with 20 000 deletions of two days ago under two versions, and one of just now.
BEGIN;
INSERT INTO knowledge_bases (tenant_id, id, name, generation_id, version)
VALUES ('01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000001', 'long',
    '01890000-0000-7000-8000-000000000005', 3);
INSERT INTO embedding_generations (tenant_id, knowledge_base_id, id, encoder, dimensions)
VALUES ('01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000001',
    '01890000-0000-7000-8000-000000000005', 'test', 3);
INSERT INTO chunk_deletions (tenant_id, knowledge_base_id, version, chunk_id, created_at)
SELECT b.tenant_id, b.id, CASE WHEN n = 0 THEN 3 ELSE 1 + n % 2 END, gen_random_uuid(),
    CASE WHEN n = 0 THEN now() ELSE now() - interval '2 days' END
FROM knowledge_bases b, generate_series(0, 20000) AS n
WHERE b.name = 'long';
COMMIT;
