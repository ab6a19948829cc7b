//! Where Postgres is, as whom to log in, and how the way there is secured.
//!
//! `sslmode` means what it means to libpq: `prefer` (the default) encrypts if the server can, `require` insists on it,
//! `verify-full` also checks the certificate and its host name, against the system's authorities or those in the PEM file
//! that `sslrootcert` names. Unix sockets are never encrypted.

use std::{path::Path, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_postgres::{
    Client, Config, Connection, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;

/// The encrypted stream, where there is one.
pub(super) type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// A peer that has not answered keep-alives, nor acknowledged what was sent, for this long is taken for dead.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(30);

/// How Postgres is reached in one role.
#[derive(Clone)]
pub struct Address {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    /// The setting that it comes from; none for the private Postgres.
    setting: Option<String>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `Config` hides the password.
        self.config.fmt(f)
    }
}

impl std::fmt::Display for Address {
    /// Host, port, role, database and setting, for people; no password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.config.get_hosts().first(), self.config.get_hostaddrs().first()) {
            (Some(Host::Tcp(host)), _) => f.write_str(host)?,
            (Some(Host::Unix(folder)), _) => write!(f, "{}", folder.display())?,
            (None, Some(address)) => write!(f, "{address}")?,
            (None, None) => {}
        }
        write!(f, ":{}", self.config.get_ports().first().unwrap_or(&5432))?;
        let user = self.config.get_user().unwrap_or_default();
        write!(f, " as {user}, database {}", self.config.get_dbname().unwrap_or(user))?;
        self.setting.iter().try_for_each(|setting| write!(f, ", from {setting}"))
    }
}

impl Address {
    /// From a URL such as `postgres://user:password@host/database?sslmode=verify-full`. `name` is the setting's name.
    ///
    /// # Errors
    /// If it is no such URL, or asks for what is not there; the text has no part of the URL that could be secret.
    pub fn parse(name: &str, url: &str, connect_timeout: Duration) -> Result<Self, StoreError> {
        let wrong = |told: String| StoreError::Setup(format!("{name} cannot be used: {told}"));
        let (plain_url, security) = Security::split_off(url).map_err(wrong)?;
        let mut config: Config = plain_url.parse().map_err(|error| wrong(chain(&error)))?;
        if config.get_user().is_none() {
            return Err(wrong("it names no user".into()));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("it names no host".into()));
        }
        if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) && config.get_hostaddrs().is_empty() {
            config.ssl_mode(SslMode::Disable);
        }
        let tls = security.tls().map_err(wrong)?;
        Ok(Self::new(config, tls, connect_timeout, Some(name.to_owned())))
    }

    /// Through the Unix socket in `socket_dir`, without a password.
    pub(super) fn local(socket_dir: &Path, port: u16, user: &str, database: &str, connect_timeout: Duration) -> Self {
        let mut config = Config::new();
        config.host_path(socket_dir).port(port).user(user).dbname(database).ssl_mode(SslMode::Disable);
        Self::new(config, MakeRustlsConnect::new(client_config(unverified())), connect_timeout, None)
    }

    fn new(mut config: Config, tls: MakeRustlsConnect, connect_timeout: Duration, setting: Option<String>) -> Self {
        config.connect_timeout(connect_timeout);
        config.keepalives_idle(PEER_SILENCE_MAX / 2).keepalives_interval(PEER_SILENCE_MAX / 6).keepalives_retries(3);
        config.tcp_user_timeout(PEER_SILENCE_MAX);
        if config.get_application_name().is_none() {
            config.application_name("tertulia");
        }
        Self { config, tls, setting }
    }

    /// A connection beside the pools. Nothing moves on it until the caller has its second half polled.
    pub(super) async fn connect(&self) -> Result<(Client, Connection<Socket, TlsStream>), StoreError> {
        let connected = self.config.connect(self.tls.clone()).await;
        connected.map_err(|source| StoreError::Connect { place: self.to_string(), source })
    }

    /// A connection beside the pools, driven by a task on the current runtime until the client is dropped.
    pub(super) async fn connect_and_drive(&self) -> Result<Client, StoreError> {
        let (client, connection) = self.connect().await?;
        tokio::runtime::Handle::current().spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a database connection ended");
            }
        });
        Ok(client)
    }
}

