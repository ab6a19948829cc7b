# shellcheck shell=bash
# For sourcing: starts a server on a data directory and gives it a tenant, a key and knowledge bases to play with.
#
# Access is kept in $data_dir/access.env (mode 0600), so that the next run finds the same tenant and key, and another shell the
# server.

# A command that fails inside `$(…)` ends the script too.
shopt -s inherit_errexit

# Longest wait for a server to be ready, the making of a new database included.
readonly START_WAIT_S=120

binary=target/release/tertulia
server_pid=""

# start_server DATA_DIR LOG: returns when it is ready; sets `server_pid` and exports TERTULIA_URL.
start_server() {
    data_dir=$1
    server_log=$2
    mkdir -p "$data_dir"
    # Whoever writes to the log has it locked: that of a server that runs is added to, any other begins anew.
    local log log_start
    exec {log}>>"$server_log"
    if flock --nonblock "$log" 2>/dev/null; then : >"$server_log"; fi
    log_start=$(($(wc -c <"$server_log") + 1))
    # What is waited for below is a line of the log and an answer without TLS, whatever the caller's settings are. An empty
    # variable means none, and beats a configuration file.
    # Its tenant is of the tier enterprise, and neither an ingest nor a measurement shall be slowed down by a limit.
    TERTULIA_LIMITS_ENTERPRISE_PER_MINUTE=${TERTULIA_LIMITS_ENTERPRISE_PER_MINUTE:-0} \
        TERTULIA_LOG_FILTER=tertulia=info,warn TERTULIA_LOG_FORMAT=${TERTULIA_LOG_FORMAT:-text} \
        TERTULIA_SERVER_TLS_CERT="" TERTULIA_SERVER_TLS_KEY="" \
        "$binary" serve --data-dir "$data_dir" >&"$log" 2>&1 {log}>&- &
    server_pid=$!
    exec {log}>&-
    local address="" give_up=$((SECONDS + START_WAIT_S))
    until [[ -n $address ]] && is_ready "$address"; do
        if ! kill -0 "$server_pid" 2>/dev/null; then
            local code=0
            wait "$server_pid" || code=$?
            server_pid=""
            tail -c "+$log_start" "$server_log" >&2
            exit "$((code == 0 ? 1 : code))"
        fi
        if ((SECONDS >= give_up)); then
            tail -c "+$log_start" "$server_log" >&2
            echo "The server is not ready after $START_WAIT_S s; above is its log, $server_log." >&2
            exit 1
        fi
        sleep 0.1
        # The log says where it listens: the port may have been left to the system.
        address=$(tail -c "+$log_start" "$server_log" |
            sed -nE 's/\x1b\[[0-9;]*m//g; s/"//g; s/.*\<ready\>.*address[=:]([^ ,}]+).*/\1/p')
    done
    TERTULIA_URL=http://$(reachable "$address")
    export TERTULIA_URL
}

# An address that listens on everything, as one to connect to.
reachable() {
    local address=${1/#0.0.0.0:/127.0.0.1:}
    printf '%s' "${address/#\[::\]:/[::1]:}"
}

# Asks /readyz with nothing but the shell.
is_ready() {
    local address status host
    address=$(reachable "$1")
    host=${address%:*}
    host=${host#[}
    {
        exec 3<>"/dev/tcp/${host%]}/${address##*:}" || return 1
    } 2>/dev/null
    printf 'GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$address" >&3
    read -r -t 5 _ status _ <&3 || status=""
    exec 3<&- 3>&-
    [[ $status == 200 ]]
}

# Stops the server and waits for it.
stop_server() {
    if [[ -z $server_pid ]]; then return; fi
    kill -TERM "$server_pid" 2>/dev/null || true
    # A trapped signal ends `wait` early: only the end of the process counts.
    while kill -0 "$server_pid" 2>/dev/null; do wait "$server_pid" || true; done
    server_pid=""
}

# ensure_access TENANT: exports TERTULIA_KEY, from the last run or a new one, and writes it down with the server's address.
ensure_access() {
    local tenant=$1 file=$data_dir/access.env url=$TERTULIA_URL
    unset TERTULIA_KEY
    if [[ -e $file ]]; then
        # shellcheck disable=SC1090  # written below
        . "$file"
        export TERTULIA_KEY
        # Its address is that of the last run.
        TERTULIA_URL=$url
    fi
    if [[ -z ${TERTULIA_KEY:-} ]] || ! "$binary" knowledge-base list >/dev/null 2>&1; then
        if ! "$binary" tenant list --data-dir "$data_dir" | awk -v name="$tenant" '$2 == name { found = 1 } END { exit !found }'; then
            "$binary" tenant create "$tenant" --tier enterprise --data-dir "$data_dir" >/dev/null
        fi
        TERTULIA_KEY=$("$binary" key create --tenant "$tenant" --name demo --data-dir "$data_dir" | sed -n 1p)
        export TERTULIA_KEY
    fi
    (umask 077 && printf 'TERTULIA_KEY=%q\nTERTULIA_URL=%q\n' "$TERTULIA_KEY" "$TERTULIA_URL" >"$file")
}

# ensure_knowledge_base NAME: prints the id of the one of that name, which is made if it is missing.
ensure_knowledge_base() {
    local id
    id=$("$binary" knowledge-base list | awk -v name="$1" '$2 == name && !seen++ { print $1 }')
    if [[ -z $id ]]; then id=$("$binary" knowledge-base create "$1" | awk 'NR == 1 { print $NF }'); fi
    printf '%s\n' "$id"
}

# manual_url FOLDER: where the pages of PostgreSQL's manual in FOLDER stand on the web, in their own version if they say which.
manual_url() {
    local version=""
    if [[ -e $1/index.html ]]; then
        version=$(sed -nE 's|.*<title>PostgreSQL ([0-9]+)[.0-9]* Documentation</title>.*|\1|p' "$1/index.html")
    fi
    printf 'https://www.postgresql.org/docs/%s/\n' "${version:-current}"
}

# postgres_url [ROLE]: the private Postgres of the server that runs, as its owner or another role: a connection string.
postgres_url() {
    local port socket_dir
    { read -r _; read -r _; read -r _; read -r port; read -r socket_dir; } <"$data_dir/postgres/postmaster.pid"
    printf 'host=%s port=%s user=%s dbname=tertulia' "$socket_dir" "$port" "${1:-tertulia_owner}"
}

# Fails if the user that Postgres runs as cannot get to this folder: as root it is not root, and /root is closed to it.
check_reachable() {
    ((EUID == 0)) || return 0
    local folder=$PWD
    until [[ $folder == / ]]; do
        if ! ((8#$(stat -c %a "$folder") & 1)); then
            echo "Postgres does not run as root, and its user may not enter $folder: clone to another place," \
                "such as /srv or /opt, or run as an ordinary user." >&2
            return 1
        fi
        folder=$(dirname "$folder")
    done
}
