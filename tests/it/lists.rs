//! Lists: limit, offset with a total, and cursors that stay right while rows come and go.

use serde_json::Value;

use crate::harness::{Tenant, TestApp};

async fn with_documents(count: usize) -> (TestApp, Tenant, String) {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    for n in 0..count {
        acme.put_text(&id, &format!("doc-{n:02}"), &format!("Document number {n}.")).await;
    }
    let path = format!("/v1/knowledge-bases/{id}/documents");
    (app, acme, path)
}

fn names(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["external_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_by_offset_have_a_total() {
    let (_app, acme, path) = with_documents(5).await;
    let page = acme.client.get(&format!("{path}?limit=2&offset=2")).await.json();
    assert_eq!(names(&page), ["doc-02", "doc-03"]);
    assert_eq!((page["total"].as_u64(), page["limit"].as_u64(), page["offset"].as_u64()), (Some(5), Some(2), Some(2)));
    let page = acme.client.get(&format!("{path}?offset=99")).await.json();
    assert_eq!((names(&page).len(), page["total"].as_u64()), (0, Some(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_by_cursor_see_every_row_once_while_rows_are_added() {
    let (_app, acme, path) = with_documents(5).await;
    let mut seen = Vec::new();
    let mut next = format!("{path}?limit=2");
    loop {
        let page = acme.client.get(&next).await.json();
        seen.extend(names(&page));
        let id = path.split('/').nth(3).unwrap();
        acme.put_text(id, "doc-00a", &format!("Added after page {}.", seen.len())).await;
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("{path}?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["doc-00", "doc-01", "doc-02", "doc-03", "doc-04"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_pages_are_refused_with_the_field() {
    let (_app, acme, path) = with_documents(0).await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("offset=-1", "offset"),
        ("offset=100001", "offset"),
        ("cursor=garbage", "cursor"),
        ("cursor=AAAA&offset=1", "cursor"),
    ] {
        let reply = acme.client.get(&format!("{path}?{query}")).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{query}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{query}");
    }
    assert_eq!(acme.client.get(&format!("{path}?limit=1")).await.status, 200);
    assert_eq!(acme.client.get(&format!("{path}?limit=100")).await.status, 200);
}
