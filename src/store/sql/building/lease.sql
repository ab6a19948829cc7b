UPDATE embedding_generations
SET builder = $4, leased_until = now() + make_interval(secs => $5)
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND id = $3 AND state <> 'active'
    AND (builder = $4 OR leased_until IS NULL OR leased_until < now())
