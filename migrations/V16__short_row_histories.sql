-- These rows are updated by each transaction that writes chunks, and read for each chunk. Postgres clears a page of old
-- versions once it is fuller than the fill factor, so a low one keeps the way to the current version short.
ALTER TABLE knowledge_bases SET (fillfactor = 10);
ALTER TABLE embedding_generations SET (fillfactor = 10);
