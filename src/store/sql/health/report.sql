-- As the service role, which sees all tenants.
SELECT
    current_setting('server_version'),
    (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
    (SELECT count(*) FROM tenants),
    (SELECT count(*) FROM knowledge_bases),
    (SELECT coalesce(sum(document_count), 0)::bigint FROM knowledge_bases),
    (SELECT coalesce(sum(chunk_count), 0)::bigint FROM embedding_generations)
