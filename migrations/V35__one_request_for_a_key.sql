-- Under one key there is one request, whatever its route: a repeat on another route is told so. `key` is the SHA-256 of
-- what the client sent, in hexadecimal digits, and `request_sha256` has the key itself in it: bodies may hold passwords,
-- which nobody who reads the table shall be able to try. No server has written the table so far.
SET LOCAL lock_timeout = '5s';
ALTER TABLE idempotency_keys
    DROP CONSTRAINT idempotency_keys_pkey,
    ADD PRIMARY KEY (tenant_id, caller, key),
    -- When what was asked for was committed: set in the same transaction. Past the lease, and without an answer, the
    -- answer was lost or is not kept; what was asked for is not done again.
    ADD COLUMN committed_at timestamptz;
