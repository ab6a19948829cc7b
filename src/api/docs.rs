//! `/docs`: the OpenAPI document as one page of HTML, with nothing fetched and no script: it also reads well in a terminal.
//!
//! Written from the document itself, so that the page cannot say anything else. Errors link here by `#error-<code>`.

use std::{fmt::Write as _, sync::LazyLock};

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue};
use serde_json::{Map, Value};

use super::openapi::{self, etag_of};
use crate::{
    app::App,
    error::Error,
    http::{Request, Response, respond},
};

/// The page's own style and nothing else: no script runs even if one found its way into a text.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const STYLE: &str = include_str!("docs.css");

/// `GET /docs`
#[expect(clippy::unused_async, reason = "the route table wants every handler async")]
pub async fn get_docs(_app: &App, req: Request) -> Result<Response, Error> {
    let (page, etag) = &*PAGE;
    let mut response = respond::unless_known(req.headers(), etag, respond::text(HTML, page.clone()));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
}

pub(super) mod docs_of {
    use super::super::openapi::{Docs, Gives};

    pub(in crate::api) fn get_docs() -> Docs {
        Docs::new("This document as a page", Gives::text(200, "text/html", "The page."))
    }
}

static PAGE: LazyLock<(Bytes, HeaderValue)> = LazyLock::new(|| {
    let document = serde_json::to_value(openapi::document()).expect("utoipa's types have string keys only");
    let page = Bytes::from(render(&document));
    let etag = etag_of(&page);
    (page, etag)
});

/// The page of an OpenAPI document. Every text of the document is escaped.
fn render(document: &Value) -> String {
    let (title, version) = (text(&document["info"]["title"]), text(&document["info"]["version"]));
    let operations = operations(document);
    let mut tags: Vec<&str> = Vec::new();
    for operation in &operations {
        if !tags.contains(&operation.tag) {
            tags.push(operation.tag);
        }
    }
    let mut page = String::with_capacity(64 * 1_024);
    page += "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    page += "<meta name=\"viewport\" content=\"width=device-width\">\n";
    put(&mut page, format_args!("<title>{title} {version}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"));
    put(&mut page, format_args!("<h1>{title} {version}</h1>\n<p>{}</p>\n", text(&document["info"]["description"])));
    for (name, scheme) in object(&document["components"]["securitySchemes"]) {
        let about = text(&scheme["description"]);
        put(&mut page, format_args!("<p><code>{}</code>: {about} Send it as ", escape(name)));
        page += "<code>Authorization: Bearer …</code>.</p>\n";
    }
    page += "<p>The same for programs: <a href=\"openapi.json\">openapi.json</a>.</p>\n<nav>\n";
    for tag in &tags {
        put(&mut page, format_args!("<h2>{}</h2>\n<ul>\n", escape(tag)));
        for it in operations.iter().filter(|it| it.tag == *tag) {
            let (method, path, summary) = (&it.method, escape(it.path), text(&it.says["summary"]));
            let link = format!("<a href=\"#{}\">{summary}</a>", text(&it.says["operationId"]));
            put(
                &mut page,
                format_args!("<li><span class=\"method\">{method}</span> <code>{path}</code><br>{link}</li>\n"),
            );
        }
        page += "</ul>\n";
    }
    page += "</nav>\n<h2>Operations</h2>\n";
    operations.iter().for_each(|operation| put_operation(&mut page, operation));
    page += "<h2>Schemas</h2>\n";
    object(&document["components"]["schemas"]).for_each(|(name, schema)| put_schema(&mut page, name, schema));
    page += "<h2>Errors</h2>\n";
    put_errors(&mut page);
    page += "</body>\n</html>\n";
    page
}

struct Operation<'a> {
    method: String,
    path: &'a str,
    tag: &'a str,
    says: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut all = Vec::new();
    for (path, item) in object(&document["paths"]) {
        for (method, says) in object(item) {
            let tag = says["tags"][0].as_str().unwrap_or_default();
            all.push(Operation { method: method.to_ascii_uppercase(), path, tag, says });
        }
    }
    all
}

fn put_operation(page: &mut String, operation: &Operation<'_>) {
    let says = operation.says;
    put(page, format_args!("<section id=\"{}\">\n", text(&says["operationId"])));
    let (method, path) = (&operation.method, escape(operation.path));
    put(page, format_args!("<h3><span class=\"method\">{method}</span> <code>{path}</code></h3>\n"));
    put(page, format_args!("<p>{}. {}</p>\n", text(&says["summary"]), text(&says["description"])));
    let scopes = array(&says["security"]).flat_map(object).flat_map(|(_, scopes)| array(scopes)).map(text);
    for scope in scopes {
        put(page, format_args!("<p>Scope <code>{scope}</code>.</p>\n"));
    }
    let mut parameters = array(&says["parameters"]).peekable();
    if parameters.peek().is_some() {
        *page += "<table>\n<tr><th>Parameter</th><th>In</th><th>Type</th><th>Meaning</th></tr>\n";
        for it in parameters {
            let (name, place, meaning) = (text(&it["name"]), text(&it["in"]), text(&it["description"]));
            let kind = kind_of(&it["schema"]);
            put(page, format_args!("<tr><td><code>{name}</code><td>{place}<td>{kind}<td>{meaning}\n"));
        }
        *page += "</table>\n";
    }
    let mut forms = object(&says["requestBody"]["content"]).peekable();
    if forms.peek().is_some() {
        *page += "<table>\n<tr><th>Body</th><th>Schema</th></tr>\n";
        for (media_type, form) in forms {
            let kind = kind_of(&form["schema"]);
            put(page, format_args!("<tr><td><code>{}</code><td>{kind}\n", escape(media_type)));
        }
        *page += "</table>\n";
    }
    *page += "<table>\n<tr><th>Answer</th><th>Meaning</th><th>Schema</th></tr>\n";
    for (status, response) in object(&says["responses"]) {
        let (meaning, kind) = match response["$ref"].as_str().and_then(|it| it.rsplit('/').next()) {
            Some(code) => (format!("<a href=\"#error-{0}\">{0}</a>", escape(code)), String::new()),
            None => {
                let kind = object(&response["content"]).map(|(_, form)| kind_of(&form["schema"])).collect();
                (text(&response["description"]), kind)
            }
        };
        put(page, format_args!("<tr><td>{}<td>{meaning}<td>{kind}\n", escape(status)));
    }
    *page += "</table>\n</section>\n";
}

