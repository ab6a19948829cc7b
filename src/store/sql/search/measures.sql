-- What the lists would measure chunks by that are found already. Without `@@`: the words of a chunk are only ranked.
WITH asked AS MATERIALIZED (SELECT tertulia_any_word(tertulia_configuration($5), $3, $6) AS words)
SELECT c.id, (1 - (c.embedding <=> $2::real[]::vector))::real AS similarity,
    coalesce(ts_rank('{0.3, 0.3, 0.6, 1}', c.words, asked.words, 32), 0)::real AS rank,
    CASE WHEN $4 THEN c.embedding::real[] END AS embedding
FROM knowledge_chunks c, asked
WHERE c.tenant_id = (SELECT tertulia_tenant_id()) AND c.id = ANY($1)
