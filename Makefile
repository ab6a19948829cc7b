# What people and CI do here, one word each. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := bash

.PHONY: help
help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing on this machine, and say what and why
	@scripts/setup.sh

.PHONY: run
run: setup ## build, start the server with PostgreSQL's manual in it, and stay up until Ctrl-C
	@scripts/demo.sh check
	cargo build --locked --release --workspace --bins
	@scripts/demo.sh

.PHONY: lint
lint: setup ## formatting and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; fi

# One process for each test binary, so that the tests of one share a Postgres; nextest would start one for each test.
# Documentation's examples come first: the last lines are then those of the tests proper.
.PHONY: test
test: lint ## what CI runs: setup, lints and all tests
	cargo test --locked --workspace --doc
	cargo test --locked --workspace --lib --bins --tests

.PHONY: test-pgbouncer
test-pgbouncer: setup ## the integration tests through PgBouncer in transaction mode, with pools of 8 connections and of one
	TERTULIA_TEST_PGBOUNCER=8 cargo test --locked -p tertulia --test it
	TERTULIA_TEST_PGBOUNCER=1 cargo test --locked -p tertulia --test it

.PHONY: bench
bench: setup ## benchmarks in process, on PostgreSQL's manual
	@scripts/documents.sh demo/postgresql postgresql-doc
	cargo bench --locked --workspace

.PHONY: bench-data
bench-data: setup ## 50,000 real chunks (manuals of PostgreSQL, Python and Linux) in a knowledge base, once
	cargo build --locked --release --workspace --bins
	@scripts/loadtest.sh data

.PHONY: loadtest
loadtest: bench-data ## searches over HTTP against SQL and a bare responder, in one run; ARGS="…" for loadtest search
	@scripts/loadtest.sh search $(ARGS)

.PHONY: loadtest-commit
loadtest-commit: bench-data ## time from a commit to when a search finds it; ARGS="…" for loadtest commit
	@scripts/loadtest.sh commit $(ARGS)

.PHONY: loadtest-seed
loadtest-seed: setup ## a database as years of use leave it: 100 tenants, one with 2,000,000 messages; ARGS="--sessions 20000 --messages 200000" for less
	cargo build --locked --release --workspace --bins
	@scripts/loadtest.sh seed $(ARGS)

.PHONY: loadtest-queries
loadtest-queries: setup ## the most frequent statements in that database, timed as the application role; ARGS="…" for loadtest queries
	cargo build --locked --release --workspace --bins
	@scripts/loadtest.sh queries $(ARGS)

.PHONY: fuzz
fuzz: ## what the index crate reads, fuzzed for FUZZ_SECONDS=600 each (needs cargo-fuzz)
	@for target in filter question segment; do \
	    cargo fuzz run --fuzz-dir index/fuzz --sanitizer none $$target -- -max_total_time=$(or $(FUZZ_SECONDS),600) || exit 1; \
	done

.PHONY: bench-quality
bench-quality: bench-data ## how well questions with known answers are answered; ARGS="--tune" and others for loadtest quality
	@scripts/loadtest.sh quality $(ARGS)

.PHONY: bench-vectors
bench-vectors: setup ## nearest vectors beside usearch, hnswlib, faiss and qdrant-edge (from PyPI, into target/)
	cargo build --locked --release --example engine
	@scripts/bench.sh vectors $(ARGS)

.PHONY: bench-words
bench-words: setup ## keyword search beside tantivy, which takes minutes to build
	@scripts/bench.sh words

.PHONY: bench-growth
bench-growth: setup ## time and memory of an index of 1,000 to 1,000,000 chunks; ARGS="--rows 100000" for less
	cargo build --locked --release --example engine
	@scripts/bench.sh growth $(ARGS)

.PHONY: bench-graph
bench-graph: setup ## a graph beside a scan of 1,000,000 vectors; ARGS="--rows 100000" for less, "--dimensions 768" for longer ones
	cargo build --locked --release --example engine
	@scripts/bench.sh graph $(ARGS)

.PHONY: audit
audit: ## licences, advisories and sources of all crates (needs cargo-deny)
	cargo deny check

.PHONY: clean-data
clean-data: ## remove what `make run` and `make loadtest` have stored
	rm -rf data data-loadtest data-seeded data-by-hand
