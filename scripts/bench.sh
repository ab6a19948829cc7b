#!/usr/bin/env bash
# Measures the engine in process and puts figures and a picture where docs/benchmarks.md shows them.
#
#   scripts/bench.sh vectors [ARG…]    nearest vectors beside four libraries from PyPI; ARG for benches/peers/vectors.py
#   scripts/bench.sh growth [ARG…]     one index from 1,000 to 1,000,000 chunks; ARG for `engine growth`
#   scripts/bench.sh words             keyword search beside tantivy, which it builds
#   scripts/bench.sh graph [ARG…]      a graph beside a scan; ARG for `engine graph`
#
# Python and what it needs go into target/, nothing else is touched. Figures go to benches/runs/<date>-<machine>/, where
# MACHINE names the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command=${1:?one of vectors, growth, words, graph}
shift
engine=target/release/examples/engine
python=target/peers/bin/python
runs=benches/runs/$(date +%F)-${MACHINE:-$(uname -m)-$(nproc)-cores}

# The libraries, in a place of their own; installed anew if what is wanted has changed.
wanted=benches/peers/requirements.txt
if [[ $command != words && $command != graph ]] && ! cmp --silent "$wanted" target/peers/requirements.txt; then
    rm -rf target/peers
    python3 -m venv target/peers
    "$python" -m pip install --quiet --disable-pip-version-check --requirement "$wanted" >&2
    cp "$wanted" target/peers/requirements.txt
fi

scripts/documents.sh demo/postgresql postgresql-doc
scripts/documents.sh demo/python python3-doc
scripts/documents.sh demo/linux linux-doc admin-guide driver-api filesystems networking userspace-api

case $command in
    vectors)
        "$engine" export target/bench-vectors >&2
        "$python" benches/peers/vectors.py target/bench-vectors "$engine" "$runs/vectors.json" docs/vectors.svg "$@" |
            tee target/bench-vectors/table.md
        cp target/bench-vectors/table.md "$runs/vectors.md"
        ;;
    growth)
        mkdir -p "$runs"
        "$engine" growth "$@" | "$python" benches/growth.py "$runs/growth.jsonl" docs/growth.svg | tee "$runs/growth.md"
        ;;
    words)
        mkdir -p "$runs"
        cargo run --locked --release --manifest-path benches/peers/words/Cargo.toml --target-dir target | tee "$runs/words.txt"
        ;;
    graph)
        mkdir -p "$runs"
        "$engine" graph "$@" | tee "$runs/graph.txt"
        ;;
    *)
        echo "one of vectors, growth, words, graph; not $command" >&2
        exit 64
        ;;
esac
