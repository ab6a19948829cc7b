//! A bare responder: hyper, the server's number of threads, the server's allocator, and nothing to do.
//!
//! It runs in a process of its own, as the server does, and answers each request with "hello".

use std::{
    convert::Infallible,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::LocalSet,
};

use crate::{
    client::{Connection, Server},
    load::{Outcome, Peer},
};

/// Connections that may wait for a shard to take them; the acceptor waits when it is full.
const HANDOVER_MAX: usize = 1_024;

/// Arguments of `hello`.
#[derive(Debug, Args)]
pub(crate) struct HelloArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    listen: SocketAddr,
    /// Threads, each with a runtime of its own; 0 means one for each core
    #[arg(long, default_value_t = 0)]
    shards: usize,
}

/// Runs `hello` until its standard input ends, which it does when the process that started it is gone.
///
/// # Errors
/// If it cannot listen.
pub(crate) fn run(args: &HelloArgs) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards: Vec<mpsc::Sender<std::net::TcpStream>> =
        (0..if args.shards == 0 { cores } else { args.shards }).map(|_| start_shard()).collect::<Result<_, _>>()?;
    std::thread::spawn(|| {
        // A terminal's input ends with Ctrl-D.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(args.listen).await.with_context(|| format!("{} cannot be listened on", args.listen))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", listener.local_addr()?)?;
        out.flush()?;
        for shard in shards.iter().cycle() {
            let (stream, _) = listener.accept().await?;
            shard.send(stream.into_std()?).await.context("a shard ended")?;
        }
        Ok(())
    })
}

/// A thread that answers on the connections it is handed.
fn start_shard() -> anyhow::Result<mpsc::Sender<std::net::TcpStream>> {
    let (sender, mut receiver) = mpsc::channel::<std::net::TcpStream>(HANDOVER_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("hello".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, async {
            while let Some(stream) = receiver.recv().await {
                let Ok(stream) = TcpStream::from_std(stream) else { continue };
                // It only delays small replies; without it they are late, not wrong.
                let _ = stream.set_nodelay(true);
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(hello));
                tokio::task::spawn_local(connection);
            }
        });
    })?;
    Ok(sender)
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

/// The responder in a process of its own, which ends with this value.
pub(crate) struct HelloServer {
    process: Child,
    authority: String,
}

impl HelloServer {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// If this program cannot be started a second time.
    pub(crate) fn start(shards: usize) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["hello", "--shards", &shards.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the bare responder does not start")?;
        let mut authority = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut authority)?;
        }
        let server = Self { process, authority: authority.trim().to_owned() };
        ensure!(!server.authority.is_empty(), "the bare responder does not start");
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }
}

impl Drop for HelloServer {
    fn drop(&mut self) {
        // It may have ended already, and there is nothing else that could be done.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection to it.
///
/// # Errors
/// If it does not answer.
pub(crate) async fn connect(authority: String) -> anyhow::Result<HelloPeer> {
    Ok(HelloPeer { connection: Server::open(authority).connect().await? })
}

/// Asks the bare responder.
pub(crate) struct HelloPeer {
    connection: Connection,
}

impl Peer for HelloPeer {
    async fn ask(&mut self, _turn: u64) -> Outcome {
        match self.connection.send(Method::GET, "/", Bytes::new()).await {
            Ok((StatusCode::OK, _)) => Outcome::Answered { server: None },
            Ok((status, _)) => Outcome::Failed(format!("status {}", status.as_u16())),
            Err(_) => Outcome::Failed("the connection broke".into()),
        }
    }
}
