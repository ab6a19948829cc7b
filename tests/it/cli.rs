//! The command line, with the real binary: the way of a new user, and every wrong turn with what it says.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use crate::harness::{
    Embeddings, TestApp,
    binary::{Outcome, Serve, command, data_dir, outcome_of, run, run_well, sent_to_terminal, stop_orphan},
    wait_until,
};

#[test]
fn from_nothing_to_an_answer() {
    let dir = data_dir();
    let path = dir.path().to_str().unwrap();
    // Before any server: the database is made for the command and stopped again.
    let tenant = run_well(&["tenant", "create", "acme", "--tier", "pro", "--json", "--data-dir", path]).json();
    assert_eq!((tenant["name"].as_str(), tenant["tier"].as_str()), (Some("acme"), Some("pro")));
    assert!(uuid::Uuid::parse_str(tenant["id"].as_str().unwrap()).is_ok());

    let serve = Serve::start(dir.path());
    let url = serve.url();
    // While the server runs: its database is found.
    let key = run_well(&["key", "create", "--tenant", "acme", "--json", "--data-dir", path]).json();
    let key = key["key"].as_str().unwrap();
    let base = run_well(&[
        "knowledge-base",
        "create",
        "manual",
        "--analyzer",
        "english",
        "--json",
        "--url",
        &url,
        "--key",
        key,
    ])
    .json();
    let base = base["id"].as_str().unwrap();

    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("birds.md"), "# Birds\n\nHerons stand still for hours.\n").unwrap();
    fs::write(folder.path().join("sub/fish.html"), "<title>Fish</title><h1>Fish</h1><p>Pike lurk in reeds.</p>")
        .unwrap();
    fs::write(folder.path().join("picture.png"), [0x89, b'P', b'N', b'G']).unwrap();
    let folder_path = folder.path().to_str().unwrap();
    let ingest = |extra: &[&str]| {
        let mut arguments =
            vec!["ingest", folder_path, "--url", &url, "--key", key, "--knowledge-base", base, "--json"];
        arguments.extend(extra);
        run_well(&arguments).json()
    };
    let report = ingest(&[]);
    assert_eq!((report["added"].as_u64(), report["failed"].as_u64()), (Some(2), Some(0)), "{report}");
    let report = ingest(&[]);
    assert_eq!((report["unchanged"].as_u64(), report["added"].as_u64()), (Some(2), Some(0)), "{report}");
    fs::write(folder.path().join("birds.md"), "# Birds\n\nSwifts sleep in the air.\n").unwrap();
    fs::remove_file(folder.path().join("sub/fish.html")).unwrap();
    let report = ingest(&[]);
    assert_eq!((report["updated"].as_u64(), report["deleted"].as_u64()), (Some(1), Some(0)), "{report}");
    let report = ingest(&["--delete"]);
    assert_eq!((report["unchanged"].as_u64(), report["deleted"].as_u64()), (Some(1), Some(1)), "{report}");

    let found = wait_until("the deletion is searched", || {
        let question = ["search", "where do swifts sleep", "--url", &url, "--key", key, "--knowledge-base", base];
        Some(run_well(&question)).filter(|found| !found.stdout.contains("Pike"))
    });
    assert!(found.stdout.contains("Swifts sleep in the air.") && found.stdout.contains(" ms"), "{found:?}");
    let found = run_well(&["search", "swifts", "--json", "--url", &url, "--key", key, "--knowledge-base", base]).json();
    assert_eq!(found["results"][0]["external_id"], "birds.md");

    let list = run_well(&["key", "list", "--tenant", "acme", "--json", "--data-dir", path]);
    assert!(!list.stdout.contains(key), "a key was listed with its secret");
    let id = list.json()[0]["id"].as_str().unwrap().to_owned();
    run_well(&["key", "revoke", &id, "--data-dir", path]);
    wait_until("the revoked key is refused", || {
        let refused = run(&["search", "swifts", "--url", &url, "--key", key, "--knowledge-base", base]);
        (refused.code == 1 && refused.stderr.contains("key create")).then_some(())
    });

    let doctor = run_well(&["doctor", "--json", "--data-dir", path]).json();
    assert!(doctor.as_array().unwrap().iter().all(|part| part["ok"] == true), "{doctor}");
    assert_eq!(serve.stop(), 0);
    assert!(!dir.path().join("postgres/postmaster.pid").exists(), "postgres was left running");
    // After the server: the database is started for the command again.
    let tenants = run_well(&["tenant", "list", "--json", "--data-dir", path]).json();
    assert_eq!(tenants[0]["name"], "acme");
}