fn put_schema(page: &mut String, name: &str, schema: &Value) {
    let id = escape(name);
    put(page, format_args!("<section id=\"schema-{id}\">\n<h3><code>{id}</code></h3>\n"));
    put(page, format_args!("<p>{}</p>\n", text(&schema["description"])));
    let mut properties = object(&schema["properties"]).peekable();
    if properties.peek().is_none() {
        put(page, format_args!("<p>{}</p>\n</section>\n", kind_of(schema)));
        return;
    }
    *page += "<table>\n<tr><th>Field</th><th>Type</th><th></th><th>Meaning</th></tr>\n";
    for (field, of_field) in properties {
        let needed = array(&schema["required"]).any(|it| it == field);
        let (kind, meaning) = (kind_of(of_field), text(&of_field["description"]));
        let needed = if needed { "required" } else { "" };
        put(page, format_args!("<tr><td><code>{}</code><td>{kind}<td>{needed}<td>{meaning}\n", escape(field)));
    }
    *page += "</table>\n</section>\n";
}

fn put_errors(page: &mut String) {
    *page += "<p>Every error is <code>application/problem+json</code> (RFC 9457). <code>code</code> never changes; ";
    *page += "<code>request_id</code> is also in <code>X-Request-Id</code> and in the server's log.</p>\n";
    for error in openapi::every_error() {
        let meaning = error.meaning();
        let (code, status, title) = (meaning.code, meaning.status, meaning.title);
        put(page, format_args!("<section id=\"error-{code}\">\n<h3>{status} <code>{code}</code> {title}</h3>\n"));
        put(page, format_args!("<p>{}</p>\n</section>\n", escape(&openapi::about_error(&error))));
    }
}

/// A schema in a few words, with a link where it has a name.
fn kind_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|it| it.rsplit('/').next()) {
        return format!("<a href=\"#schema-{0}\">{0}</a>", escape(name));
    }
    let alternatives: Vec<_> = array(&schema["oneOf"]).chain(array(&schema["anyOf"])).map(kind_of).collect();
    if !alternatives.is_empty() {
        return alternatives.join(" or ");
    }
    let words: Vec<_> = array(&schema["enum"]).map(|it| format!("<code>{}</code>", text(it))).collect();
    if !words.is_empty() {
        return words.join(", ");
    }
    let mut kind = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>().join(" or "),
        one => text(one),
    };
    if schema["items"].is_object() {
        kind = format!("{kind} of {}", kind_of(&schema["items"]));
    }
    if let Some(format) = schema["format"].as_str() {
        put(&mut kind, format_args!(" ({})", escape(format)));
    }
    if let (Some(min), Some(max)) = (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        put(&mut kind, format_args!(", {min} to {max}"));
    }
    kind
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes whatever is written to it");
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text of the document, escaped; pieces in backticks as code.
fn text(value: &Value) -> String {
    let escaped = escape(value.as_str().unwrap_or_default());
    let mut pieces = escaped.split('`');
    let mut marked = pieces.next().unwrap_or_default().to_owned();
    for (at, piece) in pieces.enumerate() {
        marked += if at % 2 == 0 { "<code>" } else { "</code>" };
        marked += piece;
    }
    marked
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ROUTES;

    #[test]
    fn the_page_has_every_operation_and_every_link_has_a_target() {
        let page = std::str::from_utf8(&PAGE.0).unwrap();
        for route in ROUTES {
            assert!(page.contains(&format!("<section id=\"{}\">", route.name)), "{} is missing", route.name);
        }
        let links: Vec<_> = page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() > ROUTES.len());
        for link in links {
            assert!(page.contains(&format!("id=\"{link}\"")), "#{link} leads nowhere");
        }
        for error in openapi::every_error() {
            let target = crate::http::problem::type_of(error.meaning().code);
            assert!(page.contains(&format!("id=\"{}\"", target.trim_start_matches("/docs#"))), "{target}");
        }
    }

    #[test]
    fn nothing_is_fetched_from_anywhere() {
        let page = std::str::from_utf8(&PAGE.0).unwrap();
        for asset in ["<script", "src=", "<link", "@import", "url(", "http://", "https://"] {
            assert!(!page.contains(asset), "{asset}");
        }
    }

    #[test]
    fn text_of_the_document_cannot_become_markup() {
        let document = serde_json::json!({
            "info": {"title": "<script>", "version": "1", "description": "a `b` \"c\" & <d>"},
            "paths": {"/<p>": {"get": {"operationId": "x\" onload=\"", "summary": "<s>", "tags": ["<t>"]}}},
        });
        let page = render(&document);
        assert!(page.contains("a <code>b</code> &quot;c&quot; &amp; &lt;d&gt;"));
        for bad in ["<script>", "<p>\"", "<s>", "<t>", "x\" onload"] {
            assert!(!page.contains(bad), "{bad}");
        }
    }
}
