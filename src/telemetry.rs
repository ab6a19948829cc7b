//! Logs: set up once by `main`. One JSON object a line for machines, readable lines on a terminal.
//!
//! Never in a log: bodies, questions, keys, personal data.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Sends the process's logs to standard error as `config` says. A second call changes nothing.
pub fn init_logs(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let outcome = if json {
        logs.json().flatten_event(true).try_init()
    } else {
        logs.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    if outcome.is_err() {
        tracing::debug!("logs were set up before");
    }
}
