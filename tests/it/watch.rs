//! What a request asks of Postgres: a statement that runs again and again is named. That no route has one is seen by every other
//! test, since their client fails where an answer has the header.

use serde_json::json;
use tertulia::{
    ctx::{Ctx, RequestId, SessionId},
    watch::watched,
};

use crate::harness::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_over_rows_is_named() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = SessionId(acme.session(&json!({})).await.parse().unwrap());
    let (ctx, request_id) = (Ctx::of_operator(acme.id), RequestId::accept_or_new(None));
    let find = async |times: usize| {
        let work = async {
            for _ in 0..times {
                app.app().chat.find_session(&ctx, id).await.unwrap();
            }
        };
        watched(&request_id, "/v1/sessions/{session_id}", work).await.1
    };
    assert_eq!(find(3).await, None);
    assert_eq!(find(4).await.as_deref(), Some("sessions/find 4"));
}
