//! The scripts behind `make run` and `make loadtest`: they start a server whatever the caller's settings are, and a step
//! that fails ends them.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use crate::harness::{
    binary::{Outcome, data_dir, outcome_of, without_settings},
    weights_dir,
};

/// Runs `text` with `scripts/server.sh` at hand; `$data` is `data_dir`.
fn run(text: &str, data_dir: &Path, settings: &[(&str, &str)]) -> Outcome {
    let script = format!("set -euo pipefail; . scripts/server.sh; trap stop_server EXIT; binary=$1 data=$2\n{text}");
    let mut command = Command::new("bash");
    without_settings(&mut command)
        .args(["-c", &script, "bash", env!("CARGO_BIN_EXE_tertulia")])
        .arg(data_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TERTULIA_RETRIEVAL_WEIGHTS_DIR", weights_dir())
        .env("TERTULIA_SERVER_LISTEN", "127.0.0.1:0")
        .envs(settings.iter().copied());
    outcome_of(command)
}

#[test]
fn a_server_is_started_whatever_the_callers_settings_are() {
    let dir = data_dir();
    let text = "start_server \"$data\" \"$data/server.log\"
        ensure_access demo; ensure_knowledge_base manual
        (start_server \"$data\" \"$data/server.log\") 2>\"$data/second\" && exit 3
        cat \"$data/second\" >&2
        [[ $(ensure_knowledge_base manual) == *-* ]]; grep -c ready \"$data/server.log\"
        stop_server; start_server \"$data\" \"$data/server.log\"; grep -c ready \"$data/server.log\"";
    let settings = [
        ("TERTULIA_LOG_FILTER", "warn"),
        ("TERTULIA_SERVER_TLS_CERT", "/nowhere/cert.pem"),
        ("TERTULIA_SERVER_TLS_KEY", "/nowhere/key.pem"),
    ];
    let outcome = run(text, dir.path(), &settings);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    // One `ready` in the log while the first server runs, and one after a new start: only then did the log begin anew.
    assert!(outcome.stdout.ends_with("1\n1\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("in use") && !outcome.stderr.contains("ready"), "{outcome:?}");
}

#[test]
fn another_shell_finds_the_server_wherever_it_listens() {
    let dir = data_dir();
    let list =
        r#"(unset TERTULIA_KEY TERTULIA_URL; set -a; . "$data/access.env"; set +a; "$binary" knowledge-base list)"#;
    let text = format!(
        "start_server \"$data\" \"$data/server.log\"
        ensure_access demo; key=$TERTULIA_KEY; {list}
        stop_server; printf 'TERTULIA_KEY=%q\nTERTULIA_URL=http://127.0.0.1:9\n' \"$key\" >\"$data/access.env\"
        start_server \"$data\" \"$data/server.log\"
        ensure_access demo; [[ $key == \"$TERTULIA_KEY\" && $TERTULIA_URL != *:9 ]]; {list}
        stat -c %a \"$data/access.env\""
    );
    let outcome = run(&text, dir.path(), &[]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.stdout.matches("There are none yet").count(), 2, "{outcome:?}");
    assert!(outcome.stdout.ends_with("600\n"), "{outcome:?}");
}

#[test]
fn hits_link_to_the_manual_of_their_version() {
    let dir = data_dir();
    let url = || run("manual_url \"$data\"", dir.path(), &[]).stdout;
    assert_eq!(url(), "https://www.postgresql.org/docs/current/\n");
    for (title, version) in [("15.20", "15"), ("18", "18"), ("19devel", "current")] {
        let page = format!("<html>\n<head><title>PostgreSQL {title} Documentation</title><link /></head>\n</html>\n");
        std::fs::write(dir.path().join("index.html"), page).unwrap();
        assert_eq!(url(), format!("https://www.postgresql.org/docs/{version}/\n"), "{title}");
    }
}

#[test]
fn a_step_that_fails_ends_the_script() {
    let outcome =
        run("binary=false; id=$(ensure_knowledge_base manual); echo \"went on with '$id'\"", Path::new("/"), &[]);
    assert_ne!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn pages_that_apt_does_not_know_are_named() {
    let dir = data_dir();
    for (name, text) in [("apt-cache", "#!/bin/sh\nexit 100\n"), ("apt-get", "#!/bin/sh\nexit 0\n")] {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("PATH={}:$PATH", dir.path().display());
    let outcome = run(&format!("{path} scripts/documents.sh \"$data/pages\" postgresql-doc"), dir.path(), &[]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("postgresql-doc") && outcome.stderr.contains("apt"), "{outcome:?}");
    assert!(!dir.path().join("pages").exists());
}
