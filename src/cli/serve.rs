//! `tertulia serve`: everything started in order, everything stopped in the opposite order.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Environment, SettingsArgs};
use crate::{
    app::Stack,
    config::{self, Config},
    telemetry,
};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting, with what to do about it.
pub fn run(args: &ServeArgs, environment: Environment<'_>) -> anyhow::Result<()> {
    let config = args.settings.load(args.listen, environment)?;
    telemetry::init_logs(&config.log);
    for unknown in config::unknown_variables(environment.names) {
        tracing::warn!(variable = unknown.name, "{unknown}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("service")
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the operating system gives no threads")?;
    let outcome = runtime.block_on(serve(config));
    // Every task was waited for; what is left (a blocking read, say) must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::pin!(stop);
    let stack = tokio::select! {
        stack = Stack::start(config) => stack?,
        signal = &mut stop => {
            tracing::info!(signal, "stopped before it was ready");
            return Ok(());
        }
    };
    tracing::info!(address = %stack.local_addr(), "ready");
    let signal = stop.await;
    tracing::info!(signal, "stopping");
    stack.stop().await;
    tracing::info!("stopped");
    Ok(())
}
