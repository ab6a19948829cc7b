-- How far some sessions are, whoever's they are: for servers that hold connections to them.
SELECT s.tenant_id, s.id, s.last_seq, s.last_revision, s.ended_at
FROM unnest($1::uuid[], $2::uuid[]) AS wanted (tenant_id, id)
JOIN sessions s ON s.tenant_id = wanted.tenant_id AND s.id = wanted.id
