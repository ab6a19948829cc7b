//! Certificate and key from PEM files, and what TLS offers: 1.2 and 1.3, HTTP/2 before HTTP/1.1.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use rustls::{
    ServerConfig, crypto,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// The protocol's name in ALPN.
pub(super) const HTTP_2: &[u8] = b"h2";

/// Reads the certificate chain (the server's own certificate first) and its private key.
///
/// # Errors
/// A file is missing, unreadable, holds something else, or the two do not belong together; the text names the file.
pub(super) fn load(cert: &Path, key: &Path) -> anyhow::Result<ServerConfig> {
    let chain = read_chain(cert).with_context(|| format!("server.tls_cert: {}", cert.display()))?;
    let private_key = read_key(key).with_context(|| format!("server.tls_key: {}", key.display()))?;
    let provider = crypto::ring::default_provider();
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                anyhow!("the key in {} is not the key of the first certificate in {}", key.display(), cert.display())
            }
            error => anyhow::Error::new(error).context(format!(
                "{} and {} make no TLS identity",
                cert.display(),
                key.display()
            )),
        })?;
    config.alpn_protocols = vec![HTTP_2.to_vec(), b"http/1.1".to_vec()];
    // Resumption by tickets: nothing is kept for a client that went away, on whichever shard it comes back.
    config.ticketer = crypto::ring::Ticketer::new()?;
    Ok(config)
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(told)?;
    if chain.is_empty() {
        bail!("holds no certificate (no `-----BEGIN CERTIFICATE-----`); are certificate and key swapped?");
    }
    Ok(chain)
}

fn read_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_file(path) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.contains("ENCRYPTED PRIVATE KEY") {
                bail!("the private key is encrypted; decrypt it (`openssl pkey -in KEY -out PLAIN_KEY`)");
            }
            bail!("holds no private key (no `-----BEGIN … PRIVATE KEY-----`); are certificate and key swapped?");
        }
        Err(error) => Err(told(error)),
    }
}

/// A PEM error in words that stand behind the file's name.
fn told(error: pem::Error) -> anyhow::Error {
    match error {
        pem::Error::Io(error) => anyhow!("cannot be read: {error}"),
        error => anyhow!("is not PEM: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `load` says of the two files with the texts given.
    fn check(cert: &str, key: &str, expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let (cert_path, key_path) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert_path, cert).unwrap();
        std::fs::write(&key_path, key).unwrap();
        let text = format!("{:#}", load(&cert_path, &key_path).unwrap_err());
        for part in expected {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_name() {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (cert.pem(), signing_key.serialize_pem());
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().signing_key.serialize_pem();
        check("", &key, &["cert.pem", "no certificate"]);
        check(&key, &cert, &["cert.pem", "swapped"]);
        check(&cert, "", &["key.pem", "no private key"]);
        check(&cert, &other, &["key.pem", "cert.pem", "not the key"]);
        check(&cert, &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), &["key.pem", "encrypted"]);
        check("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----", &key, &["cert.pem", "not PEM"]);
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", &key, &["cert.pem"]);
        check(&cert, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", &["key.pem"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let text = format!("{:#}", load(Path::new("/nowhere/cert.pem"), Path::new("/nowhere/key.pem")).unwrap_err());
        assert!(text.contains("/nowhere/cert.pem") && text.contains("cannot be read"), "{text}");
    }
}
