//! A small seed, and the queries on it, in a private Postgres with the server's own schema.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use tertulia::{
    config::Config,
    store::{self, embedded::EmbeddedCluster},
};

fn loadtest(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(args)
        .args(["--texts", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pages")])
        .output()
        .expect("it runs");
    let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it writes UTF-8"));
    (output.status.success(), texts.concat())
}

/// How to get to the cluster as that role.
fn url(data_dir: &Path, role: &str) -> String {
    let told = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).expect("it runs");
    let lines: Vec<&str> = told.lines().collect();
    format!("host={} port={} user={role} dbname=tertulia", lines[4], lines[3])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeded_database_is_complete_and_its_queries_are_timed() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    // The user whom root makes Postgres run as passes through.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("it is ours");
    let cluster = EmbeddedCluster::start(folder.path(), &Config::default().database).await.expect("it starts");
    let connections = cluster.connections(Duration::from_secs(5));
    store::migrate(&connections.owner.expect("a cluster has an owner")).await.expect("the migrations run");
    let (owner, user) = (url(folder.path(), "tertulia_owner"), url(folder.path(), "tertulia_user"));
    let small = ["--tenants", "3", "--sessions", "200", "--messages", "6000"];
    let seed = |args: &[&str]| loadtest(&[&["seed", "--postgres-url", &owner][..], args].concat());
    let queries = |args: &[&str]| loadtest(&[&["queries", "--postgres-url", &user][..], args].concat());

    let (succeeded, told) = queries(&["--samples", "1"]);
    assert!(!succeeded && told.contains("is the database seeded"), "{told}");
    let (succeeded, told) = seed(&["--messages", "1"]);
    assert!(!succeeded && told.contains("--messages is less than --sessions"), "{told}");
    let (succeeded, told) = seed(&small);
    assert!(succeeded, "{told}");
    let (succeeded, told) = seed(&small);
    assert!(succeeded && told.contains("already"), "{told}");
    let (succeeded, told) = seed(&["--sessions", "300"]);
    assert!(!succeeded && told.contains("of other arguments"), "{told}");

    let (client, connection) = tokio_postgres::connect(&owner, tokio_postgres::NoTls).await.expect("it is up");
    // Of the large tenant, and of the two others, rounded up.
    let counts = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM messages),
        (SELECT count(*) FROM documents), (SELECT count(*) FROM sessions s WHERE last_seq <> (
            SELECT count(*) FROM messages m WHERE m.tenant_id = s.tenant_id AND m.session_id = s.id))";
    // The connection ends once the client is dropped.
    let count = async move { client.query_one(counts, &[]).await.expect("the owner may") };
    let (row, _) = tokio::join!(count, connection);
    assert_eq!([0, 1, 2, 3].map(|at| row.get::<_, i64>(at)), [251, 7_500, 15, 0]);

    // Whether it is quick enough is not for a test on a busy machine to say, so the verdict is left out.
    let (_, told) = queries(&["--samples", "2", "--json"]);
    for name in ["sessions of a widget", "full text, the newest 50", "chunks of a document", "the late page"] {
        assert!(told.contains(name), "{told}");
    }
    let (succeeded, told) = queries(&["--seed", "2"]);
    assert!(!succeeded && told.contains("with this --seed?"), "{told}");
    cluster.stop().await.expect("it stops");
}
