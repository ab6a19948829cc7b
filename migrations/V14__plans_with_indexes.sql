-- Every statement of the pools has its index, but a plan that is made while a table is small reads it whole, and triggers
-- and foreign keys keep such a plan until the next ANALYZE: 4,000 documents that came within that minute made each further
-- one take three times as long. So tables are read whole only where there is no other way. The owner's work may.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database());
    EXECUTE format('ALTER ROLE %I IN DATABASE %I SET enable_seqscan = on', current_user, current_database());
END
$$;
