CREATE TABLE widgets (
    tenant_id            uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id                   uuid NOT NULL DEFAULT gen_random_uuid(),
    name                 text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    -- Stands in the pages of the site, so it is no secret. Finds the row before the tenant is known, so it is unique
    -- over all tenants.
    embed_key            text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(embed_key) BETWEEN 16 AND 64),
    -- Scheme, host and port, compared as they stand. None allows none.
    allowed_origins      text[] NOT NULL DEFAULT '{}'
        CHECK (cardinality(allowed_origins) <= 100 AND array_position(allowed_origins, NULL) IS NULL),
    -- Whether a visitor has to come with an identity that the site's own server has signed.
    is_identity_required boolean NOT NULL DEFAULT false,
    -- What it signs with: the current secret, then those that still hold while it changes.
    identity_secrets     bytea[] NOT NULL DEFAULT '{}' CHECK (cardinality(identity_secrets) <= 2),
    settings             jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    -- From then on no visitor comes in.
    disabled_at          timestamptz,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CHECK (NOT is_identity_required OR cardinality(identity_secrets) > 0)
);
CREATE INDEX widgets_newest ON widgets (tenant_id, created_at DESC, id DESC);

CALL tertulia_secure('widgets');
-- A secret is shown when it is made and never again; visitors are let in with the service role.
GRANT SELECT (tenant_id, id, name, embed_key, allowed_origins, is_identity_required, settings, disabled_at, created_at,
        updated_at),
    INSERT, DELETE,
    UPDATE (name, embed_key, allowed_origins, is_identity_required, identity_secrets, settings, disabled_at, updated_at)
    ON widgets TO tertulia_app;
GRANT SELECT ON widgets TO tertulia_service;
