-- Only a superuser may create every extension, and bring it up to the version of newly installed files.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
ALTER EXTENSION vector UPDATE;
