-- Similarity is the cosine, and a vector of zeros has none. Rows that are there already are left alone: servers skip them.
SET LOCAL lock_timeout = '5s';
ALTER TABLE knowledge_chunks
    ADD CONSTRAINT knowledge_chunks_embedding_direction CHECK (public.vector_norm(embedding) > 0) NOT VALID;
