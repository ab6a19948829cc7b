//! Integration tests: one binary, a file for each feature, against a real Postgres that the harness starts and stops.

#![forbid(unsafe_code)]
#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

mod harness;

mod api_keys;
mod auth;
mod bad_input;
mod by_filter;
mod cli;
mod crash;
mod documents;
mod encoders;
mod generations;
mod graphs;
mod http;
mod idempotency;
mod knowledge_bases;
mod limits;
mod lists;
mod meetings;
mod memory;
mod messages;
mod openapi;
mod outage;
mod redis;
mod replica;
mod rerank;
mod scripts;
mod search;
mod sessions;
mod sync;
mod tenancy;
mod users;
mod visitors;
mod watch;
mod widgets;
