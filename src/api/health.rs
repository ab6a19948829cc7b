//! `/healthz`, `/readyz`, `/metrics`: for load balancers and for Prometheus. They need no key and are answered under overload.

use std::time::Duration;

use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    error::Error,
    http::{Request, Response, respond},
    metrics,
};

/// When to ask again for a server that is not ready.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether the server is alive or ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// `ok` or `ready`.
    status: &'static str,
    /// Version of the server.
    version: &'static str,
}

/// `GET /healthz`
#[expect(clippy::unused_async, reason = "the route table wants every handler async")]
pub async fn get_health(_app: &App, _req: Request) -> Result<Response, Error> {
    health("ok")
}

/// `GET /readyz`
pub async fn get_readiness(app: &App, _req: Request) -> Result<Response, Error> {
    let readiness = app.readiness().await;
    readiness.map_err(|detail| Error::Unavailable { detail, retry_after: RETRY_AFTER, source: None })?;
    health("ready")
}

/// `GET /metrics`
#[expect(clippy::unused_async, reason = "the route table wants every handler async")]
pub async fn get_metrics(app: &App, _req: Request) -> Result<Response, Error> {
    let mut response = respond::text(HeaderValue::from_static(metrics::CONTENT_TYPE), app.render_metrics());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn health(status: &'static str) -> Result<Response, Error> {
    let mut response = respond::ok(&HealthView { status, version: env!("CARGO_PKG_VERSION") })?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

pub(super) mod docs_of {
    use super::{
        super::openapi::{Docs, Gives},
        HealthView,
    };

    pub(in crate::api) fn get_health() -> Docs {
        Docs::new("Is the process alive?", Gives::json::<HealthView>(200, "It is."))
    }

    pub(in crate::api) fn get_readiness() -> Docs {
        let about = "503 says why not: it stops, it still loads its indexes, or Postgres is away.";
        Docs::new("Should traffic come here?", Gives::json::<HealthView>(200, "It should.")).about(about)
    }

    pub(in crate::api) fn get_metrics() -> Docs {
        let about = "For Prometheus, as OpenMetrics text.";
        let gives = Gives::text(200, "application/openmetrics-text", "Every counter, gauge and histogram.");
        Docs::new("Metrics of this instance", gives).about(about)
    }
}
