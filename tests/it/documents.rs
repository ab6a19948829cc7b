//! Documents: put in every format, replaced whole, unchanged ones left alone, deleted from every search.

use hyper::Method;
use serde_json::json;

use crate::harness::{TestApp, external_ids};

#[tokio::test(flavor = "multi_thread")]
async fn each_format_is_searchable_by_its_text_heading_and_title() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let html = "<html><head><title>Rivers</title></head><body><nav>Menu zebra</nav><h1>Rivers</h1>\
                <h2>The Danube</h2><p>It passes ten countries.</p></body></html>";
    let markdown = "# Lakes\n\n## Baikal\n\nThe deepest one holds a fifth of all fresh water.\n";
    let pdf = include_bytes!("../data/mountains.pdf");
    for (name, content_type, body) in [
        ("rivers", "text/html; charset=utf-8", html.as_bytes()),
        ("lakes", "text/markdown", markdown.as_bytes()),
        ("seas", "text/plain", b"The Baltic is brackish.".as_slice()),
        ("mountains", "application/pdf", pdf.as_slice()),
    ] {
        let path = format!("/v1/knowledge-bases/{id}/documents/{name}?source_url=https://example.com/{name}");
        let reply = acme.client.send_bytes(Method::PUT, &path, content_type, body.to_vec()).await;
        assert_eq!(reply.status, 200, "{name}: {reply:?}");
        let receipt = reply.json();
        assert_eq!((receipt["status"].as_str(), receipt["external_id"].as_str()), (Some("indexed"), Some(name)));
        acme.until_in_memory(&id, receipt["version"].as_u64().unwrap()).await;
    }
    for (question, name) in [
        ("passes ten", "rivers"),
        ("Danube", "rivers"),
        ("Baikal", "lakes"),
        ("brackish", "seas"),
        ("Matterhorn", "mountains"),
    ] {
        let answer = acme.search(&id, &json!({ "query": question, "mode": "keyword" })).await;
        assert_eq!(external_ids(&answer), [name], "{question}: {answer}");
        assert_eq!(answer["results"][0]["source_url"], format!("https://example.com/{name}"));
    }
    let answer = acme.search(&id, &json!({ "query": "zebra", "mode": "keyword" })).await;
    assert!(external_ids(&answer).is_empty(), "navigation was indexed: {answer}");
    let answer = acme.search(&id, &json!({ "query": "Danube" })).await;
    assert_eq!(answer["results"][0]["heading"], "Rivers › The Danube");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_known_by_its_media_type_however_it_is_spelled() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let path = format!("/v1/knowledge-bases/{id}/documents/a");
    for (content_type, status) in
        [("Application/JSON; charset=utf-8", 200), ("application/json", 200), ("application/jsonl", 415)]
    {
        let reply = acme.client.send_bytes(Method::PUT, &path, content_type, "{\"content\": \"Text.\"}").await;
        assert_eq!(reply.status, status, "{content_type}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_document_again_writes_nothing() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let document = json!({ "content": "One text.", "title": "T", "metadata": { "lang": "en" } });
    let version = acme.put_document(&id, "a", &document).await;
    let path = format!("/v1/knowledge-bases/{id}/documents/a");
    let again = acme.client.put(&path, &document).await.json();
    assert_eq!((again["status"].as_str(), again["version"].as_u64()), (Some("unchanged"), Some(version)));
    let changed = json!({ "content": "One text.", "title": "T", "metadata": { "lang": "de" } });
    let changed = acme.client.put(&path, &changed).await.json();
    assert_eq!(changed["status"], "indexed");
    assert!(changed["version"].as_u64() > Some(version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_that_is_blank_or_left_out_is_the_documents_own() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let path = format!("/v1/knowledge-bases/{id}/documents/a");
    let put = async |query: &str, text: &str| {
        let reply =
            acme.client.send_bytes(Method::PUT, &format!("{path}{query}"), "text/markdown", text.to_owned()).await;
        let title = acme.client.get(&path).await.json()["title"].as_str().unwrap().to_owned();
        (reply.json()["status"].as_str().unwrap().to_owned(), title)
    };
    let outcome = |status: &str, title: &str| (status.to_owned(), title.to_owned());
    assert_eq!(put("?title=+", "# Own\n\nText.").await, outcome("indexed", "Own"));
    for same in ["", "?title=", "?title=+", "?title=Own"] {
        assert_eq!(put(same, "# Own\n\nText.").await, outcome("unchanged", "Own"), "{same}");
    }
    assert_eq!(put("?title=Given", "# Own\n\nText.").await, outcome("indexed", "Given"));
    assert_eq!(put("", "# Own\n\nText.").await, outcome("unchanged", "Given"));
    assert_eq!(put("", "# Own\n\nAnother text.").await, outcome("indexed", "Own"));
    let json = json!({ "content": "Without a title.", "title": " " });
    for status in ["indexed", "unchanged"] {
        let receipt = acme.client.put(&path, &json).await.json();
        assert_eq!(receipt["status"], status);
    }
    assert_eq!(acme.client.get(&path).await.json()["title"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_document_shows_only_its_new_text() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "a", "The old password is swordfish.").await;
    let version = acme.put_text(&id, "a", "The new password is marlin.").await;
    for mode in ["keyword", "semantic", "hybrid"] {
        let answer =
            acme.search(&id, &json!({ "query": "swordfish password", "mode": mode, "min_version": version })).await;
        let text = answer["results"].to_string();
        assert!(text.contains("marlin") && !text.contains("swordfish"), "{mode}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_document_is_gone_from_every_search() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "keep", "A text that stays.").await;
    acme.put_text(&id, "gone%2Fwith%20space", "A text that goes.").await;
    let path = format!("/v1/knowledge-bases/{id}/documents/gone%2Fwith%20space");
    let document = acme.client.get(&path).await;
    assert_eq!((document.status, document.json()["external_id"].as_str()), (200, Some("gone/with space")));
    let chunks = acme.client.get(&format!("{path}/chunks")).await.json();
    assert_eq!(chunks["items"][0]["content"], "A text that goes.");

    let version = acme.client.delete(&path).await.json()["version"].as_u64().unwrap();
    for mode in ["keyword", "semantic", "hybrid"] {
        let answer =
            acme.search(&id, &json!({ "query": "text that goes", "mode": mode, "min_version": version })).await;
        assert_eq!(external_ids(&answer), ["keep"], "{mode}");
    }
    assert_eq!(acme.client.get(&path).await.status, 404);
    assert_eq!(acme.client.delete(&path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_named_by_external_id_or_id() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "a", "Text.").await;
    let documents = format!("/v1/knowledge-bases/{id}/documents");
    let by_name = acme.client.get(&format!("{documents}/a")).await.json();
    let by_id = acme.client.get(&format!("{documents}/{}", by_name["id"].as_str().unwrap())).await.json();
    assert_eq!(by_name, by_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_read_is_refused_and_the_old_one_stays() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "a", "The first text.").await;
    let path = format!("/v1/knowledge-bases/{id}/documents/a");
    let reply = acme.client.send_bytes(Method::PUT, &path, "application/pdf", "not a pdf").await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"));
    let reply = acme.client.send_bytes(Method::PUT, &path, "text/plain", vec![0xff, 0xfe, 0xc3]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"));
    let reply = acme.client.send_bytes(Method::PUT, &path, "image/png", vec![1, 2, 3]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (415, "unsupported_media_type"));
    let chunks = acme.client.get(&format!("{path}/chunks")).await.json();
    assert_eq!(chunks["items"][0]["content"], "The first text.");
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_of_one_document_at_once_leave_one_of_them_whole() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let puts = (0..8).map(|n| {
        let (client, path) = (acme.client.clone(), format!("/v1/knowledge-bases/{id}/documents/a"));
        let text = format!("Writer{n} wrote this. ").repeat(400);
        async move { client.put(&path, &json!({ "content": text })).await.status }
    });
    let statuses = futures_util::future::join_all(puts).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let chunks = acme.client.get(&format!("/v1/knowledge-bases/{id}/documents/a/chunks")).await.json();
    let chunks = chunks["items"].as_array().unwrap();
    let writer = &chunks[0]["content"].as_str().unwrap()[..7];
    assert!(chunks.len() > 1);
    assert!(chunks.iter().all(|chunk| chunk["content"].as_str().unwrap().starts_with(writer)), "two writers mixed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_document_is_kept_with_no_chunks() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "empty", "").await;
    let document = acme.client.get(&format!("/v1/knowledge-bases/{id}/documents/empty")).await.json();
    assert_eq!(document["chunks"], 0);
}
