-- A session is one conversation: a visitor's with a widget, that of a meeting, or one that a client of the API holds.
CREATE TABLE sessions (
    tenant_id       uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    widget_id       uuid,
    meeting_id      uuid,
    -- The site's own name of its visitor, or one that the widget keeps in the browser.
    visitor_id      text COLLATE "C" CHECK (octet_length(visitor_id) BETWEEN 1 AND 255),
    visitor_name    text CHECK (char_length(visitor_name) <= 200),
    -- Whether the site's own server has signed for the visitor.
    is_verified     boolean NOT NULL DEFAULT false,
    metadata        jsonb NOT NULL DEFAULT '{}' CHECK (tertulia_is_metadata(metadata)),
    -- The number of the last message, which is also how many there are: numbers are taken under the lock of this row.
    last_seq        bigint NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    -- How often messages were edited or deleted; taken under the same lock.
    last_revision   bigint NOT NULL DEFAULT 0 CHECK (last_revision >= 0),
    last_message_at timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK (num_nonnulls(widget_id, meeting_id) <= 1),
    FOREIGN KEY (tenant_id, widget_id) REFERENCES widgets ON DELETE SET NULL (widget_id),
    FOREIGN KEY (tenant_id, meeting_id) REFERENCES meetings ON DELETE SET NULL (meeting_id)
) WITH (fillfactor = 70); -- Each message changes the row, in place while there is room on the page.

-- Lists are newest first, whatever they are narrowed down to.
CREATE INDEX sessions_newest ON sessions (tenant_id, created_at DESC, id DESC);
CREATE INDEX sessions_active ON sessions (tenant_id, created_at DESC, id DESC) WHERE ended_at IS NULL;
CREATE INDEX sessions_ended ON sessions (tenant_id, created_at DESC, id DESC) WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_of_widget ON sessions (tenant_id, widget_id, created_at DESC, id DESC)
    WHERE widget_id IS NOT NULL;
CREATE INDEX sessions_of_widget_active ON sessions (tenant_id, widget_id, created_at DESC, id DESC)
    WHERE widget_id IS NOT NULL AND ended_at IS NULL;
CREATE INDEX sessions_of_meeting ON sessions (tenant_id, meeting_id, created_at DESC, id DESC)
    WHERE meeting_id IS NOT NULL;
CREATE INDEX sessions_of_visitor ON sessions (tenant_id, visitor_id, created_at DESC, id DESC)
    WHERE visitor_id IS NOT NULL;

CALL tertulia_secure('sessions');
GRANT SELECT, DELETE,
    INSERT (tenant_id, id, widget_id, meeting_id, visitor_id, visitor_name, is_verified, metadata),
    UPDATE (visitor_id, visitor_name, is_verified, metadata, last_seq, last_message_at, updated_at, ended_at)
    ON sessions TO tertulia_app;
GRANT SELECT ON sessions TO tertulia_service;
