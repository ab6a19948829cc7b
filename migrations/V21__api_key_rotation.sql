-- A key is replaced by another row, while the old one holds until its `expires_at`: each secret keeps an expiry and a
-- last use of its own, which tell when the old one can go, and older servers know all of that already.
SET LOCAL lock_timeout = '5s';
ALTER TABLE api_keys
    ADD COLUMN replaces_id uuid,
    -- Less than what the tenant's tier allows; null for no limit of its own.
    ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0),
    ADD FOREIGN KEY (tenant_id, replaces_id) REFERENCES api_keys ON DELETE SET NULL (replaces_id);
-- Of two who replace the same key at once, one is refused.
CREATE UNIQUE INDEX api_keys_replaced ON api_keys (tenant_id, replaces_id) WHERE replaces_id IS NOT NULL;

CREATE OR REPLACE TRIGGER notify_update AFTER UPDATE ON api_keys FOR EACH ROW
WHEN ((OLD.tenant_id, OLD.id, OLD.public_id, OLD.secret_sha256, OLD.scopes, OLD.expires_at, OLD.revoked_at,
        OLD.requests_per_minute)
    IS DISTINCT FROM
    (NEW.tenant_id, NEW.id, NEW.public_id, NEW.secret_sha256, NEW.scopes, NEW.expires_at, NEW.revoked_at,
        NEW.requests_per_minute))
EXECUTE FUNCTION api_keys_notify();

-- Tenants manage their keys themselves. Finding one by its public id stays with the service role, and so do the hashes.
GRANT SELECT (tenant_id, id, public_id, name, scopes, expires_at, revoked_at, last_used_at, created_at, replaces_id,
        requests_per_minute),
    INSERT (tenant_id, id, public_id, secret_sha256, name, scopes, expires_at, replaces_id, requests_per_minute),
    UPDATE (name, scopes, expires_at, revoked_at, requests_per_minute) ON api_keys TO tertulia_app;
