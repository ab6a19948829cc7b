-- Rows are named by their place, as nobody updates what is to be dropped but under the lock that is held.
DELETE FROM knowledge_chunks c
WHERE c.tenant_id = $1 AND c.ctid = ANY (ARRAY(
    SELECT old.ctid
    FROM knowledge_chunks old
    WHERE old.tenant_id = $1 AND old.knowledge_base_id = $2 AND old.generation_id = $3
    LIMIT $4
))
