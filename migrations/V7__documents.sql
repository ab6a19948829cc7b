-- Metadata is an object that every reader can read: nested less than 64 deep, numbers that fit a float8.
CREATE FUNCTION tertulia_is_metadata(metadata jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_typeof(metadata) = 'object'
    AND NOT jsonb_path_exists(metadata, '$.**{64 to last}')
    AND NOT jsonb_path_exists(metadata, '$.** ? (@ > 1.79e308 || @ < -1.79e308)');

CREATE TABLE documents (
    tenant_id         uuid NOT NULL,
    knowledge_base_id uuid NOT NULL,
    id                uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The caller's own name of it.
    external_id       text COLLATE "C" NOT NULL CHECK (octet_length(external_id) BETWEEN 1 AND 1024),
    title             text NOT NULL DEFAULT '',
    source_url        text,
    mime_type         text NOT NULL DEFAULT 'text/plain',
    metadata          jsonb NOT NULL DEFAULT '{}' CHECK (tertulia_is_metadata(metadata)),
    -- Of the bytes that the document was read from; all zero where nobody knows.
    content_sha256    bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(content_sha256) = 32),
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, knowledge_base_id, external_id),
    FOREIGN KEY (tenant_id, knowledge_base_id) REFERENCES knowledge_bases ON DELETE CASCADE
);

CALL tertulia_secure('documents');
GRANT SELECT, INSERT, UPDATE, DELETE ON documents TO tertulia_app, tertulia_service;