#[tokio::test(flavor = "multi_thread")]
async fn search_has_the_options_of_the_api() {
    let service = Embeddings::start().await;
    let settings = [service.rerank_settings(), vec![("TERTULIA_RETRIEVAL_CHUNK_TOKENS_MAX", "64".into())]].concat();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let app = TestApp::start_with(&settings).await;
    let acme = app.tenant("acme").await;
    let base = acme.knowledge_base("birds").await;
    // Each section is too long for a chunk of two.
    let section = |heading: &str, text: &str| {
        format!("# {heading}\n\n{text} {}\n\n", "The water runs slowly past the old stones. ".repeat(4))
    };
    let content = [("Heron", "Herons stand still."), ("Pike", "Pike lurk in reeds."), ("Heron again", "Herons fly.")]
        .map(|(heading, text)| section(heading, text))
        .concat();
    let written = json!({ "written": "2000-01-01" });
    let long = json!({ "title": "Notes", "content": content, "content_type": "text/markdown", "metadata": written });
    acme.put_document(&base, "long", &long).await;
    let short = json!({ "content": "A heron, once.", "metadata": { "written": "2001-01-01" } });
    let version = acme.put_document(&base, "short", &short).await;
    acme.until_in_memory(&base, version).await;
    let url = format!("http://{}", acme.client.address);
    let arguments = |flags: &[&'static str]| -> Vec<&str> {
        let start = ["search", "--url", &url, "--key", acme.client.key(), "--knowledge-base", &base];
        start.into_iter().chain(["--mode", "keyword"]).chain(flags.iter().copied()).collect()
    };
    let asked = |flags: &[&'static str]| run_well(&arguments(flags)).stdout;
    let hits = |flags: &[&'static str]| {
        let answer = run_well(&arguments(&[flags, &["--json"]].concat())).json();
        answer["results"].as_array().unwrap().clone()
    };

    // What each option does is told by what is found with and without it.
    assert_eq!(hits(&["heron"]).len(), 3);
    assert_eq!(hits(&["heron", "--group-by", "document"]).len(), 2);
    assert_eq!(hits(&["her"]).len(), 0);
    assert_eq!(hits(&["her", "--prefix"]).len(), 3);
    let scores: Vec<f64> = hits(&["heron"]).iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
    assert!(scores.iter().all(|score| *score > 0.001 && *score < 0.999), "{scores:?}");
    let strict = asked(&["heron", "--min-score", "0.999"]);
    assert!(strict.starts_with("Nothing was found; --filter or --min-score"), "{strict}");
    let old = hits(&["heron", "--recency", "written=1"]);
    assert!(old.iter().all(|hit| hit["score"].as_f64().unwrap() < 0.001), "{old:?}");
    let explained = hits(&["heron", "--diversity", "1", "--explain"]);
    assert!(explained.iter().all(|hit| hit["explain"]["relevance"].is_number()), "{explained:?}");
    let told = asked(&["heron", "--explain"]);
    assert!(told.contains("   relevance ") && told.contains("keyword: rank 1, raw ") && told.contains("; rounds: 1"));
    let version: &str = version.to_string().leak();
    assert_eq!(hits(&["heron", "--min-version", version]).len(), 3);
    let reranked = asked(&["heron", "--rerank"]);
    assert!(reranked.contains(", reranked ") && reranked.contains("in the reranker"), "{reranked}");
    let expanded = asked(&["lurk", "--expand", "1"]);
    let lines: Vec<&str> = expanded.lines().map(str::trim).collect();
    for part in ["before: Herons stand still. The water", "Pike lurk in reeds. The", "after: Herons fly. The"] {
        assert!(lines.iter().any(|line| line.starts_with(part)), "{part} is missing in {expanded}");
    }

    // What does not fit is told by the server, with the option's name.
    for (flag, value, told) in [
        ("--expand", "4", "expand: must be 0 to 3"),
        ("--min-score", "2", "min_score"),
        ("--diversity", "-1", "0 to 1"),
    ] {
        let flag: &str = format!("{flag}={value}").leak();
        let refused = run(&arguments(&["heron", flag]));
        assert!(refused.code == 1 && refused.stderr.contains(told), "{refused:?}");
    }

    // Words are marked for people, not for programs.
    let highlighted = ["lurks", "--highlight"];
    let piped = asked(&highlighted);
    assert!(piped.contains("   Pike lurk in reeds. The"), "{piped}");
    let sent = sent_to_terminal(command(&arguments(&highlighted)));
    assert!(sent.contains("   Pike \u{1b}[1mlurk\u{1b}[0m in reeds."), "{sent:?}");
    let mut plain = command(&arguments(&highlighted));
    plain.env("NO_COLOR", "1");
    assert!(!sent_to_terminal(plain).contains('\u{1b}'));
}

#[test]
fn doctor_measures_recall() {
    let dir = data_dir();
    let path = dir.path().to_str().unwrap();
    run_well(&["tenant", "create", "acme", "--data-dir", path]);
    let recall = |outcome: Outcome| -> Vec<Value> {
        let parts = outcome.json().as_array().unwrap().clone();
        parts.into_iter().filter(|part| part["part"] == "recall").collect()
    };
    // Nothing is known before a server has saved something.
    let found = recall(run_well(&["doctor", "--json", "--data-dir", path]));
    assert!(matches!(&found[..], [one] if one["measured"].is_null() && one["ok"] == true), "{found:?}");

    let serve = Serve::start(dir.path());
    let (url, key) =
        (serve.url(), run_well(&["key", "create", "--tenant", "acme", "--json", "--data-dir", path]).json());
    let key = key["key"].as_str().unwrap();
    let create = ["knowledge-base", "create", "manual", "--json", "--url", &url, "--key", key];
    let base = run_well(&create).json()["id"].as_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    for n in 0..60 {
        let words = ["heron", "swift", "pike", "vacuum", "index"].iter().cycle().skip(n % 7).take(n % 11 + 1);
        let text = format!("# Note {n}\n\n{}\n", words.copied().collect::<Vec<_>>().join(" "));
        fs::write(folder.path().join(format!("{n}.md")), text).unwrap();
    }
    run_well(&["ingest", folder.path().to_str().unwrap(), "--url", &url, "--key", key, "--knowledge-base", &base]);
    wait_until("the index has all of it", || {
        let search =
            ["search", "heron", "--json", "--url", &url, "--key", key, "--knowledge-base", &base, "--top-k", "60"];
        let answer = run_well(&search).json();
        (answer["source"] == "memory" && answer["results"].as_array().unwrap().len() == 60).then_some(())
    });
    assert_eq!(serve.stop(), 0);

    let found = recall(run_well(&["doctor", "--json", "--data-dir", path]));
    let [found] = &found[..] else { panic!("{found:?}") };
    let measured = &found["measured"];
    assert_eq!(measured["knowledge_base_id"], base);
    assert_eq!(
        (&measured["recall_at_10"], &measured["recall_at_10_with_filters"]),
        (&json!(1.0), &json!(1.0)),
        "{found}"
    );
    assert_eq!((&measured["chunks"], &measured["questions"]), (&json!(60), &json!(100)), "{found}");
    assert_eq!(measured["ways"], json!(["scan"]), "{found}");
    let told = run_well(&["doctor", "--data-dir", path]).stdout;
    let line = told.lines().find(|line| line.contains("recall@10")).unwrap_or_else(|| panic!("{told}"));
    assert!(line.starts_with("ok") && line.contains(&base) && line.contains("with filters 1.0000"), "{line}");
}

#[test]
fn a_second_server_on_the_same_folder_or_port_is_refused() {
    let (dir, other) = (data_dir(), data_dir());
    let serve = Serve::start(dir.path());
    let second = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.path().to_str().unwrap()]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("another") || second.stderr.contains("already"), "{second:?}");
    let taken = run(&["serve", "--listen", &serve.address.to_string(), "--data-dir", other.path().to_str().unwrap()]);
    assert_eq!(taken.code, 1, "{taken:?}");
    assert!(taken.stderr.contains(&serve.address.to_string()) && taken.stderr.contains("--listen"), "{taken:?}");
    assert!(!other.path().join("postgres").exists(), "a database was made for a server that could not start");
    assert_eq!(serve.stop(), 0);
}

