//! The route table, and what happens to every request before and after its handler.
//!
//! [`ROUTES`] has a row for each route: method, pattern, who may call, how large a body may be, handler. The router, the
//! labels of metrics, the OpenAPI document and the tenancy test read this table and nothing else, so a route cannot lack one
//! of them. [`dispatch`] finds the row, checks the caller, runs the handler within its time and turns whatever comes out,
//! an error or a panic among it, into an answer.

pub mod api_keys;
pub mod auth;
mod cors;
pub mod docs;
pub mod documents;
pub mod documents_by_filter;
pub mod fields;
pub mod generations;
pub mod health;
mod idempotency;
pub mod knowledge_bases;
mod limits;
pub mod lists;
pub mod meetings;
pub mod messages;
pub mod openapi;
pub mod query;
pub mod sessions;
pub mod users;
pub mod visitors;
pub mod widgets;

use std::{
    borrow::Cow,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use hyper::{
    Method, Version,
    body::{Body as _, Incoming},
    header::{
        ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue,
        X_CONTENT_TYPE_OPTIONS,
    },
    http::request::Parts,
};

use self::{limits::Told, openapi::Docs};
use crate::{
    accounts::Caller,
    app::App,
    config::ServerConfig,
    ctx::{Actor, Arrival, Ctx, RequestId, Scope},
    error::Error,
    http::{
        Body, Request, Response,
        body::{Limits, Place},
        compress::compress,
        forwarded::client_address,
        negotiate::{Choice, negotiate},
        problem, respond,
    },
    server::ConnInfo,
    watch,
};

/// The header that names a request, both ways.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that names statements that a request ran again and again, where that is watched.
const X_REPEATED_STATEMENTS: HeaderName = HeaderName::from_static("x-repeated-statements");
/// What a request gets that is one too many for its shard.
const OVERLOADED: Error = Error::Unavailable {
    detail: "The server has as many requests as it can take.",
    retry_after: Duration::from_secs(1),
    source: None,
};
/// How long before a handler's deadline the time for a body ends at the latest.
const BODY_MARGIN: Duration = Duration::from_millis(100);
/// Metric label of a path that no row matches: clients must not be able to make up series.
const UNMATCHED: &str = "unmatched";

/// What comes out of a handler.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send + 'a>>;

/// Who may call a route, and what answers them. A handler that knows a tenant cannot stand in a public row.
pub enum Access {
    /// Anybody.
    Public(for<'a> fn(&'a App, Request) -> Answer<'a>),
    /// Anybody, to prove who they are.
    Arrival(for<'a> fn(&'a Arrival, &'a App, Request) -> Answer<'a>),
    /// Whoever sends an API key or the token of a login, and may do what this scope stands for, if there is one.
    Caller(Option<Scope>, for<'a> fn(&'a Ctx, &'a App, Request) -> Answer<'a>),
}

/// How large a route's body may be, as sent and as inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLimit {
    /// The route reads none.
    Nothing,
    /// `server.body_bytes_max`.
    Json,
    /// `server.document_bytes_max`; all at once have `server.documents_held_bytes_max`.
    Document,
}

/// A row of the table.
pub struct Route {
    /// The method. A row for GET answers HEAD too.
    pub method: Method,
    /// The path, with `{name}` for a segment that is a parameter.
    pub pattern: &'static str,
    /// Who may call, and the handler.
    pub access: Access,
    /// Whether it is there for the pages that show a widget: to let a visitor in, or for the visitor of the session that the
    /// path names, who needs no scope.
    pub visitor: bool,
    /// How large a body may be.
    pub body: BodyLimit,
    /// The handler's name: the operation id in the OpenAPI document.
    pub name: &'static str,
    /// What the OpenAPI document says beyond this row.
    pub docs: fn() -> Docs,
}

impl Route {
    /// The scope that whoever asks must have; none where anybody may ask, or whoever is known.
    pub fn scope(&self) -> Option<Scope> {
        match self.access {
            Access::Public(_) | Access::Arrival(_) => None,
            Access::Caller(scope, _) => scope,
        }
    }

