-- Locks the knowledge base until the end of the transaction; the trigger makes it one step per transaction.
UPDATE knowledge_bases
SET version = version + 1
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND id = $1
RETURNING version, generation_id
