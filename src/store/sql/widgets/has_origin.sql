-- Whether some widget, or that one, may be shown where one of these patterns says.
SELECT EXISTS (
    SELECT FROM widgets
    WHERE allowed_origins && $1 AND ($2::uuid IS NULL OR id = $2) AND disabled_at IS NULL
) AS is_known
