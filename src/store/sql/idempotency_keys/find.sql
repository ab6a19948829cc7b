SELECT request_sha256, response_status, response_header->>'content-type' AS content_type, response_body,
    leased_until > clock_timestamp() AS is_leased
FROM idempotency_keys
WHERE tenant_id = (SELECT tertulia_tenant_id()) AND caller = $1 AND key = $2