    /// Whether an API key or the token of a login has to be sent.
    pub fn wants_caller(&self) -> bool {
        matches!(self.access, Access::Caller(..))
    }

    /// Whether requests to it are counted: all but those by which others watch the server.
    pub fn is_limited(&self) -> bool {
        !["/healthz", "/readyz", "/metrics"].contains(&self.pattern)
    }

    /// Whether it creates something, so that an `Idempotency-Key` has it done once.
    pub fn creates(&self) -> bool {
        self.method == Method::POST && self.wants_caller() && (self.docs)().gives.status == 201
    }

    /// The names of the path's parameters, from left to right.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.pattern.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// A row. The handler `module::name` has its documentation in `module::docs_of::name`.
macro_rules! route {
    ($method:ident $pattern:literal, ($access:ident, visitor), $body:ident, $module:ident::$name:ident) => {
        Route { visitor: true, ..route!($method $pattern, $access, $body, $module::$name) }
    };
    ($method:ident $pattern:literal, public, $body:ident, $module:ident::$name:ident) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            access: Access::Public(|app, request| Box::pin($module::$name(app, request))),
            visitor: false,
            body: BodyLimit::$body,
            name: stringify!($name),
            docs: $module::docs_of::$name,
        }
    };
    ($method:ident $pattern:literal, arrival, $body:ident, $module:ident::$name:ident) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            access: Access::Arrival(|arrival, app, request| Box::pin($module::$name(arrival, app, request))),
            visitor: false,
            body: BodyLimit::$body,
            name: stringify!($name),
            docs: $module::docs_of::$name,
        }
    };
    ($method:ident $pattern:literal, caller, $body:ident, $module:ident::$name:ident) => {
        route!($method $pattern, (None), $body, $module::$name)
    };
    ($method:ident $pattern:literal, $scope:ident, $body:ident, $module:ident::$name:ident) => {
        route!($method $pattern, (Some(Scope::$scope)), $body, $module::$name)
    };
    ($method:ident $pattern:literal, ($scope:expr), $body:ident, $module:ident::$name:ident) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            access: Access::Caller($scope, |ctx, app, request| Box::pin($module::$name(ctx, app, request))),
            visitor: false,
            body: BodyLimit::$body,
            name: stringify!($name),
            docs: $module::docs_of::$name,
        }
    };
}

