#!/usr/bin/env bash
# Brings everything that tertulia is built, run and tested with onto this machine, and says what and why.
#
# `make run` and `make test` call it. What is there already is left alone, so a second run is quick and changes nothing.
# Debian 12 and 13, Ubuntu from 24.04, and what is like them get their packages by apt (as root, or through sudo). On
# another system it lists what to install by hand. It starts no service: the server and the tests run their own Postgres.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly POSTGRES_MIN=15
readonly RUST_MIN=1.95
# The encoder's weights: one release of the package `wordllama`, of which only two data files and the licence are used.
# Any platform's wheel holds the same files, so this one serves every machine.
readonly WHEEL_PACKAGE=wordllama WHEEL_VERSION=0.4.0.post1
readonly WHEEL_SHA256=42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97
readonly WHEEL_PLATFORM=(--platform manylinux2014_x86_64 --python-version 311 --implementation cp --abi cp311)
# SHA-256, name in weights/, name in the wheel.
readonly WEIGHTS=(
    "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5 l2_supercat_256.safetensors wordllama/weights/l2_supercat_256.safetensors"
    "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68 l2_supercat_tokenizer_config.json wordllama/tokenizers/l2_supercat_tokenizer_config.json"
    "a1e482c45bfab76056845e542ad4c95acfc4f38dd63be1c5b663c16065529fc8 LICENSE wordllama-0.4.0.post1.dist-info/licenses/LICENSE"
)
# Releases of Debian to take the source of pgvector from, where the machine's own release has no package of it.
readonly PGVECTOR_RELEASES=(trixie sid)

step="looking around"
scratch=""
undo=()

say() { printf 'setup: %s\n' "$*"; }

# begin NAME WHY: tells what comes, and what to name if it fails.
begin() {
    step=$1
    say "$1: $2"
}

fail() {
    printf 'setup: stopped at "%s": %s\n' "$step" "$1" >&2
    exit 1
}

tidy_up() {
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
    local file
    for file in "${undo[@]}"; do as_root rm -f "$file"; done
}

trap 'printf "setup: stopped at \"%s\": this failed: %s\n" "$step" "$BASH_COMMAND" >&2' ERR
trap tidy_up EXIT

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo; run scripts/setup.sh once as root"
    fi
}

# A folder that is gone when the script ends.
make_scratch() {
    if [[ -z $scratch ]]; then scratch=$(mktemp -d); fi
}

# at_least HAVE WANTED: compares versions.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | sed -n 1p) == "$2" ]]; }

# ---- packages ----

is_apt_fresh=false

refresh_apt() {
    if ! $is_apt_fresh; then
        as_root apt-get -qq update
        is_apt_fresh=true
    fi
}

