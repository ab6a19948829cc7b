//! One connection to a server over HTTP, kept open from request to request.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

/// Where the server is, and as whom to ask.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Address of the server
    #[arg(long, env = "TERTULIA_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// API key, from `tertulia key create`
    #[arg(long, env = "TERTULIA_KEY", hide_env_values = true)]
    key: String,
    /// Speak HTTP/2 instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
}

/// A server, and how to ask it.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// Host and port, as in the URL.
    authority: String,
    /// Value of the `Authorization` header.
    authorization: Option<String>,
    is_http2: bool,
}

impl Server {
    /// The server that the command line names.
    ///
    /// # Errors
    /// If the URL is not `http://host:port`.
    pub(crate) fn from_args(args: &ServerArgs) -> anyhow::Result<Self> {
        let authorization = Some(format!("Bearer {}", args.key));
        Ok(Self { authority: authority(&args.url)?, authorization, is_http2: args.http2 })
    }

    /// A server that wants no key.
    pub(crate) fn open(authority: String) -> Self {
        Self { authority, authorization: None, is_http2: false }
    }

    /// Opens a connection. Has to be called on a `LocalSet`, which then also drives the connection.
    ///
    /// # Errors
    /// If nobody listens there, or not by this protocol.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .with_context(|| format!("nobody answers at {}; is the server running there?", self.authority))?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let sender = if self.is_http2 {
            let (sender, connection) =
                http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).handshake(io).await?;
            tokio::task::spawn_local(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::task::spawn_local(connection);
            Sender::Http1(sender)
        };
        Ok(Connection { server: self.clone(), sender })
    }
}

/// `host:port` of `http://host:port/`.
fn authority(url: &str) -> anyhow::Result<String> {
    let Some(rest) = url.strip_prefix("http://") else { bail!("{url} is no address that starts with http://") };
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.contains('/') {
        bail!("{url} must be http://host:port, with nothing after it");
    }
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { rest.to_owned() } else { format!("{rest}:80") })
}

/// An open connection.
pub(crate) struct Connection {
    server: Server,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Sends a request with a JSON body (empty for none) and reads the reply to its end.
    ///
    /// # Errors
    /// If the connection breaks; it is of no use after that.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = self.request(method, path, body)?;
        let reply = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = reply.status();
        Ok((status, reply.into_body().collect().await?.to_bytes()))
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        // HTTP/2 has the authority in the target, HTTP/1.1 in a header.
        let mut request = match &self.sender {
            Sender::Http1(_) => Request::builder().uri(path).header(header::HOST, &self.server.authority),
            Sender::Http2(_) => Request::builder().uri(format!("http://{}{path}", self.server.authority)),
        };
        if let Some(authorization) = &self.server.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        Ok(request.method(method).body(Full::new(body))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(authority("http://127.0.0.1:8080/").unwrap(), "127.0.0.1:8080");
        assert_eq!(authority("http://[::1]:9").unwrap(), "[::1]:9");
        assert_eq!(authority("http://server").unwrap(), "server:80");
        for url in ["https://server", "server:80", "http://", "http://server:80/v1"] {
            assert!(authority(url).is_err(), "{url}");
        }
    }
}