#[test]
fn a_server_that_was_killed_is_started_again_on_its_data() {
    let dir = data_dir();
    let path = dir.path().to_str().unwrap();
    let serve = Serve::start(dir.path());
    run_well(&["tenant", "create", "acme", "--data-dir", path]);
    serve.kill();
    // Its Postgres is still there; commands and the next server manage.
    let tenants = run_well(&["tenant", "list", "--json", "--data-dir", path]).json();
    assert_eq!(tenants[0]["name"], "acme");
    let serve = Serve::start(dir.path());
    assert_eq!(serve.stop(), 0);
    stop_orphan(dir.path());
}

#[test]
fn every_mistake_in_the_settings_is_told_at_once() {
    let dir = data_dir();
    let file = dir.path().join("tertulia.toml");
    fs::write(&file, "[server]\nshard = 1\nlisten = \"nowhere\"\n[log]\nformat = \"loud\"\n").unwrap();
    let outcome = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(outcome.code, 64, "{outcome:?}");
    for part in ["3 mistakes", "server.shards", "server.listen", "log.format"] {
        assert!(outcome.stderr.contains(part), "{part} is missing in {outcome:?}");
    }
}

#[test]
fn a_mistyped_variable_is_told_with_the_nearest() {
    let dir = data_dir();
    let path = dir.path().to_str().unwrap();
    let mistyped = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("TERTULIA_SERVER_SHARD", "2").env("TERTULIA_LOG_FORMAT", "json");
        outcome_of(command)
    };
    let doctor = mistyped(&["doctor", "--data-dir", path]);
    let told = doctor.stdout.lines().find(|line| line.contains("settings")).unwrap_or_else(|| panic!("{doctor:?}"));
    assert!(doctor.code == 1 && told.starts_with("BAD"), "{doctor:?}");
    assert!(told.contains("TERTULIA_SERVER_SHARD is ignored") && told.contains("TERTULIA_SERVER_SHARDS?"), "{told}");

    // A server starts all the same; this one ends at once, as its data directory cannot be.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let serve = mistyped(&["serve", "--listen", "127.0.0.1:0", "--data-dir", file.to_str().unwrap()]);
    let told = serve.stderr.lines().find(|line| line.contains("TERTULIA_SERVER_SHARDS?"));
    let told = told.unwrap_or_else(|| panic!("{serve:?}"));
    assert!(told.contains("WARN") && told.contains(r#""variable":"TERTULIA_SERVER_SHARD""#), "{told}");
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let dir = data_dir();
    let path = dir.path().to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", path];

    let mut no_weights = command(&serve);
    no_weights.env("TERTULIA_RETRIEVAL_WEIGHTS_DIR", dir.path().join("none"));
    let outcome = outcome_of(no_weights);
    assert!(outcome.code == 1 && outcome.stderr.contains("setup.sh"), "{outcome:?}");

    let mut no_postgres = command(&serve);
    no_postgres.env("TERTULIA_DATABASE_BIN_DIR", dir.path());
    let outcome = outcome_of(no_postgres);
    assert!(outcome.code == 1 && outcome.stderr.contains("apt-get install"), "{outcome:?}");

    let mut no_database = command(&serve);
    let url = "postgres://app:secret@127.0.0.1:9/d";
    no_database.env("DATABASE_URL", url).env("TERTULIA_DATABASE_SERVICE_URL", url);
    let outcome = outcome_of(no_database);
    assert!(outcome.code == 1 && !outcome.stderr.contains("secret"), "{outcome:?}");
    assert!(outcome.stderr.contains("127.0.0.1:9 as app") && outcome.stderr.contains("_URL"), "{outcome:?}");

    let file = dir.path().join("a-file");
    fs::write(&file, "").unwrap();
    let outcome = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", file.join("data").to_str().unwrap()]);
    assert!(outcome.code == 1 && outcome.stderr.contains("--data-dir"), "{outcome:?}");

    let outcome = run(&["doctor", "--data-dir", path, "--config", "/nowhere/tertulia.toml"]);
    assert!(outcome.code == 1 && outcome.stderr.contains("/nowhere/tertulia.toml"), "{outcome:?}");

    let mut sick = command(&["doctor", "--data-dir", path]);
    sick.env("TERTULIA_RETRIEVAL_WEIGHTS_DIR", dir.path().join("none"));
    let outcome = outcome_of(sick);
    assert!(outcome.code == 1 && outcome.stdout.contains("BAD") && outcome.stdout.contains("setup.sh"), "{outcome:?}");

    // Nothing is there yet, and Postgres could not get to it. Nobody but root may pass a folder of mode 0.
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let below = closed.join("data");
    let outcome = run(&["doctor", "--data-dir", below.to_str().unwrap()]);
    assert!(outcome.code == 1 && outcome.stdout.contains("BAD  database"), "{outcome:?}");
    assert!(outcome.stdout.contains(closed.to_str().unwrap()), "{outcome:?}");
    assert!(outcome.stdout.contains("--data-dir"), "{outcome:?}");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!below.exists(), "doctor made it");

    let outcome = run(&["search", "x", "--url", "http://127.0.0.1:9", "--key", "k", "--knowledge-base", "b"]);
    assert!(outcome.code == 1 && outcome.stderr.contains("tertulia serve"), "{outcome:?}");
}

#[test]
fn a_data_directory_of_another_postgres_is_refused() {
    let dir = data_dir();
    let path = dir.path().to_str().unwrap();
    run_well(&["tenant", "create", "acme", "--data-dir", path]);
    fs::write(dir.path().join("postgres/PG_VERSION"), "9\n").unwrap();
    let outcome = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", path]);
    assert!(outcome.code == 1 && outcome.stderr.contains("PostgreSQL 9"), "{outcome:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    // The reader is gone before anything is written.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&["settings"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn help_teaches() {
    let help = run_well(&["--help"]).stdout;
    for part in ["serve", "ingest", "doctor", "From nothing to the first answer"] {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
    for subcommand in ["serve", "migrate", "tenant", "key", "knowledge-base", "ingest", "search", "doctor", "settings"]
    {
        assert!(run_well(&[subcommand, "--help"]).stdout.contains("Usage"), "{subcommand}");
    }
    assert_eq!(run(&["sevre"]).code, 2);
}
