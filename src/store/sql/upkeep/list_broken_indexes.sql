-- What builds that were cut short have left behind.
SELECT quote_ident(c.relname)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND i.indrelid = 'public.knowledge_chunks'::regclass
    AND c.relname LIKE 'knowledge\_chunks\_nearest\_%'
