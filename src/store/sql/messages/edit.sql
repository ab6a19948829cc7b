SELECT seq, revision, edited_at
FROM tertulia_edit_message($1, $2, $3, $4, $5, $6, $7)
