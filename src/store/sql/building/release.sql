-- Nobody takes it up again before the pause is over.
UPDATE embedding_generations
SET builder = NULL, leased_until = now() + make_interval(secs => $5), problem = $6
WHERE tenant_id = $1 AND knowledge_base_id = $2 AND id = $3 AND builder = $4
