//! `/openapi.json`: the route table as an OpenAPI 3.1 document, with what each handler says of itself.
//!
//! Operation ids, paths, path parameters, security, and the errors that follow from a row (no key, too large a body) come from
//! [`super::ROUTES`]; summary, query string and schemas from the `docs_of` module beside each handler.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::{
    Method,
    header::{CACHE_CONTROL, HeaderValue},
};
use sha2::{Digest, Sha256};
use utoipa::{
    PartialSchema as _, ToSchema,
    openapi::{
        Components, ComponentsBuilder, Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Paths, Ref,
        RefOr, Required, ResponseBuilder, ResponsesBuilder, Schema,
        header::HeaderBuilder,
        path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{BodyLimit, ROUTES, Route, idempotency::KEY_BYTES_MAX, lists::PageView};
use crate::{
    app::App,
    ctx::Scope,
    error::Error,
    http::{
        Request, Response,
        problem::Problem,
        respond::{self, JSON},
    },
};

/// Name of the security scheme.
const BEARER: &str = "bearer";

/// What a row of the route table does not say of its route.
pub struct Docs {
    /// One line, without a final stop.
    pub summary: &'static str,
    /// More, where there is more to say.
    pub about: Option<&'static str>,
    /// What the query string may have.
    pub query: &'static [QueryParameter],
    /// The forms that the body may have; none if the route reads none.
    pub takes: Vec<Form>,
    /// The answer if all goes well.
    pub gives: Gives,
    /// Failures that do not follow from the row.
    pub fails: Vec<Error>,
    /// Whether the answer shows a secret, and so is not kept to be repeated.
    pub shows_secret: bool,
}

/// A parameter of a query string.
#[derive(Debug, Clone, Copy)]
pub struct QueryParameter {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What it may be.
    pub kind: QueryKind,
}

/// What a parameter of a query string may be.
#[derive(Debug, Clone, Copy)]
pub enum QueryKind {
    /// A whole number in this range.
    Number {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// Any text.
    Text,
    /// A UUID.
    Id,
    /// `true` or `false`.
    Boolean,
    /// A time as RFC 3339 writes it.
    Time,
}

/// A body in one media type.
pub struct Form {
    media_type: &'static str,
    schema: fn(&mut Schemas) -> RefOr<Schema>,
}

/// An answer.
pub struct Gives {
    /// The HTTP status.
    pub status: u16,
    about: &'static str,
    form: Option<Form>,
}

/// Schemas by name, as they are found.
pub type Schemas = Vec<(String, RefOr<Schema>)>;

impl Docs {
    /// A route that does what `summary` says and answers with `gives`.
    pub fn new(summary: &'static str, gives: Gives) -> Self {
        Self { summary, about: None, query: &[], takes: Vec::new(), gives, fails: Vec::new(), shows_secret: false }
    }

    /// With more to say.
    pub fn about(self, about: &'static str) -> Self {
        Self { about: Some(about), ..self }
    }

    /// With parameters in the query string.
    pub fn query(self, query: &'static [QueryParameter]) -> Self {
        Self { query, ..self }
    }

    /// With a JSON body.
    pub fn takes_json<T: ToSchema>(mut self) -> Self {
        self.takes.push(Form { media_type: "application/json", schema: reference::<T> });
        self
    }

    /// With a body that is not JSON.
    pub fn takes(mut self, media_type: &'static str) -> Self {
        self.takes.push(Form { media_type, schema: |_| any_text() });
        self
    }

    /// With an answer that shows a secret.
    pub fn shows_secret(self) -> Self {
        Self { shows_secret: true, ..self }
    }

    /// With a failure that does not follow from the row.
    pub fn fails(mut self, error: Error) -> Self {
        self.fails.push(error);
        self
    }
}

impl Gives {
    /// JSON.
    pub fn json<T: ToSchema>(status: u16, about: &'static str) -> Self {
        let form = Form { media_type: "application/json", schema: reference::<T> };
        Self { status, about, form: Some(form) }
    }

    /// 200 with a page of a list of `T`.
    pub fn page<T: ToSchema>(about: &'static str) -> Self {
        let form = Form { media_type: "application/json", schema: reference_to_page::<T> };
        Self { status: 200, about, form: Some(form) }
    }

    /// Text of some media type.
    pub fn text(status: u16, media_type: &'static str, about: &'static str) -> Self {
        Self { status, about, form: Some(Form { media_type, schema: |_| any_text() }) }
    }

    /// Nothing but the status.
    pub fn nothing(status: u16, about: &'static str) -> Self {
        Self { status, about, form: None }
    }
}

/// `GET /openapi.json`
#[expect(clippy::unused_async, reason = "the route table wants every handler async")]
pub async fn get_openapi(_app: &App, req: Request) -> Result<Response, Error> {
    let mut response = respond::unless_known(req.headers(), &SERVED.etag, respond::text(JSON, SERVED.json.clone()));
    // May be kept, but is asked about each time: it changes with the server's version.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

pub(super) mod docs_of {
    use super::{Docs, Gives};

    pub(in crate::api) fn get_openapi() -> Docs {
        Docs::new("This document", Gives::text(200, "application/json", "The OpenAPI document."))
    }
}

struct Served {
    json: Bytes,
    etag: HeaderValue,
}

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let json = Bytes::from(serde_json::to_vec(&document()).expect("utoipa's types have string keys only"));
    let etag = etag_of(&json);
    Served { json, etag }
});

/// A weak validator of `bytes`, from their hash.
pub(super) fn etag_of(bytes: &[u8]) -> HeaderValue {
    let etag = format!("W/\"{}\"", hex::encode(&Sha256::digest(bytes)[..8]));
    HeaderValue::try_from(etag).expect("hexadecimal digits are visible ASCII")
}

/// The whole document.
pub fn document() -> OpenApi {
    let mut schemas = Schemas::new();
    let mut paths = Paths::new();
    for route in ROUTES {
        let operation = operation(route, &mut schemas);
        paths.add_path_operation(route.pattern, vec![method(route)], operation);
    }
    let about = "Documents in, ranked chunks out; widgets, meetings, sessions and their messages; people and API keys. Errors are `application/problem+json` with a stable `code`. Answers of limited routes say in `RateLimit` what the caller may still ask.";
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("tertulia")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(about))
        .license(Some(license));
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components(schemas))).build()
}

