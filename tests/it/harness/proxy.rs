//! A TCP proxy in front of Postgres that a test can cut, so that an outage looks to the server like a real one.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    net::{TcpListener, UnixStream},
    task::JoinHandle,
};

/// Forwards connections to a Unix socket until it is cut.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Proxy {
    /// A proxy to the Unix socket at `target`.
    pub async fn start(target: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let (cut, open) = (is_cut.clone(), connections.clone());
        let accept = async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let target = target.clone();
                #[expect(clippy::disallowed_methods, reason = "a test's own task, gone with its runtime")]
                let forward = tokio::spawn(async move {
                    if let Ok(mut server) = UnixStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
                open.lock().unwrap().push(forward);
            }
        };
        #[expect(clippy::disallowed_methods, reason = "a test's own task, gone with its runtime")]
        tokio::spawn(accept);
        Self { address, is_cut, connections }
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.end_connections();
    }

    /// Ends every connection; new ones are taken.
    pub fn end_connections(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}
