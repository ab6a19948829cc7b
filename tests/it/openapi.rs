//! The OpenAPI document: every route is in it, and the answers have the form that it says.

use tertulia::api;

use crate::harness::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_route_and_the_page_shows_it() {
    let app = TestApp::start().await;
    let reply = app.client().get("/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let document = reply.json();
    for route in api::ROUTES.iter().filter(|route| route.pattern.starts_with("/v1")) {
        let operation = &document["paths"][route.pattern][route.method.as_str().to_ascii_lowercase()];
        assert!(operation["operationId"].is_string(), "{} {} is missing", route.method.as_str(), route.pattern);
        assert!(operation["responses"]["401"].is_object(), "{} {}", route.method.as_str(), route.pattern);
    }
    let page = app.client().get("/docs").await;
    assert_eq!(page.status, 200);
    let html = String::from_utf8_lossy(&page.body);
    assert!(html.contains("<html") && !html.contains("src=\"http"), "the page loads something from elsewhere");
}