/// What the URL asks for beyond what [`Config`] understands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Security {
    verifies: bool,
    root_cert: Option<String>,
}

impl Security {
    /// Takes `sslmode=verify-full` and `sslrootcert` out of the query of `url`.
    fn split_off(url: &str) -> Result<(String, Self), String> {
        let mut security = Self::default();
        let Some((address, query)) = url.split_once('?') else { return Ok((url.into(), security)) };
        let mut kept = Vec::new();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("sslmode", "verify-full")) => {
                    security.verifies = true;
                    kept.push("sslmode=require");
                }
                Some(("sslmode", "verify-ca" | "allow")) => {
                    return Err("sslmode may be disable, prefer, require or verify-full".into());
                }
                Some(("sslrootcert", path)) => {
                    let path = percent_decode_str(path).decode_utf8().map_err(|_| "sslrootcert is not UTF-8")?;
                    security.root_cert = (path != "system").then(|| path.into_owned());
                    security.verifies = true;
                }
                _ => kept.push(pair),
            }
        }
        Ok((format!("{address}?{}", kept.join("&")), security))
    }

    fn tls(&self) -> Result<MakeRustlsConnect, String> {
        if !self.verifies {
            return Ok(MakeRustlsConnect::new(client_config(unverified())));
        }
        let mut roots = RootCertStore::empty();
        match &self.root_cert {
            Some(path) => {
                let certificates = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| format!("sslrootcert {path} cannot be read: {error}"))?;
                roots.add_parsable_certificates(certificates);
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            let place = self.root_cert.as_deref().unwrap_or("the system's store");
            return Err(format!("sslmode=verify-full finds no certificate authorities in {place}"));
        }
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| format!("its certificate authorities cannot be used: {error}"))?;
        Ok(MakeRustlsConnect::new(client_config(verifier)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_config(verifier: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of both TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

fn unverified() -> Arc<Unverified> {
    Arc::new(Unverified(provider()))
}

/// Encrypts without asking who the other side is, as libpq does below `sslmode=verify-ca`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told += &format!(": {cause}");
        source = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse("database.url", url, Duration::from_secs(1)).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        let address = parse("postgres://app:secret@db.example.com:6432/tertulia?sslmode=require").expect("it fits");
        assert_eq!(address.config.get_user(), Some("app"));
        assert_eq!(address.config.get_ports(), [6432]);
        assert_eq!(address.config.get_ssl_mode(), SslMode::Require);
        assert!(!format!("{address:?}").contains("secret"));

        let address = parse("postgres://app@h/d?application_name=x&sslmode=prefer").expect("it fits");
        assert_eq!(address.config.get_ssl_mode(), SslMode::Prefer);
        assert_eq!(address.config.get_application_name(), Some("x"));

        let address = parse("postgres://app@%2Frun%2Fpostgresql/d").expect("it fits");
        assert_eq!(address.config.get_ssl_mode(), SslMode::Disable, "sockets are not encrypted");
    }

    #[test]
    fn it_says_where_it_leads_but_no_password() {
        let check = |url: &str, told: &str| assert_eq!(parse(url).expect("it fits").to_string(), told);
        check("postgres://app:secret@h:6432/d", "h:6432 as app, database d, from database.url");
        check("postgres://app@%2Frun%2Fpostgresql", "/run/postgresql:5432 as app, database app, from database.url");
    }

    #[test]
    fn verification_is_taken_out_of_the_url() {
        let (url, security) =
            Security::split_off("postgres://a@h/d?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fa%20b")
                .expect("fits");
        assert_eq!(url, "postgres://a@h/d?sslmode=require&connect_timeout=3");
        assert_eq!(security, Security { verifies: true, root_cert: Some("/a b".into()) });
    }

    #[test]
    fn what_cannot_be_used_is_told_without_secrets() {
        let check = |url: &str, word: &str| {
            let told = parse(url).expect_err("it does not fit");
            assert!(told.contains("database.url") && told.contains(word) && !told.contains("secret"), "{told}");
        };
        check("not a url secret", "");
        check("postgres://app:secret@h/d?sslmode=verify-ca", "verify-full");
        check("postgres://app:secret@h/d?colour=red", "colour");
        check("postgres://h/d", "user");
        check("postgres://app:secret@h/d?sslmode=verify-full&sslrootcert=/nowhere.pem", "/nowhere.pem");
    }
}
