-- One instance does the upkeep. The number says "upkeep" in ASCII; held until the session ends.
SELECT pg_try_advisory_lock(x'75706b656570'::bigint)
