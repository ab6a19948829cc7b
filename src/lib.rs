//! tertulia: the realtime conversation and retrieval server.
//!
//! The rooms, in reading order: [`config`] and [`ctx`] and [`error`] are leaves that everything may use; [`server`]
//! accepts connections and hands them to shards; [`http`] is hyper's mechanics without any resource; [`api`] is the route
//! table and a file for each resource; [`app`] holds the domain rooms, [`accounts`], [`chat`] and [`knowledge`], and
//! [`repeats`], what is done once; [`store`] holds all SQL, [`bus`] all Redis; [`watch`] sees what a request asks of Postgres.
//! `ARCHITECTURE.md` has the map and what each room promises.

#![forbid(unsafe_code)]

pub mod accounts;
pub mod api;
pub mod app;
pub mod bus;
pub mod chat;
pub mod cli;
pub mod compute;
pub mod config;
pub mod ctx;
pub mod error;
pub mod http;
pub mod knowledge;
pub mod metadata;
pub mod metrics;
pub mod origins;
pub mod redis_url;
pub mod repeats;
pub mod secrets;
pub mod server;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod watch;
