//! What of a Redis server's settings would hurt, and what to set instead. `deploy/redis.conf` has all of it.

use std::collections::HashMap;

/// A sentence for each setting that would hurt; `settings` as CONFIG GET tells them. What it does not tell is not judged.
pub fn advice(settings: &HashMap<String, String>) -> Vec<String> {
    let told = |name: &str| settings.get(name).map(String::as_str);
    let mut advice = Vec::new();
    if told("maxmemory") == Some("0") {
        advice.push(
            "redis may take all memory of its machine, and is ended by the system then: set maxmemory, such as 2gb"
                .to_owned(),
        );
    }
    match told("maxmemory-policy") {
        Some("noeviction") => advice.push(
            "redis refuses writes once its memory is full (maxmemory-policy noeviction): set allkeys-lru".to_owned(),
        ),
        Some(policy) if policy.ends_with("-random") || policy.ends_with("-ttl") => advice.push(format!(
            "redis lets go of what is in use once its memory is full (maxmemory-policy {policy}): set allkeys-lru"
        )),
        _ => {}
    }
    if let Some(seconds) = told("timeout").and_then(|text| text.parse::<u32>().ok())
        && (1..60).contains(&seconds)
    {
        advice.push(format!("redis closes connections that rest for {seconds} s (timeout): set 0, or 60 at least"));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &[(&str, &str)], expected: &[&str]) {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let advice = advice(&settings);
        assert_eq!(advice.len(), expected.len(), "{advice:?}");
        for (advice, word) in advice.iter().zip(expected) {
            assert!(advice.contains(word), "{advice}");
        }
    }

    #[test]
    fn what_would_hurt_is_told_and_nothing_else() {
        check(&[("maxmemory", "2147483648"), ("maxmemory-policy", "allkeys-lru"), ("timeout", "0")], &[]);
        check(&[("maxmemory-policy", "volatile-lfu"), ("timeout", "300")], &[]);
        check(&[], &[]);
        // A server without a configuration of its own.
        check(&[("maxmemory", "0"), ("maxmemory-policy", "noeviction")], &["maxmemory,", "noeviction"]);
        check(&[("maxmemory-policy", "allkeys-random"), ("timeout", "5")], &["allkeys-random", "5 s"]);
    }
}