/// One error of each kind, in the order of their status.
pub fn every_error() -> Vec<Error> {
    let later = std::time::Duration::from_secs(1);
    let mut all = vec![
        Error::NotFound { what: "thing of that id" },
        Error::MethodNotAllowed { allow: "the methods of its Allow header".into() },
        Error::Invalid {
            detail: "Some part of the request does not fit; `fields` says which.".into(),
            fields: Vec::new(),
        },
        Error::UnsupportedMediaType { detail: "The body has a media type or coding that is not taken here.".into() },
        Error::UnsupportedCoding { detail: "The body has a Content-Encoding other than br, gzip, deflate.".into() },
        Error::NotAcceptable,
        Error::Conflict { detail: "The state of things forbids it: a name that is taken, say.".into() },
        Error::UnderWay { retry_after: later },
        Error::KeyReused,
        Error::Unauthenticated,
        Error::BadCredentials,
        Error::Forbidden { detail: "Whoever asks lacks the scope that this route asks for.".into() },
        Error::TooLarge { limit_bytes: 0 },
        Error::RequestTimeout,
        Error::RateLimited { retry_after: later },
        Error::Unavailable {
            detail: "Something below is away, or there is too much to do; come again as Retry-After says.",
            retry_after: later,
            source: None,
        },
        Error::Deadline,
        Error::Internal(anyhow::anyhow!("anything")),
    ];
    all.sort_by_key(|error| error.meaning().status);
    all
}

/// What the document says of a kind of error.
pub(super) fn about_error(error: &Error) -> String {
    match error {
        Error::TooLarge { .. } => "The body is larger than the route takes, as sent or as inflated.".into(),
        error => error.detail(),
    }
}

fn operation(route: &Route, schemas: &mut Schemas) -> Operation {
    let docs = (route.docs)();
    let mut operation = OperationBuilder::new()
        .operation_id(Some(route.name))
        .summary(Some(docs.summary))
        .description(docs.about)
        .tag(tag(route));
    for name in route.path_parameters() {
        operation = operation.parameter(path_parameter(name));
    }
    for parameter in docs.query {
        operation = operation.parameter(query_parameter(parameter));
    }
    if route.creates() {
        operation = operation.parameter(idempotency_key(docs.shows_secret));
    }
    if route.wants_caller() {
        let scopes: Vec<_> = route.scope().map(Scope::as_str).into_iter().collect();
        operation = operation.security(SecurityRequirement::new(BEARER, scopes));
    }
    let mut answer = ResponseBuilder::new().description(docs.gives.about);
    if let Some(form) = &docs.gives.form {
        answer = answer.content(form.media_type, Content::new(Some((form.schema)(schemas))));
    }
    let mut responses = ResponsesBuilder::new().response(docs.gives.status.to_string(), answer);
    for error in failures(route).iter().chain(&docs.fails) {
        let meaning = error.meaning();
        responses = responses.response(meaning.status.to_string(), Ref::from_response_name(meaning.code));
    }
    operation.request_body(request_body(&docs.takes, schemas)).responses(responses.build()).build()
}

