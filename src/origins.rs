//! Origins of web pages, and which of them a widget may be shown on.

/// Longest origin, in bytes: the longest host name there can be, with scheme and port.
pub const BYTES_MAX: usize = 267;
/// What stands for any name before a domain.
const ANY: &str = "https://*.";

/// Whether `text` is an origin as browsers send it (RFC 6454, section 6.2): scheme, host in lower case, and the port unless
/// it is the scheme's own.
pub fn is_origin(text: &str) -> bool {
    let (rest, own_port) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (rest, 443),
        (_, Some(rest)) => (rest, 80),
        (None, None) => return false,
    };
    let port_at = rest.rfind(':').filter(|at| !rest[*at..].contains(']'));
    let (host, port) = port_at.map_or((rest, None), |at| (&rest[..at], Some(&rest[at + 1..])));
    let is_port =
        |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0 && port != own_port && port.to_string() == text);
    let is_host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.to_string() == inner),
        None => {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
            !host.is_empty() && host.bytes().all(fits) && !host.split('.').any(str::is_empty)
        }
    };
    text.len() <= BYTES_MAX && is_host && port.is_none_or(is_port)
}

/// Whether `text` is an origin, or `https://*.` and a domain of two names or more: any host below it.
pub fn is_pattern(text: &str) -> bool {
    match text.strip_prefix(ANY) {
        Some(domain) => domain.contains('.') && is_origin(&format!("https://{domain}")),
        None => is_origin(text),
    }
}

/// Every pattern that `origin` fulfils: itself, and the domains above it. None if it is no origin.
pub fn patterns_of(origin: &str) -> Vec<String> {
    if !is_origin(origin) {
        return Vec::new();
    }
    let mut patterns = vec![origin.to_owned()];
    let mut host = origin.strip_prefix("https://").unwrap_or_default();
    while let Some((_, domain)) = host.split_once('.') {
        patterns.push(format!("{ANY}{domain}"));
        host = domain;
    }
    patterns.retain(|pattern| is_pattern(pattern));
    patterns
}

/// Whether one of `allowed` is a pattern that `origin` fulfils.
pub fn allows(allowed: &[String], origin: &str) -> bool {
    patterns_of(origin).iter().any(|pattern| allowed.contains(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_is_below_its_domain_and_nothing_else() {
        for (pattern, origin, fits) in [
            ("https://example.com", "https://example.com", true),
            ("https://example.com", "http://example.com", false),
            ("https://example.com", "https://example.com:8443", false),
            ("https://example.com", "https://EXAMPLE.com", false),
            ("https://example.com", "https://example.com.", false),
            ("https://example.com", "https://example.com/", false),
            ("https://example.com", "https://a.example.com", false),
            ("https://example.com", "null", false),
            ("null", "null", false),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com", "https://a.example.com.evil.com", false),
            ("https://*.example.com", "https://evil.com/.example.com", false),
            ("https://*.example.com", "https://evil.com:1.example.com", false),
            ("https://*.example.com", "http://a.example.com", false),
            ("https://*.example.com", "https://a.example.com:8443", false),
            ("https://*.example.com:8443", "https://a.example.com:8443", true),
            ("https://*.com", "https://example.com", false),
            ("http://localhost:3000", "http://localhost:3000", true),
            ("http://[::1]:3000", "http://[::1]:3000", true),
        ] {
            assert_eq!(allows(&[pattern.to_owned()], origin), fits, "{pattern} {origin}");
        }
        assert!(!allows(&[], "https://example.com"));
    }

    #[test]
    fn only_whole_domains_stand_for_others() {
        for good in ["https://*.example.com", "https://*.shop.example.com:8443", "https://example.com"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in [
            "https://*",
            "https://*.",
            "https://*.com",
            "http://*.example.com",
            "https://a.*.example.com",
            "https://*example.com",
            "https://*.*.example.com",
            "https://*.example.com/",
            "*",
        ] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }

    #[test]
    fn origins_are_taken_as_browsers_send_them() {
        for good in [
            "https://example.com",
            "http://localhost:3000",
            "https://xn--bcher-kva.example:8443",
            "http://127.0.0.1:1",
            "http://[::1]",
            "http://[2001:db8::1]:65535",
            "http://example.com:443",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "null",
            "*",
            "example.com",
            "https://",
            "https://Example.com",
            "https://example.com/",
            "ftp://example.com",
            "https://example.com:443",
            "http://example.com:80",
            "https://example.com:0",
            "https://example.com:65536",
            "https://example.com:",
            "https://example.com:080",
            "https://a@example.com",
            "https://exa mple.com",
            "https://bücher.example",
            "https://*.example.com",
            "https://example..com",
            "https://example.com.",
            "https://[::1",
            "https://[::0001]",
            "https://::1",
            "https://example.com?x",
            "HTTPS://example.com",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
        let host = format!("https://{}", "a.".repeat(200));
        assert!(!is_origin(&format!("{host}a")), "it is too long");
    }
}