/// Every route, in the order of the OpenAPI document.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    //     method pattern                                                               access          body      handler
    route!(POST   "/v1/knowledge-bases",                                                KnowledgeWrite, Json,     knowledge_bases::create_knowledge_base),
    route!(GET    "/v1/knowledge-bases",                                                KnowledgeRead,  Nothing,  knowledge_bases::list_knowledge_bases),
    route!(GET    "/v1/knowledge-bases/{knowledge_base_id}",                            KnowledgeRead,  Nothing,  knowledge_bases::get_knowledge_base),
    route!(DELETE "/v1/knowledge-bases/{knowledge_base_id}",                            KnowledgeWrite, Nothing,  knowledge_bases::delete_knowledge_base),
    route!(POST   "/v1/knowledge-bases/{knowledge_base_id}/search",                     KnowledgeRead,  Json,     knowledge_bases::search_knowledge_base),
    route!(POST   "/v1/knowledge-bases/{knowledge_base_id}/warm",                       KnowledgeRead,  Nothing,  knowledge_bases::warm_knowledge_base),
    route!(POST   "/v1/knowledge-bases/{knowledge_base_id}/delete-documents",           KnowledgeWrite, Json,     documents_by_filter::delete_documents),
    route!(POST   "/v1/knowledge-bases/{knowledge_base_id}/patch-documents",            KnowledgeWrite, Json,     documents_by_filter::patch_documents),
    route!(GET    "/v1/knowledge-bases/{knowledge_base_id}/documents",                  KnowledgeRead,  Nothing,  documents::list_documents),
    route!(PUT    "/v1/knowledge-bases/{knowledge_base_id}/documents/{document}",       KnowledgeWrite, Document, documents::put_document),
    route!(GET    "/v1/knowledge-bases/{knowledge_base_id}/documents/{document}",       KnowledgeRead,  Nothing,  documents::get_document),
    route!(DELETE "/v1/knowledge-bases/{knowledge_base_id}/documents/{document}",       KnowledgeWrite, Nothing,  documents::delete_document),
    route!(GET    "/v1/knowledge-bases/{knowledge_base_id}/documents/{document}/chunks", KnowledgeRead, Nothing,  documents::list_chunks),
    route!(POST   "/v1/knowledge-bases/{knowledge_base_id}/generations",                KnowledgeWrite, Json,     generations::create_generation),
    route!(GET    "/v1/knowledge-bases/{knowledge_base_id}/generations",                KnowledgeRead,  Nothing,  generations::list_generations),
    route!(DELETE "/v1/knowledge-bases/{knowledge_base_id}/generations/{generation_id}", KnowledgeWrite, Nothing, generations::delete_generation),
    route!(POST   "/v1/widgets",                                                        WidgetsWrite,   Json,     widgets::create_widget),
    route!(GET    "/v1/widgets",                                                        WidgetsRead,    Nothing,  widgets::list_widgets),
    route!(GET    "/v1/widgets/{widget_id}",                                            WidgetsRead,    Nothing,  widgets::get_widget),
    route!(PATCH  "/v1/widgets/{widget_id}",                                            WidgetsWrite,   Json,     widgets::update_widget),
    route!(DELETE "/v1/widgets/{widget_id}",                                            WidgetsWrite,   Nothing,  widgets::delete_widget),
    route!(POST   "/v1/widgets/{widget_id}/rotate-secret",                              WidgetsWrite,   Json,     widgets::rotate_secret),
    route!(POST   "/v1/widgets/{widget_id}/visitors",                                   (arrival, visitor), Json, visitors::create_visitor),
    route!(POST   "/v1/meetings",                                                       MeetingsWrite,  Json,     meetings::create_meeting),
    route!(GET    "/v1/meetings",                                                       MeetingsRead,   Nothing,  meetings::list_meetings),
    route!(GET    "/v1/meetings/{meeting_id}",                                          MeetingsRead,   Nothing,  meetings::get_meeting),
    route!(PATCH  "/v1/meetings/{meeting_id}",                                          MeetingsWrite,  Json,     meetings::update_meeting),
    route!(DELETE "/v1/meetings/{meeting_id}",                                          MeetingsWrite,  Nothing,  meetings::delete_meeting),
    route!(POST   "/v1/meetings/{meeting_id}/end",                                      MeetingsWrite,  Nothing,  meetings::end_meeting),
    route!(POST   "/v1/meetings/{meeting_id}/participants",                             MeetingsWrite,  Json,     meetings::create_participant),
    route!(GET    "/v1/meetings/{meeting_id}/participants",                             MeetingsRead,   Nothing,  meetings::list_participants),
    route!(PATCH  "/v1/meetings/{meeting_id}/participants/{participant_id}",            MeetingsWrite,  Json,     meetings::update_participant),
    route!(DELETE "/v1/meetings/{meeting_id}/participants/{participant_id}",            MeetingsWrite,  Nothing,  meetings::delete_participant),
    route!(POST   "/v1/sessions",                                                       SessionsWrite,  Json,     sessions::create_session),
    route!(GET    "/v1/sessions",                                                       SessionsRead,   Nothing,  sessions::list_sessions),
    route!(GET    "/v1/sessions/{session_id}",                                          (SessionsRead, visitor), Nothing, sessions::get_session),
    route!(PATCH  "/v1/sessions/{session_id}",                                          SessionsWrite,  Json,     sessions::update_session),
    route!(DELETE "/v1/sessions/{session_id}",                                          SessionsWrite,  Nothing,  sessions::delete_session),
    route!(POST   "/v1/sessions/{session_id}/end",                                      (SessionsWrite, visitor), Nothing, sessions::end_session),
    route!(POST   "/v1/sessions/{session_id}/refresh",                                  (SessionsWrite, visitor), Nothing, visitors::refresh_visitor),
    route!(POST   "/v1/sessions/{session_id}/messages",                                 (SessionsWrite, visitor), Json, messages::create_message),
    route!(GET    "/v1/sessions/{session_id}/messages",                                 (SessionsRead, visitor), Nothing, messages::list_messages),
    route!(GET    "/v1/sessions/{session_id}/messages/{message_id}",                    SessionsRead,   Nothing,  messages::get_message),
    route!(PATCH  "/v1/sessions/{session_id}/messages/{message_id}",                    SessionsWrite,  Json,     messages::edit_message),
    route!(DELETE "/v1/sessions/{session_id}/messages/{message_id}",                    SessionsWrite,  Nothing,  messages::delete_message),
    route!(GET    "/v1/messages/search",                                                SessionsRead,   Nothing,  messages::search_messages),
    route!(POST   "/v1/auth/login",                                                     arrival,        Json,     auth::login),
    route!(POST   "/v1/auth/logout",                                                    caller,         Nothing,  auth::logout),
    route!(GET    "/v1/auth/me",                                                        caller,         Nothing,  auth::get_me),
    route!(POST   "/v1/auth/password",                                                  caller,         Json,     auth::change_password),
    route!(POST   "/v1/users",                                                          UsersWrite,     Json,     users::create_user),
    route!(GET    "/v1/users",                                                          UsersRead,      Nothing,  users::list_users),
    route!(GET    "/v1/users/{user_id}",                                                UsersRead,      Nothing,  users::get_user),
    route!(PATCH  "/v1/users/{user_id}",                                                UsersWrite,     Json,     users::update_user),
    route!(DELETE "/v1/users/{user_id}",                                                UsersWrite,     Nothing,  users::delete_user),
    route!(POST   "/v1/api-keys",                                                       KeysWrite,      Json,     api_keys::create_api_key),
    route!(GET    "/v1/api-keys",                                                       KeysRead,       Nothing,  api_keys::list_api_keys),
    route!(GET    "/v1/api-keys/{api_key_id}",                                          KeysRead,       Nothing,  api_keys::get_api_key),
    route!(DELETE "/v1/api-keys/{api_key_id}",                                          KeysWrite,      Nothing,  api_keys::revoke_api_key),
    route!(POST   "/v1/api-keys/{api_key_id}/rotate",                                   KeysWrite,      Json,     api_keys::rotate_api_key),
    route!(GET    "/healthz",                                                           public,         Nothing,  health::get_health),
    route!(GET    "/readyz",                                                            public,         Nothing,  health::get_readiness),
    route!(GET    "/metrics",                                                           public,         Nothing,  health::get_metrics),
    route!(GET    "/openapi.json",                                                      public,         Nothing,  openapi::get_openapi),
    route!(GET    "/docs",                                                              public,         Nothing,  docs::get_docs),
];

