//! The port, taken before anything else is started, and the files that a process may have open.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{Counters, tls};
use crate::config::ServerConfig;

/// Connections that the kernel keeps for the acceptor; it cuts this to its own limit (`net.core.somaxconn`).
const BACKLOG: i32 = 4_096;
/// Open files kept for everything but clients: database connections, snapshots, logs.
const OTHER_FILES: usize = 512;

/// A port that is taken, and everything of the server that can be known before it starts.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    pub(super) local_addr: SocketAddr,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) config: ServerConfig,
    /// `server.connections_max`, or less where the limit of open files is lower.
    pub(super) connections_max: usize,
    pub(super) counters: Arc<Counters>,
}

impl Listener {
    /// Where it listens: the port chosen where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What will have happened to connections.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

pub(super) fn bind(config: &ServerConfig) -> anyhow::Result<Listener> {
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(Arc::new(tls::load(cert, key)?)),
        _ => None,
    };
    let socket = listen(config.listen).map_err(|error| told(error, config.listen))?;
    let local_addr = socket.local_addr().context("a listening socket has no address")?;
    let files = raise_files_limit();
    let connections_max = config.connections_max.min(connections_within(files));
    if connections_max < config.connections_max {
        tracing::warn!(
            connections_max,
            files,
            asked = config.connections_max,
            "the limit of open files allows fewer connections than server.connections_max; raise it (ulimit -Hn)"
        );
    } else {
        tracing::info!(connections_max, files, "limit of open files");
    }
    let shards = match config.shards {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        shards => shards,
    };
    let counters = Arc::new(Counters::new(shards));
    Ok(Listener { socket, local_addr, tls, config: config.clone(), connections_max, counters })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // So that a restart need not wait until the connections of the last run have left TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// What to do about a port that cannot be had.
fn told(error: io::Error, address: SocketAddr) -> anyhow::Error {
    let setting = "server.listen (TERTULIA_SERVER_LISTEN, or --listen)";
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "{address} is taken by another process (`ss -ltnp 'sport = :{port}'` names it): stop it, or choose another \
             address with {setting}"
        ),
        io::ErrorKind::PermissionDenied => anyhow!(
            "{address} is not allowed: a port below 1024 needs a privilege. Choose a higher one with {setting}, or \
             allow it with `setcap cap_net_bind_service=+ep` on the program"
        ),
        io::ErrorKind::AddrNotAvailable => {
            anyhow!("{address} is no address of this machine: set {setting} to one of its own, or to 0.0.0.0:{port}")
        }
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}, which {setting} sets")),
    }
}

/// Raises the soft limit of open files to the hard one, which any process may; gives back what then holds.
fn raise_files_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let files = getrlimit(Resource::Nofile).current;
    files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

/// Connections that `files` open files allow, with some left for everything else.
fn connections_within(files: usize) -> usize {
    files.saturating_sub(OTHER_FILES).max(files / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(listen: &str) -> ServerConfig {
        ServerConfig { listen: listen.parse().unwrap(), ..Config::default().server }
    }

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let first = bind(&config("127.0.0.1:0")).unwrap();
        let address = first.local_addr().to_string();
        let text = bind(&config(&address)).unwrap_err().to_string();
        assert!(text.contains(&address) && text.contains("taken") && text.contains("server.listen"), "{text}");
        drop(first);
        bind(&config(&address)).expect("a port that was let go is free at once");
    }

    #[test]
    fn an_address_of_another_machine_is_told_so() {
        let text = bind(&config("192.0.2.1:8080")).unwrap_err().to_string();
        assert!(text.contains("192.0.2.1:8080") && text.contains("no address of this machine"), "{text}");
    }

    #[test]
    fn a_port_that_is_not_allowed_is_told_so() {
        let text = told(io::ErrorKind::PermissionDenied.into(), SocketAddr::from(([0, 0, 0, 0], 80))).to_string();
        assert!(text.contains("0.0.0.0:80") && text.contains("below 1024"), "{text}");
    }

    #[test]
    fn some_open_files_are_kept_for_everything_but_clients() {
        assert_eq!(connections_within(20_000), 19_488);
        assert_eq!(connections_within(256), 128);
        assert_eq!(connections_within(0), 1);
    }

    #[test]
    fn the_soft_limit_of_open_files_reaches_the_hard_one() {
        raise_files_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn zero_shards_mean_one_for_each_core() {
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(bind(&config("127.0.0.1:0")).unwrap().counters().open().len(), cores);
    }
}
