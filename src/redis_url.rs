//! Where Redis is: one server, one that Sentinels watch, or a Cluster. The URL's scheme says which.
//!
//! ```text
//! redis://[[user]:password@]host[:6379][/database]
//! redis+sentinel://[[user]:password@]sentinel[:26379],…/service[/database]
//! redis+cluster://[[user]:password@]host[:6379],…
//! ```
//!
//! `rediss` in place of `redis` encrypts, and checks the certificate against the system's authorities. User and password are
//! those of the data servers; characters that a URL cannot have are percent-encoded.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::config::Secret;

/// A Redis URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// What is at its hosts.
    pub topology: Topology,
    /// Whether connections are encrypted.
    pub has_tls: bool,
    /// As whom to log in; none is the default user.
    pub user: Option<String>,
    /// The password of that user.
    pub password: Option<Secret>,
    /// Hosts and ports: the server, Sentinels, or some of the Cluster's nodes.
    pub hosts: Vec<(String, u16)>,
    /// The database's number.
    pub database: u16,
}

/// How Redis is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single,
    /// A server with replicas; Sentinels know which is which.
    Sentinel {
        /// The name that they know it by.
        service: String,
    },
    /// Servers that share the keys.
    Cluster,
}

impl Topology {
    /// The word for it in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Sentinel { .. } => "sentinel",
            Self::Cluster => "cluster",
        }
    }
}

impl fmt::Display for RedisUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        write!(f, "{} {}", self.topology.as_str(), hosts.join(","))?;
        match &self.topology {
            Topology::Sentinel { service } => write!(f, "/{service}"),
            Topology::Single | Topology::Cluster => Ok(()),
        }
    }
}

impl RedisUrl {
    /// Takes `url` apart.
    ///
    /// # Errors
    /// What it must be instead, without a part of it.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        const FORMS: &str = "a URL such as redis://host:6379, redis+sentinel://host,host,host/service or \
                             redis+cluster://host,host,host (rediss encrypts)";
        let (scheme, rest) = url.split_once("://").ok_or(FORMS)?;
        let (scheme, topology) = scheme.split_once('+').unwrap_or((scheme, ""));
        let has_tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(FORMS),
        };
        if rest.contains(['?', '#']) {
            return Err("a URL without ? and # (percent-encode them in a password)");
        }
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = place.rsplit_once('@').map_or(("", place), |(login, hosts)| (login, hosts));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        if !user.is_empty() && password.is_empty() {
            return Err(
                "a URL with a password behind its user: redis://user:password@host (or redis://:password@host)",
            );
        }
        let mut path = path.split('/');
        let (topology, default_port) = match topology {
            "" => (Topology::Single, 6_379),
            "cluster" => (Topology::Cluster, 6_379),
            "sentinel" => {
                let service = path.next().filter(|service| !service.is_empty());
                let service =
                    service.ok_or("a URL that ends with the service's name: redis+sentinel://host/service")?;
                (Topology::Sentinel { service: decode(service)? }, 26_379)
            }
            _ => return Err(FORMS),
        };
        let database = match path.next() {
            None | Some("") => 0,
            Some(number) => {
                number.parse().map_err(|_| "a URL whose path ends with a database's number, or has none")?
            }
        };
        if path.next().is_some() || (topology == Topology::Cluster && database != 0) {
            return Err("a URL with nothing behind the database's number; a Cluster has only database 0");
        }
        let hosts = hosts.split(',').map(|host| host_and_port(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        if topology == Topology::Single && hosts.len() > 1 {
            return Err("redis+sentinel:// or redis+cluster:// for several hosts");
        }
        let known = |text: &str| Some(text).filter(|text| !text.is_empty()).map(decode).transpose();
        Ok(Self { topology, has_tls, user: known(user)?, password: known(password)?.map(Secret), hosts, database })
    }
}

fn host_and_port(text: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    const WANTED: &str = "a URL with hosts such as redis.example.com:6379 or [::1]:6379, separated by commas";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(WANTED)?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or(WANTED)?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(fits) || (host.contains(':') && !text.starts_with('[')) {
        return Err(WANTED);
    }
    let port = if port.is_empty() { default_port } else { port.parse().map_err(|_| WANTED)? };
    if port == 0 { Err(WANTED) } else { Ok((host.to_owned(), port)) }
}

fn decode(text: &str) -> Result<String, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| "a URL that is UTF-8 once decoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_what_is_there() {
        let check = |url: &str, told: &str, has_tls: bool| {
            let parsed = RedisUrl::parse(url).unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.has_tls), (told, has_tls), "{url}");
        };
        check("redis://localhost", "single localhost:6379", false);
        check("rediss://:secret@redis.example.com:7000/3", "single redis.example.com:7000", true);
        check("redis://[::1]:7000/", "single ::1:7000", false);
        check("redis+sentinel://a,b:7,c/main", "sentinel a:26379,b:7,c:26379/main", false);
        check("rediss+cluster://u:secret@a,b", "cluster a:6379,b:6379", true);
    }

    #[test]
    fn login_and_database_are_read() {
        let url = RedisUrl::parse("redis+sentinel://app:s%40c%2Fret@a/main/5").unwrap();
        assert_eq!((url.user.as_deref(), url.password.clone()), (Some("app"), Some(Secret("s@c/ret".into()))));
        assert_eq!(url.database, 5);
        assert!(!format!("{url:?} {url}").contains("s@c"));
        let url = RedisUrl::parse("redis://:secret@a").unwrap();
        assert_eq!((url.user, url.password), (None, Some(Secret("secret".into()))));
    }

    #[test]
    fn what_does_not_fit_is_refused_without_being_repeated() {
        for url in [
            "",
            "secret",
            "secret://h",
            "redis+secret://h",
            "redis://",
            "redis://h:secret",
            "redis://h:0",
            "redis://h:1:2",
            "redis://::1",
            "redis://[::1",
            "redis://[::1]7",
            "redis://a,b",
            "redis://a/secret",
            "redis://a/0/1",
            "redis://a/70000",
            "redis://a?secret=1",
            "redis://a#secret",
            "redis://secret@a",
            "redis://%ff:secret@a",
            "redis://se cret",
            "redis+sentinel://a,b",
            "redis+sentinel://a,b/",
            "redis+cluster://a,b/1",
            "redis+cluster://a,,b",
        ] {
            let told = RedisUrl::parse(url).expect_err(url);
            assert!(!told.contains("secret"), "{url}: {told}");
        }
    }
}