/// Answers one request, whatever it is. Never fails and never panics; the handler stops when the future is dropped.
///
/// # Cancel safety
/// Dropping the future stops the handler at its next wait. What it must not leave half done, it spawns on `app.tasks` or does
/// in one transaction.
pub async fn dispatch(app: &Arc<App>, request: hyper::Request<Incoming>, conn: &ConnInfo) -> Response {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let request_id = RequestId::accept_or_new(head.headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()));
    let path = ROUTER.find(head.uri.path());
    let (method, version, choice) = (head.method.clone(), head.version, negotiate(&head.headers));
    let mut told = Told::default();
    let page = path.and_then(|path| cors::page(path, &head));
    let pattern = path.map_or(UNMATCHED, |path| path.pattern);
    // In a box, as hyper keeps room for this future in every connection, idle or not.
    let answering = Box::pin(answer(app, path, head, body, choice, conn, &request_id, &mut told));
    let (outcome, repeated) = match app.config.log.queries {
        true => watch::watched(&request_id, pattern, answering).await,
        false => (answering.await, None),
    };
    let closes = matches!(outcome, Err(Error::RequestTimeout)) && version < Version::HTTP_2;
    let mut response = outcome.unwrap_or_else(|error| {
        log(&error, &request_id, pattern);
        problem::respond(&error, &request_id)
    });
    if path.is_some_and(|path| path.is_private) {
        response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response = finish(response, choice, app.config.server.compress_bytes_min, method == Method::HEAD);
    let headers = response.headers_mut();
    told.write(headers);
    if let (Some(path), Some(page)) = (path, page) {
        cors::tell(app, path, page, headers).await;
    }
    if closes {
        // The rest of the body may still be on its way, so the connection is of no more use.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(statements) = repeated.and_then(|statements| HeaderValue::try_from(statements).ok()) {
        headers.insert(X_REPEATED_STATEMENTS, statements);
    }
    if let Ok(id) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    app.metrics.observe_request(label(&method), pattern, response.status().as_u16(), started.elapsed());
    response
}

