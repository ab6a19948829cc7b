//! The private cluster through starts, stops and kills, on a real Postgres.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio_postgres::Client;

use super::{ClusterError, EmbeddedCluster};
use crate::store::test_support::{data_dir, settings, start, until};

const WAIT: Duration = Duration::from_secs(5);

async fn ask(cluster: &EmbeddedCluster) -> Option<Client> {
    cluster.superuser("tertulia", WAIT).connect_and_drive().await.ok()
}

async fn client(cluster: &EmbeddedCluster) -> Client {
    ask(cluster).await.expect("it takes connections")
}

async fn count(cluster: &EmbeddedCluster) -> i64 {
    try_count(cluster).await.expect("it answers")
}

async fn try_count(cluster: &EmbeddedCluster) -> Option<i64> {
    ask(cluster).await?.query_one("SELECT count(*) FROM kept", &[]).await.ok().map(|row| row.get(0))
}

fn postmaster(data_dir: &Path) -> Pid {
    let text = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).expect("it runs");
    Pid::from_raw(text.lines().next().expect("a line").parse().expect("a pid")).expect("a pid")
}

fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_once_and_keeps_what_was_committed() {
    let folder = data_dir();
    let cluster = start(folder.path()).await;
    client(&cluster).await.batch_execute("CREATE TABLE kept AS SELECT 1").await.expect("it is new");
    let first = postmaster(folder.path());
    let socket_dir = cluster.socket_dir().to_owned();
    assert!(socket_dir.starts_with(folder.path()));
    cluster.stop().await.expect("it stops");
    assert!(!is_alive(first));
    assert!(!folder.path().join("postgres/postmaster.pid").exists());

    // What a crash during initdb leaves is cleared away.
    fs::create_dir(folder.path().join("postgres.new")).expect("it is writable");
    fs::write(folder.path().join("postgres.new/PG_VERSION"), "15").expect("it is writable");
    let cluster = start(folder.path()).await;
    assert_eq!(count(&cluster).await, 1);
    assert!(!folder.path().join("postgres.new").exists());

    // A second server is told who is there; a command shares.
    let error = EmbeddedCluster::start(folder.path(), &settings()).await.expect_err("it is in use");
    assert!(matches!(&error, ClusterError::InUse { pid, .. } if *pid == std::process::id().to_string()), "{error}");
    let guest = EmbeddedCluster::connect_or_start(folder.path(), &settings()).await.expect("it runs");
    assert_eq!(guest.socket_dir(), socket_dir);
    assert_eq!(count(&guest).await, 1);
    guest.stop().await.expect("it has nothing to stop");
    assert_eq!(count(&cluster).await, 1, "a command does not stop a server's cluster");
    cluster.stop().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_only_looked_at_stays_as_it_is() {
    let folder = data_dir();
    let cluster = start(folder.path()).await;
    client(&cluster).await.batch_execute("DROP EXTENSION vector").await.expect("nothing needs it yet");
    cluster.stop().await.expect("it stops");
    for (as_it_is, extensions) in [(true, 0), (false, 1)] {
        let (path, settings) = (folder.path(), settings());
        let cluster = match as_it_is {
            true => EmbeddedCluster::connect_or_start_as_it_is(path, &settings).await,
            false => EmbeddedCluster::connect_or_start(path, &settings).await,
        };
        let cluster = cluster.expect("it starts");
        let asked = "SELECT count(*) FROM pg_extension WHERE extname = 'vector'";
        let found: i64 = client(&cluster).await.query_one(asked, &[]).await.expect("it answers").get(0);
        assert_eq!(found, extensions);
        cluster.stop().await.expect("it stops");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_share_a_cluster_and_the_last_one_stops_it() {
    let folder = data_dir();
    let first = EmbeddedCluster::connect_or_start(folder.path(), &settings()).await.expect("it starts");
    let second = EmbeddedCluster::connect_or_start(folder.path(), &settings()).await.expect("it runs");
    let pid = postmaster(folder.path());
    let stopping = tokio::runtime::Handle::current().spawn(first.stop());
    // The first one wants to stop, and must wait.
    client(&second).await.batch_execute("CREATE TABLE kept AS SELECT 1").await.expect("it is new");
    assert_eq!(count(&second).await, 1);
    assert!(is_alive(pid));
    second.stop().await.expect("it has nothing to stop");
    stopping.await.expect("no panic").expect("it stops");
    assert!(!is_alive(pid));

    // A server that starts meanwhile waits for the command.
    let command = EmbeddedCluster::connect_or_start(folder.path(), &settings()).await.expect("it starts");
    let database = settings();
    let (server, stopped) = tokio::join!(EmbeddedCluster::start(folder.path(), &database), command.stop());
    stopped.expect("it stops");
    let server = server.expect("the command is done");
    assert_eq!(count(&server).await, 1);
    server.stop().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_is_started_again() {
    let folder = data_dir();
    let cluster = start(folder.path()).await;
    let busy = client(&cluster).await;
    busy.batch_execute("CREATE TABLE kept AS SELECT 1").await.expect("it is new");
    let first = postmaster(folder.path());

    // With a backend that does not look whether its postmaster is there.
    let sleeping =
        tokio::runtime::Handle::current().spawn(async move { busy.batch_execute("SELECT pg_sleep(3600)").await });
    kill_process(first, Signal::KILL).expect("it runs");
    until("another postgres answers", async || ask(&cluster).await.is_some() && postmaster(folder.path()) != first)
        .await;
    assert_eq!(count(&cluster).await, 1);
    assert!(sleeping.await.expect("no panic").is_err(), "its backend is gone");

    // A killed backend is Postgres's own affair: it ends the others too, and recovers.
    let second = postmaster(folder.path());
    let (victim, bystander) = (client(&cluster).await, client(&cluster).await);
    let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.expect("it answers").get(0);
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it runs");
    until("the others have ended", async || bystander.batch_execute("SELECT 1").await.is_err()).await;
    until("it answers again", async || try_count(&cluster).await == Some(1)).await;
    assert_eq!(postmaster(folder.path()), second);
    cluster.stop().await.expect("it stops");
    assert!(!is_alive(second));
}

/// Starts Postgres as a server did that was killed before it could stop it.
fn leave_behind(data_dir: &Path, program: &Path) -> Child {
    use std::os::unix::{fs::MetadataExt as _, process::CommandExt as _};

    let folder = data_dir.join("postgres");
    let owner = fs::metadata(&folder).expect("it was made");
    let mut command = Command::new(program);
    command.arg("-D").arg(&folder).args(["-c", "listen_addresses=", "-c"]);
    command.arg(format!("unix_socket_directories={}", data_dir.join("run").display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.spawn().expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_left_is_cleared_away() {
    let folder = data_dir();
    let cluster = start(folder.path()).await;
    client(&cluster).await.batch_execute("CREATE TABLE kept AS SELECT 1").await.expect("it is new");
    cluster.stop().await.expect("it stops");

    let programs = super::find_programs(None).expect("it is installed");
    let mut orphan = leave_behind(folder.path(), &programs.path("postgres"));
    until("the orphan runs", async || folder.path().join("run/.s.PGSQL.5432").exists()).await;
    let cluster = start(folder.path()).await;
    assert!(orphan.wait().expect("it is ours").success(), "it was told to stop, not killed");
    assert_eq!(count(&cluster).await, 1);
    let last = postmaster(folder.path());
    // Forgotten without a stop, as when a start is given up: Postgres is told to stop all the same.
    drop(cluster);
    until("postgres has stopped", async || !is_alive(last)).await;

    // A pid file of a machine that lost its power, whose pid is another program's now.
    let pid_file = folder.path().join("postgres/postmaster.pid");
    let stale = format!("{}\n{}\n1\n5432\n\n\n\n", std::process::id(), folder.path().join("postgres").display());
    fs::write(&pid_file, stale).expect("it is writable");
    let cluster = start(folder.path()).await;
    assert_eq!(count(&cluster).await, 1);
    cluster.stop().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_cannot_run_says_why() {
    let refused = async |folder: &Path, word: &str| {
        let error = EmbeddedCluster::start(folder, &settings()).await.expect_err("it cannot run");
        let told = format!("{:#}", anyhow::Error::new(error));
        assert!(told.contains(word), "{told}");
    };
    let folder = data_dir();
    let cluster = folder.path().join("postgres");
    fs::create_dir(&cluster).expect("it is writable");
    if rustix::process::geteuid().is_root() {
        refused(folder.path(), "belongs to root").await;
        std::os::unix::fs::chown(&cluster, Some(1), Some(1)).expect("root may");
    }
    refused(folder.path(), "no Postgres data directory").await;
    fs::write(cluster.join("PG_VERSION"), "9\n").expect("it is writable");
    refused(folder.path(), "written by PostgreSQL 9").await;
    refused(Path::new("/proc/tertulia"), "/proc/tertulia").await;

    let elsewhere = tempfile::tempdir().expect("a folder");
    let database = crate::config::DatabaseConfig { bin_dir: Some(elsewhere.path().to_owned()), ..settings() };
    let told = EmbeddedCluster::start(data_dir().path(), &database).await.expect_err("nothing is there").to_string();
    assert!(told.contains("apt-get install") && told.contains(&elsewhere.path().display().to_string()), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_too_long_for_a_socket_gets_a_shorter_one() {
    let outer = data_dir();
    let folder = outer.path().join("d".repeat(60)).join("e".repeat(60));
    let cluster = start(&folder).await;
    let socket_dir = cluster.socket_dir().to_owned();
    assert!(!socket_dir.starts_with(&folder));
    client(&cluster).await.batch_execute("SELECT 1").await.expect("it answers");
    let guest = EmbeddedCluster::connect_or_start(&folder, &settings()).await.expect("it finds the socket");
    assert_eq!(guest.socket_dir(), socket_dir);
    guest.stop().await.expect("it has nothing to stop");
    cluster.stop().await.expect("it stops");
    fs::remove_dir_all(socket_dir).expect("it is ours");
}
