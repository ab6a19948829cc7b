-- The number says "tertulia" in ASCII. Held until the session ends.
SELECT pg_advisory_lock(x'74657274756c6961'::bigint)
