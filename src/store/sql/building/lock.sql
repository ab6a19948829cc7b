-- Locks the knowledge base, as every writer does first, and takes the version of what is written; nothing if another
-- generation is active by now.
UPDATE knowledge_bases
SET version = version + 1
WHERE tenant_id = $1 AND id = $2 AND generation_id = $3
