SELECT id, seq, timestamp, is_new
FROM tertulia_post_message($1, $2, $3, $4, $5, $6, $7, $8)
