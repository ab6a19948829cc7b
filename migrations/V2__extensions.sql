-- The vector type has to be installed by a superuser where pgvector is not marked as trusted; then this does nothing.
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
-- Puts a uuid in front of a full-text index.
CREATE EXTENSION IF NOT EXISTS btree_gin WITH SCHEMA public;