/// The failures that follow from a row. Where one status has two codes, the first of them stands for both.
fn failures(route: &Route) -> Vec<Error> {
    let (has_caller, has_body) = (route.wants_caller(), route.body != BodyLimit::Nothing);
    let has_path_parameters = route.path_parameters().next().is_some();
    let follows = |error: &Error| match error {
        Error::Invalid { .. } => has_caller || has_body,
        Error::Unauthenticated => has_caller,
        Error::Forbidden { .. } => route.scope().is_some(),
        Error::NotFound { .. } => has_path_parameters,
        Error::RateLimited { .. } => route.is_limited(),
        Error::UnsupportedMediaType { .. } | Error::TooLarge { .. } | Error::RequestTimeout => has_body,
        Error::NotAcceptable | Error::Unavailable { .. } | Error::Deadline | Error::Internal(_) => true,
        Error::BadCredentials
        | Error::UnsupportedCoding { .. }
        | Error::MethodNotAllowed { .. }
        | Error::Conflict { .. } => false,
        Error::UnderWay { .. } | Error::KeyReused => route.creates(),
    };
    every_error().into_iter().filter(follows).collect()
}

fn request_body(takes: &[Form], schemas: &mut Schemas) -> Option<RequestBody> {
    if takes.is_empty() {
        return None;
    }
    let body = RequestBodyBuilder::new().required(Some(Required::True));
    let with_form = |body: RequestBodyBuilder, form: &Form| {
        body.content(form.media_type, Content::new(Some((form.schema)(schemas))))
    };
    Some(takes.iter().fold(body, with_form).build())
}

fn path_parameter(name: &'static str) -> ParameterBuilder {
    let about = match name {
        "document" => {
            "The document's `external_id`, percent-encoded; where a document is read or deleted its id will do too."
                .to_owned()
        }
        name => format!("The {}.", name.replace("_id", "'s id").replace('_', " ")),
    };
    let schema = match name.ends_with("_id") {
        true => text_of(KnownFormat::Uuid),
        false => any_text(),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(about))
        .schema(Some(schema))
}

fn idempotency_key(shows_secret: bool) -> ParameterBuilder {
    let about = match shows_secret {
        false => {
            "A new key for each new request: sent again with the same one, it is done once, and the answer is the same, with \
             `Idempotency-Replayed: true`. Kept for a day."
        }
        true => {
            "A new key for each new request: sent again with the same one, it is done once. The answer shows a secret and is \
             not kept, so a repeat gets 409."
        }
    };
    let schema = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(schema.min_length(Some(1)).max_length(Some(KEY_BYTES_MAX)).pattern(Some("^[!-~]+$"))))
}

fn query_parameter(parameter: &QueryParameter) -> ParameterBuilder {
    let schema = match parameter.kind {
        QueryKind::Text => any_text(),
        QueryKind::Id => text_of(KnownFormat::Uuid),
        QueryKind::Time => text_of(KnownFormat::DateTime),
        QueryKind::Boolean => ObjectBuilder::new().schema_type(SchemaType::new(Type::Boolean)).into(),
        QueryKind::Number { min, max } => ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::Integer))
            .minimum(Some(min as f64))
            .maximum(Some(max as f64))
            .into(),
    };
    ParameterBuilder::new()
        .name(parameter.name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(parameter.about))
        .schema(Some(schema))
}

fn components(mut schemas: Schemas) -> Components {
    let problem = reference::<Problem<'_>>(&mut schemas);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(format!(
        "An API key (`tt_…`, from `tertulia key create` or `POST /v1/api-keys`) or the token of a login (`tl_…`, from \
         `POST /v1/auth/login`), or for one session a visitor's (`tv_…`, from `POST /v1/widgets/{{widget_id}}/visitors`). A key has some of the scopes {}; a person has those of their role.",
        Scope::ALL.map(Scope::as_str).join(", ")
    )));
    let mut components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(BEARER, SecurityScheme::Http(bearer.build()));
    for error in every_error() {
        let content = Content::builder().schema(Some(problem.clone())).build();
        let mut response =
            ResponseBuilder::new().description(about_error(&error)).content("application/problem+json", content);
        if error.retry_after().is_some() {
            let seconds = ObjectBuilder::new().schema_type(SchemaType::new(Type::Integer));
            let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds to wait."));
            response = response.header("Retry-After", header.build());
        }
        if matches!(error, Error::RateLimited { .. }) {
            for (name, about) in [
                ("RateLimit", "For each policy: what is left (`r`) and the seconds until there is more (`t`)."),
                ("RateLimit-Policy", "For each policy: how many requests (`q`) in how many seconds (`w`)."),
            ] {
                let header = HeaderBuilder::new().schema(Some(any_text())).description(Some(about));
                response = response.header(name, header.build());
            }
        }
        components = components.response(error.meaning().code, response);
    }
    components.build()
}

