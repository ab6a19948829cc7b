UPDATE embedding_generations
SET builder = NULL, leased_until = NULL
WHERE state <> 'active' AND builder = $1
