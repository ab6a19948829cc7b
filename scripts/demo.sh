#!/usr/bin/env bash
# Starts the server with PostgreSQL's manual in it, shows one search, and stays up until Ctrl-C.
#
#   scripts/demo.sh check    only says whether that can work here; asked before the long build
#
# What it stores is in data/ (git-ignored): a second run finds everything in place. The settings' variables work as
# always, such as TERTULIA_SERVER_LISTEN=0.0.0.0:9000, but for the data directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/server.sh

check_reachable
if [[ ${1:-} == check ]]; then exit 0; fi

readonly QUESTION="how do I stop sessions that are idle in transaction"

trap stop_server EXIT
trap 'exit 0' INT TERM HUP
if [[ ! -t 1 ]]; then export NO_COLOR=1; fi

# Without it everything works, only the search below finds nothing.
scripts/documents.sh demo/postgresql postgresql-doc || true

echo "Starting the server (data in ./data, log in ./data/server.log) …"
start_server data data/server.log
ensure_access demo
knowledge_base=$(ensure_knowledge_base manual)

if compgen -G 'demo/postgresql/*.html' >/dev/null; then
    echo "Putting PostgreSQL's manual into the knowledge base (the next time only what changed) …"
    "$binary" ingest demo/postgresql --knowledge-base "$knowledge_base" \
        --source-url-prefix "$(manual_url demo/postgresql)"
fi

printf '\n> %s\n\n' "$QUESTION"
"$binary" search "$QUESTION" --knowledge-base "$knowledge_base" --top-k 3

cat <<BLOCK

────────────────────────────────────────────────────────────────────────────────────────────────
  tertulia is up at $TERTULIA_URL – try it:

  curl -s $TERTULIA_URL/v1/knowledge-bases/$knowledge_base/search \\
    -H 'Authorization: Bearer $TERTULIA_KEY' -H 'Content-Type: application/json' \\
    -d '{"query": "how do I take a backup while the database is in use", "top_k": 3}'

  API description: $TERTULIA_URL/docs      metrics: $TERTULIA_URL/metrics
  In a shell:      set -a; . data/access.env; set +a
                   $binary search "…" --knowledge-base $knowledge_base
  Stop with Ctrl-C. 'make clean-data' removes what was stored.
────────────────────────────────────────────────────────────────────────────────────────────────

The server's log (all of it is in $server_log):
BLOCK

# Ends with the server; as a background job it ignores Ctrl-C, so that it also shows how the server stops.
tail -n 3 -s 0.2 -f --pid="$server_pid" "$server_log" &
tail_pid=$!
trap 'stop_server; wait "$tail_pid" || true; exit 0' INT TERM HUP
# The server's own end is told by its exit code.
code=0
wait "$server_pid" || code=$?
server_pid=""
wait "$tail_pid" || true
exit "$code"
