#!/usr/bin/env bash
# Measures a server of its own that holds about 50,000 real chunks: the manuals of PostgreSQL, Python and Linux.
#
#   scripts/loadtest.sh data             only puts the documents in (kept in data-loadtest/; the next time nothing is sent)
#   scripts/loadtest.sh search [ARG…]    `loadtest search --compare` with further arguments
#   scripts/loadtest.sh commit [ARG…]    `loadtest commit` with further arguments
#   scripts/loadtest.sh quality [ARG…]   `loadtest quality` with further arguments
#
# And one, in data-seeded/, whose database is filled as years of use would fill it:
#
#   scripts/loadtest.sh seed [ARG…]      `loadtest seed` with further arguments, once
#   scripts/loadtest.sh queries [ARG…]   `loadtest queries` with further arguments, after it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/server.sh

# The server's own Postgres, whatever database the caller's environment names: empty means none, also against a file.
export DATABASE_URL="" TERTULIA_DATABASE_SERVICE_URL="" TERTULIA_DATABASE_DIRECT_URL=""

command=${1:?one of data, search, commit, quality, seed, queries}
shift
trap stop_server EXIT
trap 'exit 130' INT TERM HUP

scripts/documents.sh demo/postgresql postgresql-doc
case $command in
    seed | queries)
        TERTULIA_SERVER_LISTEN=127.0.0.1:0 start_server data-seeded data-seeded/server.log
        role=tertulia_owner
        if [[ $command == queries ]]; then role=tertulia_user; fi
        target/release/loadtest "$command" --postgres-url "$(postgres_url "$role")" "$@"
        exit
        ;;
esac
scripts/documents.sh demo/python python3-doc
# The parts with the most text; with all of them and their translations it would be 90,000 chunks.
scripts/documents.sh demo/linux linux-doc admin-guide driver-api filesystems networking userspace-api

TERTULIA_SERVER_LISTEN=127.0.0.1:0 start_server data-loadtest data-loadtest/server.log
ensure_access loadtest
knowledge_base=$(ensure_knowledge_base manuals)
# One folder with all of them, so that two pages of one name have two ids.
"$binary" ingest demo --knowledge-base "$knowledge_base"
"$binary" knowledge-base list

case $command in
    data) ;;
    search)
        target/release/loadtest search --knowledge-base "$knowledge_base" --compare --postgres-url "$(postgres_url)" "$@"
        ;;
    commit) target/release/loadtest commit --knowledge-base "$knowledge_base" "$@" ;;
    quality)
        target/release/loadtest quality --knowledge-base "$knowledge_base" --postgres-url "$(postgres_url)" "$@"
        ;;
    *)
        echo "one of data, search, commit, quality, seed, queries; not $command" >&2
        exit 64
        ;;
esac