# Debian starts a service when its package arrives, and makes a Postgres cluster. For these packages it shall not: both
# files are gone again when the script ends.
keep_services_stopped() {
    if ((${#undo[@]} > 0)); then return; fi
    local policy=/usr/sbin/policy-rc.d
    local cluster=/etc/postgresql-common/createcluster.d/tertulia-setup.conf
    if [[ ! -e $policy ]]; then
        undo+=("$policy")
        as_root tee "$policy" >/dev/null <<'POLICY'
#!/bin/sh
case "$1" in postgresql* | redis* | pgbouncer*) exit 101 ;; esac
POLICY
        as_root chmod 755 "$policy"
    fi
    undo+=("$cluster")
    as_root mkdir -p "${cluster%/*}"
    echo 'create_main_cluster = false' | as_root tee "$cluster" >/dev/null
}

install_packages() {
    refresh_apt
    keep_services_stopped
    make_scratch
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -y -qq --no-install-recommends install "$@" >"$scratch/apt.log" 2>&1 ||
        fail "apt-get install $* failed: $(tail -n 5 "$scratch/apt.log")"
}

has_package() { [[ $(apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" { print $2 }') == [0-9]* ]]; }

# ---- what is there ----

# The `bin` folder of the newest Postgres that will do; nothing if there is none.
postgres_bin() {
    local program version
    for program in /usr/lib/postgresql/*/bin/postgres "$(command -v postgres || true)"; do
        program=$(readlink -f "$program" || true)
        if [[ -x $program && -x ${program%/*}/initdb ]]; then
            version=$("$program" --version | grep -oE '[0-9]+' | sed -n 1p)
            if ((version >= POSTGRES_MIN)); then printf '%s %s\n' "$version" "${program%/*}"; fi
        fi
    done | sort -n | tail -n 1 | cut -d ' ' -f 2
}

has_pgvector() {
    local bin=$1
    [[ -x $bin/pg_config && -e $("$bin/pg_config" --sharedir)/extension/vector.control ]]
}

has_weights() {
    local row sum name
    for row in "${WEIGHTS[@]}"; do
        read -r sum name _ <<<"$row"
        [[ -e weights/$name ]] && sha256sum --status --check - <<<"$sum  weights/$name" || return 1
    done
}

# Debian has it where only root looks by default.
pgbouncer_program() { command -v pgbouncer /usr/sbin/pgbouncer | sed -n 1p || true; }

has_build_tools() { [[ $(command -v gcc g++ make pkg-config | wc -l) == 4 ]]; }

# ---- the parts ----

check_rust() {
    step="Rust $RUST_MIN"
    if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
        fail "cargo is installed, but not on the PATH: run '. \"${CARGO_HOME:-$HOME/.cargo}/env\"' and try again"
    fi
    if ! command -v cargo >/dev/null; then
        fail "there is no Rust toolchain, and this script does not choose one for you.
  Debian 13, Ubuntu:  apt install rustup && rustup default stable
  elsewhere:          install rustup as https://rustup.rs says"
    fi
    local version
    version=$(rustc --version | cut -d ' ' -f 2)
    at_least "$version" "$RUST_MIN" || fail "rustc is $version; 'rustup update stable' brings a newer one"
}

install_by_hand() {
    local bin missing=()
    bin=$(postgres_bin)
    [[ -n $bin ]] || missing+=("PostgreSQL $POSTGRES_MIN or newer with its contrib modules (initdb and postgres on the PATH)")
    if [[ -z $bin ]] || ! has_pgvector "$bin"; then missing+=("pgvector 0.7 or newer for that PostgreSQL"); fi
    command -v redis-server >/dev/null || missing+=("redis-server, which tests run against")
    [[ -n $(pgbouncer_program) ]] || missing+=("pgbouncer, which \`make test-pgbouncer\` runs the tests through")
    has_build_tools || missing+=("gcc, g++, make and pkg-config, which crates are built with")
    python3 -m pip --version >/dev/null 2>&1 || has_weights || missing+=("Python 3 with pip, which fetches the encoder's weights")
    if ((${#missing[@]} > 0)); then
        step="this system has no apt"
        fail "install these by hand, then run it again:$(printf '\n  - %s' "${missing[@]}")"
    fi
}

install_postgres() {
    if [[ -n $(postgres_bin) ]]; then return; fi
    begin "PostgreSQL" "the database; the server runs a private one if it is given none"
    refresh_apt
    local package
    package=$(apt-cache depends --important postgresql | awk '$2 ~ /^postgresql-[0-9]+$/ && !seen++ { print $2 }')
    [[ -n $package ]] || fail "apt knows no PostgreSQL"
    ((${package##*-} >= POSTGRES_MIN)) || fail "apt has only $package; add PostgreSQL's own apt repository, or move to a newer release"
    install_packages "$package"
}

install_pgvector() {
    local bin version
    bin=$(postgres_bin)
    if has_pgvector "$bin"; then return; fi
    version=$("$bin/postgres" --version | grep -oE '[0-9]+' | sed -n 1p)
    begin "pgvector" "vectors in PostgreSQL $version"
    refresh_apt
    if has_package "postgresql-$version-pgvector"; then
        install_packages "postgresql-$version-pgvector"
    else
        build_pgvector "$bin" "$version"
    fi
    has_pgvector "$bin" || fail "pgvector is installed, but not where $bin/pg_config looks"
}

# Builds the source package of a later release. Apt checks its signatures; lists and cache are in a folder of their own, so
# that the machine's apt is left as it is.
build_pgvector() {
    local bin=$1 version=$2 apt mirror release folder
    begin "pgvector's source" "this release has no package of it; it is built for PostgreSQL $version"
    install_packages build-essential "postgresql-server-dev-$version"
    mirror=$(apt-get indextargets --format "\$(ORIGIN)/\$(LABEL) \$(SITE)" 'Created-By: Packages' |
        awk '$1 == "Debian/Debian" && !seen++ { print $2 }')
    [[ -n $mirror ]] || fail "none of this machine's apt sources is Debian's; install pgvector for PostgreSQL $version by hand"
    make_scratch
    folder=$scratch/pgvector
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/source"
    apt=(apt-get -qq -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache"
        -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User="$(id -un)")
    for release in "${PGVECTOR_RELEASES[@]}"; do
        echo "deb-src $mirror $release main" >"$folder/sources.list"
        if "${apt[@]}" update && (cd "$folder" && "${apt[@]}" source --download-only pgvector); then break; fi
    done
    tar -xf "$folder"/pgvector_*.orig.tar.* -C "$folder/source" --strip-components=1 ||
        fail "the source could not be fetched; install pgvector for PostgreSQL $version by hand"
    # No -march=native (OPTFLAGS) and no JIT code: what is built here shall run on the machine's next processor too.
    local make=(make -s -C "$folder/source" OPTFLAGS= with_llvm=no "PG_CONFIG=$bin/pg_config")
    "${make[@]}" -j "$(nproc)" >"$folder/make.log" 2>&1 || fail "it does not build: $(tail -n 5 "$folder/make.log")"
    as_root "${make[@]}" install >"$folder/make.log" 2>&1 || fail "it does not install: $(tail -n 5 "$folder/make.log")"
}

install_tools() {
    if ! has_build_tools; then
        begin "build tools" "some crates compile C"
        install_packages build-essential pkg-config
    fi
    if ! command -v redis-server >/dev/null; then
        begin "redis-server" "tests run against a real one"
        install_packages redis-server
    fi
    if [[ -z $(pgbouncer_program) ]]; then
        begin "pgbouncer" "\`make test-pgbouncer\` runs the tests through it"
        install_packages pgbouncer
    fi
}

install_weights() {
    if has_weights; then return; fi
    begin "weights" "the static encoder's table of token vectors ($WHEEL_PACKAGE $WHEEL_VERSION, MIT licence, 18 MB)"
    if ! python3 -m pip --version >/dev/null 2>&1; then install_packages python3-pip; fi
    make_scratch
    python3 -m pip --quiet --disable-pip-version-check download --no-deps --only-binary :all: "${WHEEL_PLATFORM[@]}" \
        --dest "$scratch" "$WHEEL_PACKAGE==$WHEEL_VERSION"
    local wheel=("$scratch/$WHEEL_PACKAGE"-*.whl)
    sha256sum --status --check - <<<"$WHEEL_SHA256  ${wheel[0]}" || fail "${wheel[0]##*/} is not the file that was expected"
    mkdir -p weights
    local row sum name member new
    for row in "${WEIGHTS[@]}"; do
        read -r sum name member <<<"$row"
        new=weights/.$name.$$
        python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
            "${wheel[0]}" "$member" >"$new"
        sha256sum --status --check - <<<"$sum  $new" || fail "$name is not the file that was expected"
        mv -f "$new" "weights/$name"
    done
}

check_rust
if command -v apt-get >/dev/null; then
    install_postgres
    install_pgvector
    install_tools
else
    install_by_hand
fi
install_weights
