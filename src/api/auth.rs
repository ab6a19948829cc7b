//! `/v1/auth`: log in, log out, who one is, one's own password.

use hyper::header::{AUTHORIZATION, USER_AGENT};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{fields, users::UserView};
use crate::{
    accounts::{
        logins::{Credentials, Me, NewToken},
        passwords::{self, CHARS_MAX},
        tenants,
        users::EMAIL_BYTES_MAX,
    },
    app::App,
    ctx::{Actor, Arrival, Ctx},
    error::Error,
    http::{Request, Response, respond},
};

/// What to log in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginDraft {
    /// The tenant's short name.
    #[schema(min_length = 1, max_length = 63)]
    tenant: String,
    /// Your address, in whatever case.
    #[schema(min_length = 1, max_length = 254)]
    email: String,
    /// Your password.
    #[schema(min_length = 1, max_length = 128)]
    password: String,
}

/// A login that was just made.
#[derive(Serialize, ToSchema)]
pub struct LoginView {
    /// What to send as `Authorization: Bearer …`. Shown this once.
    token: String,
    /// When it ceases to hold, unless it is used: then it lasts longer, for 30 days at most.
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    user: UserView,
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordDraft {
    /// The one you have.
    #[schema(min_length = 1, max_length = 128)]
    current_password: String,
    /// The one you want, 12 to 128 characters of any kind.
    #[schema(min_length = 12, max_length = 128)]
    new_password: String,
}

/// Whoever asks.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeView {
    /// `user` or `api_key`.
    kind: &'static str,
    /// The person's or the key's.
    id: Uuid,
    tenant_id: Uuid,
    /// What you may do.
    scopes: Vec<&'static str>,
    /// When your login or key ceases to hold; null for a key that never does.
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// Null for a key.
    user: Option<UserView>,
}

impl From<NewToken> for LoginView {
    fn from(login: NewToken) -> Self {
        Self { token: login.text, expires_at: login.expires_at, user: login.user.into() }
    }
}

/// `POST /v1/auth/login`
pub async fn login(arrival: &Arrival, app: &App, req: Request) -> Result<Response, Error> {
    let user_agent = req.headers().get(USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let LoginDraft { tenant, email, password } = req.json(&app.compute).await?;
    fields::bytes("tenant", Some(&tenant), tenants::NAME_CHARS_MAX)?;
    fields::bytes("email", Some(&email), EMAIL_BYTES_MAX)?;
    fields::chars("password", Some(&password), CHARS_MAX)?;
    let outcome = app.accounts.log_in(arrival, Credentials { tenant, email, password, user_agent }).await;
    app.metrics.observe_login(match &outcome {
        Ok(_) => "success",
        Err(Error::BadCredentials) => "refused",
        Err(Error::RateLimited { .. }) => "limited",
        Err(_) => "failed",
    });
    respond::ok(&LoginView::from(outcome?))
}

/// `POST /v1/auth/logout`
pub async fn logout(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let authorization = req.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    app.accounts.log_out(ctx, authorization).await?;
    Ok(respond::no_content())
}

/// `GET /v1/auth/me`
pub async fn get_me(ctx: &Ctx, app: &App, _req: Request) -> Result<Response, Error> {
    let Me { scopes, expires_at, user } = app.accounts.find_me(ctx).await?;
    let (kind, id) = match ctx.actor {
        Actor::User(id, _) => ("user", id.0),
        Actor::ApiKey(id) => ("api_key", id.0),
        Actor::Visitor(_) | Actor::Operator => return Err(Error::Unauthenticated),
    };
    let user = user.map(UserView::from);
    respond::ok(&MeView { kind, id, tenant_id: ctx.tenant_id.0, scopes: scopes.words(), expires_at, user })
}

/// `POST /v1/auth/password`
pub async fn change_password(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let PasswordDraft { current_password, new_password } = req.json(&app.compute).await?;
    fields::chars("current_password", Some(&current_password), CHARS_MAX)?;
    passwords::check_length("new_password", &new_password)?;
    app.accounts.change_own_password(ctx, current_password, new_password).await?;
    Ok(respond::no_content())
}

pub(super) mod docs_of {
    use super::{
        super::openapi::{Docs, Gives},
        LoginDraft, LoginView, MeView, PasswordDraft,
    };
    use crate::error::Error;

    pub(in crate::api) fn login() -> Docs {
        Docs::new("Log in", Gives::json::<LoginView>(200, "The login, with its token."))
            .about(
                "Whatever is wrong, the answer is the same. Tries are limited for each account, there or not, and for each \
                 address that they come from.",
            )
            .takes_json::<LoginDraft>()
            .fails(Error::BadCredentials)
    }

    pub(in crate::api) fn logout() -> Docs {
        Docs::new("Log out", Gives::nothing(204, "The token that was sent holds no more, anywhere."))
            .fails(Error::Forbidden { detail: String::new() })
    }

    pub(in crate::api) fn get_me() -> Docs {
        Docs::new("Who you are", Gives::json::<MeView>(200, "You, and what you may do."))
    }

    pub(in crate::api) fn change_password() -> Docs {
        Docs::new("Change your password", Gives::nothing(204, "It is changed, and your other logins have ended."))
            .takes_json::<PasswordDraft>()
            .fails(Error::Forbidden { detail: String::new() })
            .fails(Error::Conflict { detail: String::new() })
    }
}