#[expect(clippy::too_many_arguments, reason = "all that dispatch knows")]
async fn answer(
    app: &Arc<App>,
    path: Option<&Path>,
    head: Parts,
    body: Incoming,
    choice: Choice,
    conn: &ConnInfo,
    request_id: &RequestId,
    told: &mut Told,
) -> Result<Response, Error> {
    let path = path.ok_or(Error::NotFound { what: "path" })?;
    if head.method == Method::OPTIONS {
        let mut response = respond::no_content();
        response.headers_mut().insert(ALLOW, path.allow.clone());
        return Ok(response);
    }
    let Some(row) = path.row(&head.method) else {
        return Err(Error::MethodNotAllowed { allow: path.allow.to_str().unwrap_or_default().to_owned() });
    };
    // Refused before the handler has changed anything.
    if choice.is_hopeless() {
        return Err(Error::NotAcceptable);
    }
    let config = &app.config.server;
    let started = tokio::time::Instant::now();
    let deadline = started + config.handler_timeout;
    let limits = limits(row.route.body, config, started);
    let address = client_address(conn.peer.ip(), &head.headers, &config.trusted_proxies);
    match row.route.access {
        Access::Public(handler) => {
            if row.route.is_limited() {
                told.admit_address(app, address).await?;
            }
            let request = Request::new(head, body, row.route.pattern, limits, Place::default())?;
            guarded(deadline, handler(app, request)).await
        }
        Access::Arrival(handler) => {
            let _place = conn.requests.try_acquire().map_err(|_| OVERLOADED)?;
            told.admit_address(app, address).await?;
            let arrival = Arrival { address, request_id: request_id.clone() };
            let request = Request::new(head, body, row.route.pattern, limits, Place::default())?;
            row.check_query(&request)?;
            guarded(deadline, handler(&arrival, app, request)).await
        }
        Access::Caller(scope, handler) => {
            // Public rows are not counted: a server with its hands full still says how it is.
            let turn = conn.requests.clone().try_acquire_owned().map_err(|_| OVERLOADED)?;
            let handled = async {
                let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                let caller = match app.accounts.authenticate(authorization, visitors::origin(&head.headers)).await {
                    // Who proves nothing is nobody but an address, and each key that is not known was looked up for it.
                    Err(Error::Unauthenticated) => {
                        told.admit_address(app, address).await?;
                        return Err(Error::Unauthenticated);
                    }
                    proved => proved?,
                };
                if let Actor::Visitor(_) = caller.actor {
                    // One visitor shall not use up what all have.
                    told.admit_address(app, address).await?;
                }
                told.admit_caller(app, &caller).await?;
                check_rights(row.route, scope, &caller)?;
                let ctx = Ctx {
                    tenant_id: caller.tenant_id,
                    actor: caller.actor,
                    scopes: caller.scopes,
                    address: Some(address),
                    request_id: request_id.clone(),
                    deadline,
                    claim: None,
                };
                let place = match row.route.body {
                    BodyLimit::Document => app.documents_room.place(),
                    BodyLimit::Nothing | BodyLimit::Json => Place::default(),
                };
                let request = Request::new(head, body, row.route.pattern, limits, place)?;
                check_session(&ctx, &request)?;
                row.check_query(&request)?;
                if let Some(key) = idempotency::key(row.creates, request.headers())? {
                    return idempotency::once(app, ctx, row.route, handler, request, key, turn).await;
                }
                let answer = handler(&ctx, app, request).await;
                drop(turn);
                answer
            };
            guarded(deadline, handled).await
        }
    }
}

