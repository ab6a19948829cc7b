//! `/v1/users`: create, list, read, change, delete the tenant's people.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{fields, lists};
use crate::{
    accounts::{
        UserRow, passwords,
        roles::Role,
        users::{self, EMAIL_BYTES_MAX, NAME_CHARS_MAX, UserPatch, is_email},
    },
    app::App,
    ctx::{Ctx, UserId},
    error::Error,
    http::{Request, Response, respond},
};

/// A person to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserDraft {
    /// Unique within the tenant; capitals are made small.
    #[schema(min_length = 3, max_length = 254)]
    email: String,
    /// As others see them, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    role: RoleDraft,
    /// 12 to 128 characters of any kind; who has none cannot log in.
    #[schema(min_length = 12, max_length = 128)]
    password: Option<String>,
}

/// What to change of a person; at least one field.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPatchDraft {
    /// As others see them, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    role: Option<RoleDraft>,
    /// 12 to 128 characters of any kind. Ends all their logins. Your own is changed at `/v1/auth/password`.
    #[schema(min_length = 12, max_length = 128)]
    password: Option<String>,
}

/// `owner` may do everything, `admin` everything but manage API keys and owners, `agent` talks with visitors, `viewer` looks on.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum RoleDraft {
    Owner,
    Admin,
    Agent,
    Viewer,
}

impl From<RoleDraft> for Role {
    fn from(role: RoleDraft) -> Self {
        match role {
            RoleDraft::Owner => Self::Owner,
            RoleDraft::Admin => Self::Admin,
            RoleDraft::Agent => Self::Agent,
            RoleDraft::Viewer => Self::Viewer,
        }
    }
}

/// A person.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserView {
    id: Uuid,
    email: String,
    /// As others see them; may be empty.
    name: String,
    /// `owner`, `admin`, `agent` or `viewer`.
    role: String,
    /// From then on they cannot log in; null while they can.
    #[serde(with = "time::serde::rfc3339::option")]
    disabled_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl From<UserRow> for UserView {
    fn from(row: UserRow) -> Self {
        Self {
            id: row.id.0,
            email: row.email,
            name: row.name,
            role: row.role,
            disabled_at: row.disabled_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// `POST /v1/users`
pub async fn create_user(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let UserDraft { email, name, role, password } = req.json(&app.compute).await?;
    if !is_email(&email) {
        let told = format!("must be an address such as ada@example.com, of at most {EMAIL_BYTES_MAX} bytes");
        return Err(Error::invalid_field("email", told));
    }
    fields::chars("name", name.as_deref(), NAME_CHARS_MAX)?;
    check_password(password.as_deref())?;
    let draft = users::UserDraft { email, name: name.unwrap_or_default(), role: role.into(), password };
    let user = app.accounts.create_user(ctx, draft).await?;
    respond::created(&UserView::from(user))
}

/// `GET /v1/users`
pub async fn list_users(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let users = app.accounts.list_users(ctx, &page).await?;
    lists::respond(&page, users.map(UserView::from))
}

/// `GET /v1/users/{user_id}`
pub async fn get_user(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let user = app.accounts.find_user(ctx, user_id(&req)?).await?;
    respond::ok(&UserView::from(user))
}

/// `PATCH /v1/users/{user_id}`
pub async fn update_user(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = user_id(&req)?;
    let UserPatchDraft { name, role, password } = req.json(&app.compute).await?;
    fields::chars("name", name.as_deref(), NAME_CHARS_MAX)?;
    check_password(password.as_deref())?;
    let patch = UserPatch { name, role: role.map(Role::from), password };
    if patch == UserPatch::default() {
        return Err(fields::empty_patch());
    }
    let user = app.accounts.patch_user(ctx, id, patch).await?;
    respond::ok(&UserView::from(user))
}

/// `DELETE /v1/users/{user_id}`
pub async fn delete_user(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    app.accounts.delete_user(ctx, user_id(&req)?).await?;
    Ok(respond::no_content())
}

fn check_password(password: Option<&str>) -> Result<(), Error> {
    password.map_or(Ok(()), |password| passwords::check_length("password", password))
}

fn user_id(req: &Request) -> Result<UserId, Error> {
    req.path_uuid("user_id").map(UserId).ok_or(Error::NotFound { what: "user" })
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists,
            openapi::{Docs, Gives},
        },
        UserDraft, UserPatchDraft, UserView,
    };
    use crate::error::Error;

    pub(in crate::api) fn create_user() -> Docs {
        Docs::new("Create a person", Gives::json::<UserView>(201, "The person."))
            .about("Of a role that may no more than you.")
            .takes_json::<UserDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn list_users() -> Docs {
        Docs::new("List people", Gives::page::<UserView>("A page, newest first.")).query(lists::QUERY)
    }

    pub(in crate::api) fn get_user() -> Docs {
        Docs::new("Read a person", Gives::json::<UserView>(200, "The person."))
    }

    pub(in crate::api) fn update_user() -> Docs {
        Docs::new("Change a person", Gives::json::<UserView>(200, "The person as they are now."))
            .about("Somebody who may no more than you, before and after. The last owner stays one.")
            .takes_json::<UserPatchDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn delete_user() -> Docs {
        Docs::new("Delete a person", Gives::nothing(204, "They are gone with their logins; what they wrote stays."))
            .about("Somebody who may no more than you, and not the last owner.")
            .fails(Error::Conflict { detail: String::new() })
    }
}