/// A reference to the schema of `T`, which with what it refers to is among `schemas` from then on.
fn reference<T: ToSchema>(schemas: &mut Schemas) -> RefOr<Schema> {
    let name = T::name().into_owned();
    if !schemas.iter().any(|(known, _)| *known == name) {
        schemas.push((name.clone(), T::schema()));
        T::schemas(schemas);
    }
    Ref::from_schema_name(name).into()
}

/// As [`reference`], for pages of `T`. A generic type has one name for all its forms, so each gets one here.
fn reference_to_page<T: ToSchema>(schemas: &mut Schemas) -> RefOr<Schema> {
    let name = format!("{}Page", T::name());
    if !schemas.iter().any(|(known, _)| *known == name) {
        schemas.push((name.clone(), PageView::<T>::schema()));
        reference::<T>(schemas);
    }
    Ref::from_schema_name(name).into()
}

fn any_text() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).into()
}

fn text_of(format: KnownFormat) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
    schema.format(Some(SchemaFormat::KnownFormat(format))).into()
}

/// What the operations of one resource are grouped under.
fn tag(route: &Route) -> &'static str {
    match route.pattern {
        pattern if pattern.contains("/documents") => "documents",
        pattern if pattern.starts_with("/v1/knowledge-bases") => "knowledge bases",
        pattern if pattern.contains("/messages") => "messages",
        pattern if pattern.starts_with("/v1/widgets") => "widgets",
        pattern if pattern.starts_with("/v1/meetings") => "meetings",
        pattern if pattern.starts_with("/v1/sessions") => "sessions",
        pattern if pattern.starts_with("/v1/auth") => "logins",
        pattern if pattern.starts_with("/v1/users") => "people",
        pattern if pattern.starts_with("/v1/api-keys") => "API keys",
        _ => "server",
    }
}

fn method(route: &Route) -> HttpMethod {
    match route.method {
        Method::PUT => HttpMethod::Put,
        Method::POST => HttpMethod::Post,
        Method::DELETE => HttpMethod::Delete,
        Method::PATCH => HttpMethod::Patch,
        _ => HttpMethod::Get,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn as_json() -> Value {
        serde_json::from_slice(&SERVED.json).unwrap()
    }

    /// Every operation of the document: method, path, and what it says.
    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let of_path = |(path, item): (&String, &Value)| {
            let operations = item.as_object().unwrap().clone();
            let path = path.clone();
            operations.into_iter().map(move |(method, it)| (method.to_ascii_uppercase(), path.clone(), it))
        };
        paths.iter().flat_map(of_path).collect()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let told: BTreeSet<_> = operations(&as_json())
            .into_iter()
            .map(|(method, path, operation)| (method, path, operation["operationId"].as_str().unwrap().to_owned()))
            .collect();
        let rows: BTreeSet<_> = ROUTES
            .iter()
            .map(|route| (route.method.to_string(), route.pattern.to_owned(), route.name.to_owned()))
            .collect();
        assert_eq!(told, rows);
    }

    #[test]
    fn every_operation_says_what_it_takes_and_gives() {
        for (method, path, operation) in operations(&as_json()) {
            assert!(operation["summary"].as_str().is_some_and(|it| !it.is_empty()), "{method} {path} has no summary");
            let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
            let in_path = parameters.iter().filter(|it| it["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{method} {path}");
            let takes_one = matches!(method.as_str(), "POST" | "PUT" | "PATCH")
                && !["/warm", "/end", "/logout", "/refresh"].iter().any(|deed| path.ends_with(deed));
            assert_eq!(operation.get("requestBody").is_some(), takes_one, "{path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} never succeeds");
            let lets_in = path.ends_with("/visitors");
            assert_eq!(responses.contains_key("401"), path.starts_with("/v1/") && !lets_in, "{method} {path}");
            let is_secured = path.starts_with("/v1/") && path != "/v1/auth/login" && !lets_in;
            assert_eq!(operation.get("security").is_some(), is_secured, "{method} {path}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = as_json();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > ROUTES.len());
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn every_kind_of_error_is_described_once() {
        let codes: Vec<_> = every_error().iter().map(|error| error.meaning().code).collect();
        let distinct: BTreeSet<_> = codes.iter().collect();
        assert_eq!(distinct.len(), codes.len());
        let document = as_json();
        for code in codes {
            assert!(document["components"]["responses"][code]["description"].is_string(), "{code}");
        }
    }
}