/// Refuses whoever may not ask a route at all.
fn check_rights(route: &Route, scope: Option<Scope>, caller: &Caller) -> Result<(), Error> {
    if let Actor::Visitor(_) = caller.actor {
        let detail = "A visitor's token opens their session and nothing else.";
        return if route.visitor { Ok(()) } else { Err(Error::Forbidden { detail: detail.into() }) };
    }
    match scope.filter(|scope| !caller.may(*scope)) {
        Some(scope) => Err(Error::Forbidden { detail: format!("You lack the scope {}.", scope.as_str()) }),
        None => Ok(()),
    }
}

/// To a visitor no session is there but their own.
fn check_session(ctx: &Ctx, request: &Request) -> Result<(), Error> {
    match ctx.actor {
        Actor::Visitor(own) if request.path_uuid("session_id") != Some(own.0) => {
            Err(Error::NotFound { what: "session" })
        }
        _ => Ok(()),
    }
}

/// `handled` within its time; a panic in it is an error as any other.
async fn guarded(
    deadline: tokio::time::Instant,
    handled: impl Future<Output = Result<Response, Error>>,
) -> Result<Response, Error> {
    // What a handler shares with other requests is behind atomics and locks that do not poison.
    let caught = AssertUnwindSafe(handled).catch_unwind();
    match tokio::time::timeout_at(deadline, caught).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => {
            let text =
                panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(Error::Internal(anyhow::anyhow!("the handler panicked: {}", text.unwrap_or("no text"))))
        }
        Err(_) => Err(Error::Deadline),
    }
}

