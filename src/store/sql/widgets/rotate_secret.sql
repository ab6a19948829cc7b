SELECT tertulia_rotate_widget_secret($1, $2, $3, $4) AS is_found
