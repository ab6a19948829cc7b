//! Messages: numbered without a gap, posted once, listed either way, edited and deleted with their history, searched.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Tenant, TestApp, connect};

async fn with_session() -> (TestApp, Tenant, String) {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let session = acme.session(&json!({})).await;
    let path = format!("/v1/sessions/{session}");
    (app, acme, path)
}

async fn say(acme: &Tenant, path: &str, content: &str) -> Value {
    acme.say(path.rsplit('/').next().unwrap(), content).await
}

fn seqs(page: &Value) -> Vec<u64> {
    page["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()).collect()
}

fn contents(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["content"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_posted_and_read_back() {
    let (_app, acme, path) = with_session().await;
    let draft = json!({
        "role": "agent", "content": "Hello, \u{1F422}!", "sender": "Ada", "client_id": "c-1", "metadata": { "via": "mail" },
    });
    let reply = acme.client.post(&format!("{path}/messages"), &draft).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let posted = reply.json();
    for field in ["role", "content", "sender", "client_id", "metadata"] {
        assert_eq!(posted[field], draft[field], "{field}");
    }
    assert_eq!((posted["seq"].as_u64(), posted["revision"].as_u64()), (Some(1), Some(0)));
    let id = posted["id"].as_str().unwrap();
    assert_eq!(acme.client.get(&format!("{path}/messages/{id}")).await.json(), posted);
    assert_eq!(acme.client.get(&format!("{path}/messages")).await.json()["items"], json!([posted]));
    let session = acme.client.get(&path).await.json();
    assert_eq!((session["last_seq"].as_u64(), &session["last_message_at"]), (Some(1), &posted["timestamp"]));
    // It is found in its own session only.
    let elsewhere = acme.session(&json!({})).await;
    assert_eq!(acme.client.get(&format!("/v1/sessions/{elsewhere}/messages/{id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_at_once_get_numbers_without_a_gap_and_repeats_none() {
    let (_app, acme, path) = with_session().await;
    // Each message is sent twice at the same time, as by a client that has lost its patience.
    let sends = (0..60).map(|n| {
        let (client, path) = (acme.client.clone(), format!("{path}/messages"));
        let draft =
            json!({ "role": "user", "content": format!("number {}", n / 2), "client_id": format!("c-{}", n / 2) });
        async move { client.post(&path, &draft).await }
    });
    let replies = futures_util::future::join_all(sends).await;
    for pair in replies.chunks(2) {
        assert_eq!((pair[0].status, pair[1].status), (201, 201), "{pair:?}");
        assert_eq!(pair[0].json(), pair[1].json(), "both senders got the same message");
    }
    let given: BTreeSet<u64> = replies.iter().map(|reply| reply.json()["seq"].as_u64().unwrap()).collect();
    assert_eq!(given, (1..=30).collect());
    let history = acme.client.get(&format!("{path}/messages?after_seq=0&limit=100")).await.json();
    assert_eq!(seqs(&history), (1..=30).collect::<Vec<_>>());
    let times: Vec<_> = history["items"].as_array().unwrap().iter().map(|it| it["timestamp"].to_string()).collect();
    assert_eq!(times.iter().collect::<BTreeSet<_>>().len(), 30, "each has a time of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gives_the_message_as_it_stands() {
    let (_app, acme, path) = with_session().await;
    let messages = format!("{path}/messages");
    let draft = json!({ "role": "user", "content": "first", "client_id": "c" });
    let posted = acme.client.post(&messages, &draft).await.json();
    let other_words = json!({ "role": "user", "content": "second", "client_id": "c" });
    assert_eq!(acme.client.post(&messages, &other_words).await.json(), posted);
    let id = posted["id"].as_str().unwrap();
    let edited = acme.client.patch(&format!("{messages}/{id}"), &json!({ "content": "edited" })).await.json();
    assert_eq!(acme.client.post(&messages, &draft).await.json(), edited);
    // The name holds within its session.
    let elsewhere = acme.session(&json!({})).await;
    let reply = acme.client.post(&format!("/v1/sessions/{elsewhere}/messages"), &draft).await.json();
    assert_ne!(reply["id"], posted["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_takes_no_more_and_still_answers_repeats() {
    let (_app, acme, path) = with_session().await;
    let messages = format!("{path}/messages");
    let draft = json!({ "role": "user", "content": "bye", "client_id": "c" });
    let posted = acme.client.post(&messages, &draft).await.json();
    let ended = acme.client.send_bytes(hyper::Method::POST, &format!("{path}/end"), "application/json", "").await;
    assert_eq!(ended.status, 200);
    let reply = acme.client.post(&messages, &json!({ "role": "user", "content": "wait" })).await;
    assert_eq!((reply.status, reply.problem().as_str()), (409, "conflict"));
    let repeat = acme.client.post(&messages, &draft).await;
    assert_eq!((repeat.status, repeat.json()), (201, posted));
    assert_eq!(seqs(&acme.client.get(&messages).await.json()), [1]);
    let never = uuid::Uuid::now_v7();
    let reply = acme.client.post(&format!("/v1/sessions/{never}/messages"), &draft).await;
    assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_read_from_either_end() {
    let (_app, acme, path) = with_session().await;
    for n in 1..=7 {
        say(&acme, &path, &format!("message {n}")).await;
    }
    let messages = format!("{path}/messages");
    let page = async |query: &str| {
        let reply = acme.client.get(&format!("{messages}?{query}")).await;
        assert_eq!(reply.status, 200, "{query}: {reply:?}");
        reply.json()
    };
    let newest = page("limit=3").await;
    assert_eq!((seqs(&newest), newest["total"].as_u64()), (vec![7, 6, 5], Some(7)));
    // What is posted meanwhile moves nothing.
    say(&acme, &path, "message 8").await;
    let older = page(&format!("limit=3&cursor={}", newest["next_cursor"].as_str().unwrap())).await;
    assert_eq!((seqs(&older), older["total"].as_u64()), (vec![4, 3, 2], None));
    let oldest = page(&format!("limit=3&cursor={}", older["next_cursor"].as_str().unwrap())).await;
    assert_eq!((seqs(&oldest), &oldest["next_cursor"]), (vec![1], &Value::Null));
    let skipped = page("limit=3&offset=6").await;
    assert_eq!((seqs(&skipped), skipped["total"].as_u64(), skipped["offset"].as_u64()), (vec![2, 1], Some(8), Some(6)));

    let missed = page("after_seq=4&limit=2").await;
    assert_eq!((seqs(&missed), missed["total"].as_u64()), (vec![5, 6], Some(4)));
    let rest = page(&format!("after_seq=4&limit=2&cursor={}", missed["next_cursor"].as_str().unwrap())).await;
    assert_eq!((seqs(&rest), &rest["next_cursor"]), (vec![7, 8], &Value::Null));
    assert_eq!(seqs(&page("after_seq=4&offset=3").await), [8]);
    for past_the_end in ["after_seq=8", "after_seq=9007199254740991", "offset=8", "offset=100000"] {
        let nothing = page(past_the_end).await;
        assert_eq!((seqs(&nothing), &nothing["next_cursor"]), (vec![], &Value::Null), "{past_the_end}");
    }

    let (down, up) = (newest["next_cursor"].as_str().unwrap(), missed["next_cursor"].as_str().unwrap());
    for (query, field) in [
        (format!("cursor={up}"), "cursor"),
        (format!("after_seq=4&cursor={down}"), "cursor"),
        (format!("cursor={down}0"), "cursor"),
        (format!("cursor={down}&offset=1"), "cursor"),
        ("after_seq=-1".to_owned(), "after_seq"),
        ("after_seq=9007199254740992".to_owned(), "after_seq"),
        ("limit=101".to_owned(), "limit"),
        ("before=1".to_owned(), "before"),
    ] {
        let reply = acme.client.get(&format!("{messages}?{query}")).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{query}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{query}");
    }
    let elsewhere = format!("/v1/sessions/{}/messages", uuid::Uuid::now_v7());
    for query in
        [String::new(), format!("?cursor={down}"), "?after_seq=1".to_owned(), format!("?after_seq=1&cursor={up}")]
    {
        assert_eq!(acme.client.get(&format!("{elsewhere}{query}")).await.status, 404, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_and_deletions_leave_their_history() {
    let (app, acme, path) = with_session().await;
    let first = say(&acme, &path, "My number is 555-1234.").await;
    let second = say(&acme, &path, "Thanks.").await;
    let message = |it: &Value| format!("{path}/messages/{}", it["id"].as_str().unwrap());
    let edited = acme.client.patch(&message(&first), &json!({ "content": "My number is [removed]." })).await;
    assert_eq!(edited.status, 200, "{edited:?}");
    let edited = edited.json();
    assert_eq!((edited["content"].as_str(), edited["revision"].as_u64()), (Some("My number is [removed]."), Some(1)));
    assert!(edited["edited_at"].is_string() && edited["deleted_at"].is_null());
    assert_eq!((&edited["seq"], &edited["timestamp"]), (&first["seq"], &first["timestamp"]));
    assert_eq!(acme.client.delete(&message(&second)).await.status, 204);

    let deleted = acme.client.get(&message(&second)).await.json();
    assert_eq!((deleted["content"].as_str(), deleted["revision"].as_u64()), (Some(""), Some(2)));
    assert!(deleted["deleted_at"].is_string());
    for reply in [
        acme.client.delete(&message(&second)).await,
        acme.client.patch(&message(&second), &json!({ "content": "Thanks again." })).await,
    ] {
        assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
    }
    let history = acme.client.get(&format!("{path}/messages?after_seq=0")).await.json();
    assert_eq!(contents(&history), ["My number is [removed].", ""]);
    let session = acme.client.get(&path).await.json();
    assert_eq!((session["last_seq"].as_u64(), session["last_revision"].as_u64()), (Some(2), Some(2)));
    for (word, hits) in [("removed", 1), ("1234", 0), ("Thanks", 0)] {
        let found = acme.client.get(&format!("/v1/messages/search?q={word}")).await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), hits, "{word}");
    }
    // The number goes to nobody else.
    assert_eq!(say(&acme, &path, "Still there?").await["seq"], 3);

    let sql = connect(&app.database.owner_url()).await;
    let entries = "SELECT a.action, a.before->>'content', coalesce(a.after->>'content', 'none'), k.public_id
                   FROM audit_log a JOIN api_keys k ON k.id = a.actor_id WHERE a.resource_id = $1::text::uuid";
    for (it, expected) in [
        (&first, ["message.edit", "My number is 555-1234.", "My number is [removed].", acme.key_id.as_str()]),
        (&second, ["message.delete", "Thanks.", "none", acme.key_id.as_str()]),
    ] {
        let row = sql.query_one(entries, &[&it["id"].as_str().unwrap()]).await.unwrap();
        assert_eq!((0..4).map(|at| row.get::<_, &str>(at)).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_fit_up_to_their_limits() {
    let (_app, acme, path) = with_session().await;
    let messages = format!("{path}/messages");
    // Words of which each is another one: the most that the full text can have to take.
    let longest = (0..).map(|n| format!("{n:x} ")).take(60_000).collect::<String>()[..262_144].to_owned();
    let most = json!({
        "role": "system", "content": longest, "sender": "ü".repeat(200), "client_id": "c".repeat(128),
        "metadata": { "k": "x".repeat(16_384 - 8) },
    });
    let reply = acme.client.post(&messages, &most).await;
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body[..reply.body.len().min(500)]));
    let message = format!("{messages}/{}", reply.json()["id"].as_str().unwrap());
    let draft = |field: &str, value: Value| {
        let mut draft = json!({ "role": "user", "content": "hello" });
        draft[field] = value;
        draft
    };
    for (draft, field) in [
        (draft("content", json!("")), "content"),
        (draft("content", json!(format!("{longest}x"))), "content"),
        (draft("content", json!("a\u{0}b")), "content"),
        (draft("content", Value::Null), "content"),
        (draft("role", json!("visitor")), "role"),
        (draft("sender", json!("")), "sender"),
        (draft("sender", json!("ü".repeat(201))), "sender"),
        (draft("client_id", json!("")), "client_id"),
        (draft("client_id", json!("c".repeat(129))), "client_id"),
        (draft("metadata", json!({ "k": "x".repeat(16_384 - 7) })), "metadata"),
        (draft("metadata", json!({ "k": "\u{0}" })), "metadata.k"),
        (draft("seq", json!(9)), "seq"),
        (json!({ "content": "hello" }), "role"),
    ] {
        let reply = acme.client.post(&messages, &draft).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{field}");
        assert_eq!(reply.json()["fields"][0]["field"], field);
    }
    for (edit, field) in [
        (json!({ "content": "" }), "content"),
        (json!({ "content": format!("{longest}x") }), "content"),
        (json!({ "content": "a\u{0}b" }), "content"),
        (json!({}), "content"),
        (json!({ "content": "a", "role": "user" }), "role"),
    ] {
        let reply = acme.client.patch(&message, &edit).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{field}");
        assert_eq!(reply.json()["fields"][0]["field"], field);
    }
    let session = acme.client.get(&path).await.json();
    assert_eq!((session["last_seq"].as_u64(), session["last_revision"].as_u64()), (Some(1), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_found_by_their_words_newest_first() {
    let app = TestApp::start().await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    let (one, two) = (acme.session(&json!({})).await, acme.session(&json!({})).await);
    for (session, text) in [
        (&one, "How do I reset my password?"),
        (&two, "Resetting it did not help."),
        (&one, "The invoice is wrong."),
        (&two, "I reset the router, not the password."),
    ] {
        acme.say(session, text).await;
    }
    other.say(&other.session(&json!({})).await, "Their password reset.").await;
    let find = async |query: &str| {
        let reply = acme.client.get(&format!("/v1/messages/search?{query}")).await;
        assert_eq!(reply.status, 200, "{query}: {reply:?}");
        reply.json()
    };
    let found = find("q=reset").await;
    let newest_first =
        ["I reset the router, not the password.", "Resetting it did not help.", "How do I reset my password?"];
    assert_eq!(contents(&found), newest_first);
    assert!(found.get("total").is_none() && found.get("offset").is_none(), "{found}");
    assert_eq!(contents(&find("q=reset+-router").await), newest_first[1..]);
    assert_eq!(contents(&find("q=%22reset+my+password%22").await), newest_first[2..]);
    assert_eq!(contents(&find("q=invoice+or+router").await).len(), 2);
    assert_eq!(contents(&find("q=their").await), [""; 0]);
    // Nothing to look for, and signs that a query language might trip over.
    for odd in ["q=the", "q=-reset", "q=%22", "q=%26+%7C+%21+%28+%3A*", "q=%27%27%3B--", "q=%5C"] {
        assert_eq!(contents(&find(odd).await), [""; 0], "{odd}");
    }
    let first = find("q=reset&limit=2").await;
    acme.say(&one, "Reset again.").await;
    let next = find(&format!("q=reset&limit=2&cursor={}", first["next_cursor"].as_str().unwrap())).await;
    assert_eq!((contents(&first), contents(&next)), (newest_first[..2].to_vec(), newest_first[2..].to_vec()));
    assert!(next["next_cursor"].is_null());

    assert_eq!(find(&format!("q={}", "x".repeat(1_024))).await["items"], json!([]));
    let sessions = acme.client.get("/v1/sessions?limit=1").await.json();
    let foreign = sessions["next_cursor"].as_str().unwrap();
    for (query, field) in [
        (String::new(), "q"),
        ("q=".to_owned(), "q"),
        ("q=+".to_owned(), "q"),
        (format!("q={}", "x".repeat(1_025)), "q"),
        ("q=a%00b".to_owned(), "q"),
        ("q=a&offset=1".to_owned(), "offset"),
        ("q=a&limit=101".to_owned(), "limit"),
        (format!("q=a&cursor={foreign}"), "cursor"),
    ] {
        let reply = acme.client.get(&format!("/v1/messages/search?{query}")).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{query}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{query}");
    }
}
