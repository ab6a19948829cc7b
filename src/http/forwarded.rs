//! Who asks where proxies stand in front: `X-Forwarded-For`, as far as it can be believed.

use std::net::{IpAddr, SocketAddr};

use hyper::{HeaderMap, header::HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client behind `peer`. Each proxy adds whom it serves at the right, so the list is read from there, and
/// only for as long as the one that wrote the entry is among `trusted`: what stands further left anybody may have sent.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut client = peer.to_canonical();
    let lines = headers.get_all(X_FORWARDED_FOR);
    let mut entries = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    while is_trusted(client) {
        let Some(next) = entries.next().and_then(|entry| address_of(entry.trim())) else { break };
        client = next;
    }
    client
}

/// An entry of the list: an address, to which some proxies add a port.
fn address_of(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|it| it.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn check(peer: &str, lines: &[&str], trusted: &[&str], expected: &str) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|it| it.parse().unwrap()).collect();
        let found = client_address(peer.parse().unwrap(), &headers, &trusted);
        assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
    }

    #[test]
    fn the_list_is_believed_as_far_as_proxies_are() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        check("10.0.0.1", &["192.0.2.7"], &[], "10.0.0.1");
        check("192.0.2.9", &["192.0.2.7"], &proxies, "192.0.2.9");
        check("10.0.0.1", &[], &proxies, "10.0.0.1");
        check("10.0.0.1", &["192.0.2.7"], &proxies, "192.0.2.7");
        // What the client itself sent stands further left.
        check("10.0.0.1", &["198.51.100.1, 192.0.2.7, 10.0.0.2"], &proxies, "192.0.2.7");
        check("10.0.0.1", &["198.51.100.1", "192.0.2.7", "10.0.0.2"], &proxies, "192.0.2.7");
        check("10.0.0.1", &["10.1.1.1"], &proxies, "10.1.1.1");
        check("::ffff:10.0.0.1", &["::ffff:192.0.2.7"], &proxies, "192.0.2.7");
        check("fd00::1", &["[2001:db8::1]:443"], &proxies, "2001:db8::1");
        check("fd00::1", &["[2001:db8::1]"], &proxies, "2001:db8::1");
        check("10.0.0.1", &["192.0.2.7:1234"], &proxies, "192.0.2.7");
    }

    #[test]
    fn what_is_no_address_ends_the_list() {
        for bad in ["unknown", "", "_hidden", "192.0.2.7.1", "192.0.2.7, "] {
            check("10.0.0.1", &[bad], &["10.0.0.0/8"], "10.0.0.1");
        }
    }
}
