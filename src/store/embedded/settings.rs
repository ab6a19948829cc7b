//! How the private Postgres is set up: given on its command line at each start, so that it follows the machine.

use std::path::Path;

const MIB: u64 = 1 << 20;
/// Taken where the machine does not tell how much memory it has.
const MEMORY_BYTES_UNKNOWN: u64 = 1 << 30;

/// Settings by name. `memory_bytes`: of the machine or its container.
pub(super) fn lines(socket_dir: &Path, connections_max: usize, memory_bytes: u64) -> Vec<(&'static str, String)> {
    // A modest share: most questions are answered from the server's own memory, and the kernel caches files besides.
    let share = |divisor: u64, min: u64, max: u64| format!("{}MB", (memory_bytes / divisor / MIB).clamp(min, max));
    vec![
        ("listen_addresses", String::new()),
        ("unix_socket_directories", socket_dir.display().to_string()),
        ("unix_socket_permissions", "0700".into()),
        ("port", super::folders::PORT.to_string()),
        ("cluster_name", "tertulia".into()),
        ("max_connections", connections_max.to_string()),
        ("shared_buffers", share(16, 64, 1_024)),
        ("effective_cache_size", share(2, 256, 64 * 1_024)),
        ("maintenance_work_mem", share(32, 64, 512)),
        ("work_mem", "16MB".into()),
        // What was answered is on disk.
        ("fsync", "on".into()),
        ("synchronous_commit", "on".into()),
        ("full_page_writes", "on".into()),
        ("wal_compression", "on".into()),
        ("max_wal_size", "2GB".into()),
        ("checkpoint_timeout", "15min".into()),
        // Files are expected on an SSD. Short queries gain nothing from compiled plans or helpers, which would take the
        // cores (and the small /dev/shm of a container) from the server.
        ("random_page_cost", "1.1".into()),
        ("jit", "off".into()),
        ("max_parallel_workers_per_gather", "0".into()),
        ("max_parallel_maintenance_workers", "0".into()),
        ("timezone", "UTC".into()),
        // The log never holds what tenants wrote: no statements, no values that broke a constraint.
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("log_timezone", "UTC".into()),
        ("log_line_prefix", "%m [%p] ".into()),
        ("log_error_verbosity", "terse".into()),
        ("log_min_error_statement", "panic".into()),
        ("log_statement", "none".into()),
    ]
}

/// Memory of this machine, or of the container that the process is in if that has less.
pub(super) fn memory_bytes() -> u64 {
    let read = |path| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| read_meminfo(&text));
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| read(path)?.trim().parse().ok());
    machine.into_iter().chain(container).min().unwrap_or(MEMORY_BYTES_UNKNOWN)
}

fn read_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_modest_share_of_the_machines() {
        let check = |memory: u64, expected: &str| {
            let lines = lines(Path::new("/run/x"), 100, memory);
            let (_, value) = lines.iter().find(|(name, _)| *name == "shared_buffers").expect("it is set");
            assert_eq!(value, expected);
        };
        check(256 * MIB, "64MB");
        check(8_192 * MIB, "512MB");
        check(1 << 40, "1024MB");
    }

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(read_meminfo("MemTotal:       16303428 kB\nMemFree: 1 kB\n"), Some(16_303_428 * 1_024));
        assert_eq!(read_meminfo("MemFree: 1 kB"), None);
        assert!(memory_bytes() > 64 * MIB);
    }
}
