//! The real PgBouncer in front of the run's Postgres, in transaction mode: for a run with `TERTULIA_TEST_PGBOUNCER`, which has
//! the size of its pools.

use std::{
    cell::RefCell,
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::wait_until;

const PORT: u16 = 6432;
/// The logins that may pass; nobody asks for a password.
const USERS: &str = "\"tertulia_user\" \"\"\n\"tertulia_svc\" \"\"\n";

/// How many connections each of its pools has, if this run goes through one.
fn pool_size() -> Option<usize> {
    #[expect(clippy::disallowed_methods, reason = "it is the run's, and no setting of the server")]
    let size = std::env::var("TERTULIA_TEST_PGBOUNCER").ok()?;
    Some(size.parse().expect("TERTULIA_TEST_PGBOUNCER is a number of connections"))
}

/// Starts one in a folder of `dir`, if this run goes through one; gives where it listens. `socket_dir` is the folder of
/// Postgres's socket, whose user runs PgBouncer too. The janitor stops it, by its file `pgbouncer.pid`.
pub fn start(dir: &Path, socket_dir: &Path, port: u16) -> Option<(PathBuf, u16)> {
    let pool_size = pool_size()?;
    let folder = dir.join("pgbouncer");
    fs::create_dir(&folder).unwrap();
    let owner = fs::metadata(socket_dir).unwrap();
    chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    let (here, there) = (folder.display(), socket_dir.display());
    fs::write(folder.join("users.txt"), USERS).unwrap();
    let settings = format!(
        "[databases]\n* = host={there} port={port}\n\
         [pgbouncer]\n\
         listen_port = {PORT}\nunix_socket_dir = {here}\nauth_type = trust\nauth_file = {here}/users.txt\n\
         pidfile = {here}/pgbouncer.pid\n\
         pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 1000\n\
         server_idle_timeout = 2\n\
         log_connections = 0\nlog_disconnections = 0\n"
    );
    let path = folder.join("pgbouncer.ini");
    fs::write(&path, settings).unwrap();
    let mut command = Command::new(program());
    command.arg(path).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(folder.join("log")).unwrap());
    // In a group of its own, as Postgres is: Ctrl-C at the terminal is for the tests, and the janitor comes after them.
    command.uid(owner.uid()).gid(owner.gid()).process_group(0);
    let child = command.spawn().unwrap_or_else(|error| panic!("no pgbouncer ({error}): run scripts/setup.sh"));
    let child = RefCell::new(child);
    wait_until("pgbouncer listens", || {
        let told = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(child.borrow_mut().try_wait().unwrap().is_none(), "pgbouncer ended:\n{}", told());
        folder.join(format!(".s.PGSQL.{PORT}")).exists().then_some(())
    });
    Some((folder, PORT))
}

/// Debian has it where only root looks by default.
fn program() -> &'static str {
    if Path::new("/usr/sbin/pgbouncer").exists() { "/usr/sbin/pgbouncer" } else { "pgbouncer" }
}