/// What every answer gets: the coding that was negotiated, no body for HEAD, and the header that stops browsers guessing.
fn finish(response: Response, choice: Choice, compress_bytes_min: usize, head_only: bool) -> Response {
    let mut response = compress(response, choice, compress_bytes_min, head_only);
    if head_only {
        let len = response.body().size_hint().exact().filter(|_| !response.headers().contains_key(CONTENT_ENCODING));
        *response.body_mut() = Body::empty();
        if let Some(len) = len {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
        }
    }
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn limits(body: BodyLimit, config: &ServerConfig, started: tokio::time::Instant) -> Limits {
    let bytes_max = match body {
        BodyLimit::Nothing => 0,
        BodyLimit::Json => config.body_bytes_max,
        BodyLimit::Document => config.document_bytes_max,
    };
    // A body that takes as long as the handler may is the client's fault, not ours: 408, not 504.
    let handler_time = config.handler_timeout;
    let time = config.body_timeout.min(handler_time - BODY_MARGIN.min(handler_time / 10));
    Limits { bytes_max, until: started + time }
}

/// Logs what is not the client's doing, once, with its causes. Of the rest only the kind: details quote the client.
fn log(error: &Error, request_id: &RequestId, route: &'static str) {
    match error {
        Error::Internal(source) => tracing::error!(%request_id, route, error = format!("{source:#}"), "request failed"),
        Error::Unavailable { source: Some(source), .. } => {
            tracing::warn!(%request_id, route, error = format!("{source:#}"), "request turned away");
        }
        Error::Deadline => tracing::warn!(%request_id, route, "request ran out of time"),
        _ => tracing::debug!(%request_id, route, code = error.meaning().code, "request refused"),
    }
}

/// A method as a metric label. Clients may send any word as a method, so unknown ones share a label.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

static ROUTER: LazyLock<Router> = LazyLock::new(|| Router::new(ROUTES));

/// [`ROUTES`], ready to be searched.
struct Router {
    by_path: matchit::Router<usize>,
    paths: Vec<Path>,
}

/// All rows of one pattern.
struct Path {
    pattern: &'static str,
    rows: Vec<Row>,
    /// The `Allow` header.
    allow: HeaderValue,
    /// Whether its answers are for their caller alone.
    is_private: bool,
    /// Whether pages that show a widget ask it.
    serves_visitors: bool,
}

struct Row {
    route: &'static Route,
    /// Names that the query string may have.
    query: Vec<&'static str>,
    /// Whether an `Idempotency-Key` has it done once.
    creates: bool,
}

impl Router {
    fn new(routes: &'static [Route]) -> Self {
        let mut paths: Vec<Path> = Vec::new();
        for route in routes {
            let query = (route.docs)().query.iter().map(|parameter| parameter.name).collect();
            let row = Row { route, query, creates: route.creates() };
            let is_private = !matches!(route.access, Access::Public(_));
            match paths.iter_mut().find(|path| path.pattern == route.pattern) {
                Some(path) => {
                    path.rows.push(row);
                    path.is_private |= is_private;
                    path.serves_visitors |= route.visitor;
                }
                None => {
                    let allow = HeaderValue::from_static("OPTIONS");
                    let serves_visitors = route.visitor;
                    paths.push(Path { pattern: route.pattern, rows: vec![row], allow, is_private, serves_visitors });
                }
            }
        }
        let mut by_path = matchit::Router::new();
        for (at, path) in paths.iter_mut().enumerate() {
            path.allow = path.allowed();
            by_path.insert(path.pattern, at).expect("patterns of the table do not collide (tested)");
        }
        Self { by_path, paths }
    }

    fn find(&self, path: &str) -> Option<&Path> {
        self.by_path.at(path).ok().and_then(|found| self.paths.get(*found.value))
    }
}

impl Path {
    fn allowed(&self) -> HeaderValue {
        let mut methods: Vec<&str> = self.rows.iter().map(|row| row.route.method.as_str()).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.push("OPTIONS");
        HeaderValue::from_str(&methods.join(", ")).expect("methods are visible ASCII")
    }

    fn row(&self, method: &Method) -> Option<&Row> {
        let wanted = if *method == Method::HEAD { &Method::GET } else { method };
        self.rows.iter().find(|row| row.route.method == *wanted)
    }
}

impl Row {
    /// Refuses a query string with a name that the route does not know: a mistyped `limit` would silently do nothing.
    fn check_query(&self, request: &Request) -> Result<(), Error> {
        let Some(unknown) = request.query_names().find(|name| !self.query.contains(name)) else { return Ok(()) };
        let known: Cow<'_, str> = match self.query.as_slice() {
            [] => "none".into(),
            names => names.join(", ").into(),
        };
        Err(Error::invalid_field(unknown, format!("is not a parameter of this query string; known: {known}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_row_has_a_place_and_a_name_of_its_own() {
        let router = Router::new(ROUTES);
        for route in ROUTES {
            let path = router.find(&route.pattern.replace(['{', '}'], "")).unwrap();
            assert_eq!((path.pattern, path.row(&route.method).unwrap().route.name), (route.pattern, route.name));
        }
        let places: BTreeSet<_> = ROUTES.iter().map(|route| (route.method.as_str(), route.pattern)).collect();
        let names: BTreeSet<_> = ROUTES.iter().map(|route| route.name).collect();
        assert_eq!((places.len(), names.len()), (ROUTES.len(), ROUTES.len()));
    }

    #[test]
    fn only_what_stands_outside_v1_is_public_and_only_writes_take_bodies() {
        for route in ROUTES {
            let is_public = matches!(route.access, Access::Public(_));
            assert_eq!(is_public, !route.pattern.starts_with("/v1/"), "{}", route.pattern);
            let is_arrival = ["login", "create_visitor"].contains(&route.name);
            assert_eq!(!is_public && !route.wants_caller(), is_arrival, "{}", route.pattern);
            let needs_none = is_public || is_arrival || route.pattern.starts_with("/v1/auth/");
            assert_eq!(route.scope().is_none(), needs_none, "{}", route.name);
            let has_none = matches!(route.method, Method::GET | Method::DELETE)
                || ["warm_knowledge_base", "end_meeting", "end_session", "refresh_visitor", "logout"]
                    .contains(&route.name);
            assert_eq!(has_none, route.body == BodyLimit::Nothing, "{}", route.name);
        }
    }

    #[test]
    fn visitors_have_their_session_and_nothing_else() {
        let own: Vec<_> = ROUTES.iter().filter(|route| route.visitor && route.wants_caller()).collect();
        let names: Vec<_> = own.iter().map(|route| route.name).collect();
        assert_eq!(names, ["get_session", "end_session", "refresh_visitor", "create_message", "list_messages"]);
        assert!(own.iter().all(|route| route.path_parameters().eq(["session_id"])));
    }

    #[test]
    fn every_post_that_creates_takes_an_idempotency_key() {
        let creates: Vec<_> = ROUTES.iter().filter(|route| route.creates()).map(|route| route.name).collect();
        let makes = |name: &str| ["create_", "rotate_"].iter().any(|deed| name.starts_with(deed));
        for route in ROUTES.iter().filter(|route| makes(route.name) && route.wants_caller()) {
            assert!(creates.contains(&route.name), "{}", route.name);
        }
        for name in ["login", "create_visitor", "search_knowledge_base", "end_session"] {
            assert!(!creates.contains(&name), "{name}");
        }
    }

    #[test]
    fn paths_match_whole_segments_and_nothing_else() {
        let pattern = |path: &str| ROUTER.find(path).map(|path| path.pattern);
        let documents = "/v1/knowledge-bases/{knowledge_base_id}/documents/{document}";
        assert_eq!(pattern("/v1/knowledge-bases/7/documents/a%2Fb.html"), Some(documents));
        for unknown in ["/", "*", "", "/v1", "/v1/knowledge-bases/", "/v1/knowledge-bases/7/documents/a/b", "/HEALTHZ"]
        {
            assert_eq!(pattern(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_path_says_which_methods_it_takes() {
        let path = ROUTER.find("/v1/knowledge-bases").unwrap();
        assert_eq!(path.allow, "POST, GET, HEAD, OPTIONS");
        assert_eq!(path.row(&Method::HEAD).unwrap().route.name, "list_knowledge_bases");
        assert!(path.row(&Method::DELETE).is_none() && path.row(&Method::TRACE).is_none());
        assert_eq!(label(&Method::from_bytes(b"BREW").unwrap()), "other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_panics_or_takes_too_long_is_an_error() {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        let Err(Error::Internal(error)) = guarded(deadline, async { panic!("as {}", "planned") }).await else {
            panic!("a panic came through")
        };
        assert!(error.to_string().contains("as planned"));
        assert!(matches!(guarded(deadline, std::future::pending()).await, Err(Error::Deadline)));
        assert!(guarded(deadline, async { Ok(respond::no_content()) }).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_told_before_the_handler_runs_out_of_time() {
        let started = tokio::time::Instant::now();
        for handler_timeout in [Duration::from_millis(1), Duration::from_millis(500), Duration::from_secs(30)] {
            let mut config = crate::config::Config::default().server;
            (config.body_timeout, config.handler_timeout) = (Duration::from_secs(30), handler_timeout);
            let until = limits(BodyLimit::Document, &config, started).until;
            assert!(until < started + handler_timeout && until > started, "{handler_timeout:?}");
            config.body_timeout = handler_timeout / 2;
            assert_eq!(limits(BodyLimit::Document, &config, started).until, started + handler_timeout / 2);
        }
    }

    #[test]
    fn an_answer_to_head_says_how_long_it_would_be() {
        let response = finish(respond::text(respond::JSON, "{\"a\":1}"), Choice::PLAIN, 1_024, true);
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers()[CONTENT_LENGTH], "7");
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
