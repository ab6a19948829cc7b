UPDATE idempotency_keys
SET response_status = $4, response_header = jsonb_build_object('content-type', $5::text), response_body = $6
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND caller = $1 AND key = $2 AND leased_until = $3
    AND response_status IS NULL
