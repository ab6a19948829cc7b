//! The OpenAPI document: every route is in it, and the answers have the form that it says.

use std::{cmp::Reverse, collections::BTreeSet};

use hyper::Method;
use serde_json::{Value, json};
use tertulia::api;

use crate::harness::{Embeddings, PASSWORD, Reply, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_route_and_the_page_shows_it() {
    let app = TestApp::start().await;
    let reply = app.client().get("/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let document = reply.json();
    for route in api::ROUTES.iter().filter(|route| route.pattern.starts_with("/v1")) {
        let operation = &document["paths"][route.pattern][route.method.as_str().to_ascii_lowercase()];
        assert!(operation["operationId"].is_string(), "{} {} is missing", route.method.as_str(), route.pattern);
        assert!(
            route.name == "create_visitor" || operation["responses"]["401"].is_object(),
            "{} {}",
            route.method.as_str(),
            route.pattern
        );
    }
    let page = app.client().get("/docs").await;
    assert_eq!(page.status, 200);
    let html = String::from_utf8_lossy(&page.body);
    assert!(html.contains("<html") && !html.contains("src=\"http"), "the page loads something from elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_form_that_the_document_says() {
    // A generation that is being built stays so.
    let encoder = Embeddings::start().await;
    encoder.close();
    let settings = encoder.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let app = TestApp::start_with(&settings).await;
    let document = app.client().get("/openapi.json").await.json();
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let draft = json!({
        "title": "A note", "content": "# One\n\nThe secret is swordfish.", "content_type": "text/markdown",
        "source_url": "https://example.com/a", "metadata": { "lang": "en" },
    });
    let version = acme.put_document(&id, "a", &draft).await;
    acme.until_in_memory(&id, version).await;
    let session = acme.session(&json!({ "visitor_id": "v-1", "metadata": { "page": "/pricing" } })).await;
    let message = acme.say(&session, "The secret is marlin.").await;
    let draft_of_widget = json!({ "name": "site", "allowed_origins": ["https://example.com"] });
    let created = acme.client.post("/v1/widgets", &draft_of_widget).await.json();
    let (widget, embed_key) = (created["id"].as_str().unwrap().to_owned(), created["embed_key"].clone());
    let mut visitor = acme.client.without_key();
    let meeting = acme.created("/v1/meetings", &json!({ "title": "weekly" })).await;
    let participants = format!("/v1/meetings/{meeting}/participants");
    let participant = acme.created(&participants, &json!({ "name": "Grace" })).await;
    acme.user("ada@example.com", "owner").await;
    let user = acme.user("grace@example.com", "agent").await;
    let api_key = acme.created("/v1/api-keys", &json!({ "scopes": ["knowledge:read"] })).await;

    // What others need is deleted last, the inner before the outer.
    let mut routes: Vec<_> = api::ROUTES.iter().collect();
    routes.sort_by_key(|route| {
        (route.method == Method::DELETE, route.name != "create_visitor", Reverse(route.pattern.len()))
    });
    let (mut generation_id, mut visitor_session) = (String::new(), String::new());
    for route in routes {
        let path = route.pattern.replace("{knowledge_base_id}", &id).replace("{document}", "a");
        let path = path.replace("{generation_id}", &generation_id).replace("{session_id}", &session);
        let mut path = path.replace("{message_id}", message["id"].as_str().unwrap());
        path = path.replace("{widget_id}", &widget).replace("{meeting_id}", &meeting);
        path = path.replace("{participant_id}", &participant).replace("{user_id}", &user);
        path = path.replace("{api_key_id}", &api_key);
        if route.name == "refresh_visitor" {
            path = format!("/v1/sessions/{visitor_session}/refresh");
        }
        if route.name == "search_messages" {
            path += "?q=marlin";
        }
        let body = match (&route.method, route.pattern) {
            (&Method::POST, "/v1/knowledge-bases") => json!({ "name": "another" }).to_string(),
            (&Method::POST, pattern) if pattern.ends_with("/search") => {
                json!({ "query": "secret", "explain": true, "expand": 1, "highlight": true }).to_string()
            }
            (&Method::POST, pattern) if pattern.ends_with("/delete-documents") => {
                json!({ "filter": { "type": "eq", "key": "lang", "value": "none" } }).to_string()
            }
            (&Method::POST, pattern) if pattern.ends_with("/patch-documents") => {
                let filter = json!({ "type": "eq", "key": "lang", "value": "en" });
                json!({ "filter": filter, "metadata": { "lang": "en" } }).to_string()
            }
            (&Method::POST, "/v1/auth/login") => {
                json!({ "tenant": "acme", "email": "ada@example.com", "password": PASSWORD }).to_string()
            }
            (&Method::POST, "/v1/auth/password") => {
                json!({ "current_password": PASSWORD, "new_password": PASSWORD }).to_string()
            }
            (&Method::POST, "/v1/users") => json!({ "email": "another@example.com", "role": "viewer" }).to_string(),
            (&Method::PATCH, "/v1/users/{user_id}") => json!({ "name": "Grace", "role": "admin" }).to_string(),
            (&Method::POST, "/v1/api-keys") => json!({ "scopes": ["knowledge:read"] }).to_string(),
            (&Method::POST, "/v1/api-keys/{api_key_id}/rotate") => json!({ "overlap_seconds": 60 }).to_string(),
            (&Method::POST, pattern) if pattern.ends_with("/rotate-secret") => {
                json!({ "secret": "identity", "overlap_seconds": 60 }).to_string()
            }
            (&Method::POST, pattern) if pattern.ends_with("/visitors") => {
                json!({ "embed_key": embed_key, "visitor_id": "v-1" }).to_string()
            }
            (&Method::POST, pattern)
                if ["/warm", "/end", "/logout", "/refresh"].iter().any(|deed| pattern.ends_with(deed)) =>
            {
                String::new()
            }
            (&Method::POST, "/v1/widgets") => {
                json!({ "name": "another", "allowed_origins": ["https://example.com"] }).to_string()
            }
            (&Method::PATCH, "/v1/widgets/{widget_id}") => json!({ "is_disabled": true }).to_string(),
            (&Method::POST, "/v1/meetings") => {
                let (starts_at, ends_at) = ("2026-11-28T12:00:00Z", "2026-11-28T13:00:00+00:30");
                json!({ "title": "another", "starts_at": starts_at, "ends_at": ends_at }).to_string()
            }
            (&Method::PATCH, "/v1/meetings/{meeting_id}") => json!({ "ends_at": null, "title": "daily" }).to_string(),
            (&Method::POST, pattern) if pattern.ends_with("/participants") => json!({ "name": "Ada" }).to_string(),
            (&Method::PATCH, pattern) if pattern.ends_with("/{participant_id}") => {
                json!({ "role": "host", "joined_at": "2026-11-28T12:00:00Z" }).to_string()
            }
            (&Method::POST, "/v1/sessions") => "{}".to_owned(),
            (&Method::POST, pattern) if pattern.ends_with("/messages") => {
                json!({ "role": "agent", "content": "Hello.", "sender": "Ada", "client_id": "c-1" }).to_string()
            }
            (&Method::PATCH, "/v1/sessions/{session_id}") => {
                json!({ "visitor_name": "Grace", "metadata": { "page": null } }).to_string()
            }
            (&Method::PATCH, pattern) if pattern.ends_with("/{message_id}") => {
                json!({ "content": "The secret is a marlin." }).to_string()
            }
            (&Method::POST, pattern) if pattern.ends_with("/generations") => {
                json!({ "encoder": "test-model" }).to_string()
            }
            (&Method::POST | &Method::PATCH, _) => panic!("a body for {}", route.pattern),
            (&Method::PUT, _) => draft.to_string(),
            _ => String::new(),
        };
        let operation = &document["paths"][route.pattern][route.method.as_str().to_ascii_lowercase()];
        let send = |client: &crate::harness::Client| {
            let (client, path, body) = (client.clone(), path.clone(), body.clone());
            async move {
                let request = client.request(route.method.clone(), &path).header("content-type", "application/json");
                let request = request.header("origin", "https://example.com");
                client.send(request.body(http_body_util::Full::new(body.into())).unwrap()).await
            }
        };
        if route.wants_caller() {
            let refused = send(&app.client()).await;
            assert_eq!(refused.status, 401, "{path}");
            check_reply(&document, operation, &refused, &path);
        }
        let reply = match route.pattern {
            pattern if pattern.starts_with("/v1/auth/") => send(&acme.log_in("ada@example.com").await).await,
            pattern if pattern.ends_with("/refresh") => send(&visitor).await,
            _ => send(&acme.client).await,
        };
        assert!((200..300).contains(&reply.status), "{} {path}: {reply:?}", route.method);
        check_reply(&document, operation, &reply, &path);
        if route.name == "create_visitor" {
            visitor = visitor.with_key(reply.json()["token"].as_str().unwrap());
            visitor_session = reply.json()["session"]["id"].as_str().unwrap().to_owned();
        }
        if route.name == "create_generation" {
            generation_id = reply.json()["id"].as_str().unwrap().to_owned();
        }
    }
}

/// Panics unless `reply` is one of those that `operation` tells of.
fn check_reply(document: &Value, operation: &Value, reply: &Reply, path: &str) {
    let told = resolve(document, &operation["responses"][reply.status.to_string()]);
    assert!(told.is_object(), "{path} answered {}, which the document does not know", reply.status);
    let Some(contents) = told["content"].as_object() else {
        assert!(reply.body.is_empty(), "{path} answered with a body that the document does not know");
        return;
    };
    let content_type = reply.header("content-type").unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default();
    let schema = &contents.get(media_type).unwrap_or_else(|| panic!("{path} answered in {content_type}"))["schema"];
    // Of any other text, the media type is all that the document says.
    if schema.get("$ref").is_some() {
        check_value(document, schema, &reply.json(), path);
    }
}

/// Panics unless `value` is as `schema` says: types, required and known properties, ranges, choices.
fn check_value(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = resolve(document, schema);
    for keyword in schema.as_object().unwrap_or_else(|| panic!("{place}: no schema")).keys() {
        const KNOWN: [&str; 9] =
            ["type", "required", "properties", "items", "oneOf", "minimum", "format", "description", "default"];
        assert!(KNOWN.contains(&keyword.as_str()), "{place}: this test does not know `{keyword}`");
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let is_null = |choice: &&Value| choice["type"] == "null";
        assert!(choices.len() == 2 && choices.iter().any(|choice| is_null(&choice)), "{place}: {schema}");
        if let Some(choice) = choices.iter().find(|choice| is_null(choice) == value.is_null()) {
            check_value(document, choice, value, place);
        }
        return;
    }
    let types: BTreeSet<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if types.contains("integer") && (number.is_u64() || number.is_i64()) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.contains(kind), "{place} is {value}, not {types:?}");
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64()) {
        assert!(number >= least, "{place} is {value}");
    }
    if schema["format"] == "uuid" && value.is_string() {
        assert!(value.as_str().is_some_and(|text| text.parse::<uuid::Uuid>().is_ok()), "{place} is {value}");
    }
    if let (Some(items), Value::Array(values)) = (schema.get("items"), value) {
        values.iter().for_each(|value| check_value(document, items, value, &format!("{place}[]")));
    }
    // An object without properties, such as metadata, may hold anything.
    if let (Some(properties), Value::Object(fields)) = (schema["properties"].as_object(), value) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(fields.contains_key(name), "{place} lacks `{name}`: {value}");
        }
        for (name, value) in fields {
            let schema = properties.get(name).unwrap_or_else(|| panic!("{place} has an unknown `{name}`: {value}"));
            check_value(document, schema, value, &format!("{place}.{name}"));
        }
    }
}

/// What a reference leads to; what is none is given back.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

#[test]
fn the_check_finds_what_differs() {
    let document = json!({ "a": { "type": "object", "required": ["n"], "properties": {
        "n": { "type": "integer", "minimum": 0 }, "s": { "type": ["string", "null"] },
    } } });
    let passes = |value: Value| {
        let schema = json!({ "type": "array", "items": { "$ref": "#/a" } });
        std::panic::catch_unwind(|| check_value(&document, &schema, &value, "it")).is_ok()
    };
    assert!(passes(json!([{ "n": 1, "s": null }, { "n": 0 }])));
    for wrong in
        [json!({}), json!([{}]), json!([{ "n": -1 }]), json!([{ "n": 1, "s": 2 }]), json!([{ "n": 1, "x": 1 }])]
    {
        assert!(!passes(wrong.clone()), "{wrong}");
    }
}
