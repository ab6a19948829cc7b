//! People of a tenant: created, listed, changed, deleted, as far as whoever asks may no less than they.

use serde_json::{Value, json};

use super::{Accounts, Page, PageRequest, UserRow, check_grant, roles::Role};
use crate::{
    ctx::{Ctx, Scopes, UserId},
    error::Error,
    store::{
        self, StoreError,
        audit_log::{self, Change},
        users::NewUser,
    },
};

/// Longest name of a person, in characters.
pub const NAME_CHARS_MAX: usize = 200;
/// Longest address, in bytes (RFC 5321, section 4.5.3.1.3, without the brackets).
pub const EMAIL_BYTES_MAX: usize = 254;

/// A person to create.
#[derive(Clone)]
pub struct UserDraft {
    /// Fulfils [`is_email`].
    pub email: String,
    /// As others see them, up to 200 characters.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// None for who cannot log in yet.
    pub password: Option<String>,
}

/// What to change of a person; what is none stays.
#[derive(Clone, Default, PartialEq)]
pub struct UserPatch {
    /// As others see them, up to 200 characters.
    pub name: Option<String>,
    /// What they may do.
    pub role: Option<Role>,
    /// Their password, which ends all their logins.
    pub password: Option<String>,
}

impl Accounts {
    /// Creates a person.
    ///
    /// # Errors
    /// `Forbidden` if their role may more than whoever asks; `Conflict` if the tenant has somebody of that address.
    pub async fn create_user(&self, ctx: &Ctx, draft: UserDraft) -> Result<UserRow, Error> {
        check_role(ctx, draft.role)?;
        let password_hash = self.hash_of(draft.password).await?;
        let (email, role) = (lower(&draft.email), draft.role.as_str());
        let user = NewUser { email: &email, name: &draft.name, role, password_hash: password_hash.as_deref() };
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::users::insert(&mut tx, &user).await.map_err(taken)?;
        let change = Change::to(told(&row));
        audit_log::note(&mut tx, ctx, "user.create", row.id.0, &change).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// A page of the tenant's people, newest first.
    ///
    /// # Errors
    /// `Invalid` for a cursor of another list.
    pub async fn list_users(&self, ctx: &Ctx, page: &PageRequest) -> Result<Page<UserRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        let rows = store::users::list(&mut tx, page).await?;
        Ok(rows)
    }

    /// One person.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn find_user(&self, ctx: &Ctx, id: UserId) -> Result<UserRow, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let row = store::users::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "user" })?;
        Ok(row)
    }

    /// Changes what `patch` says.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id; `Forbidden` if their role, as it is or as it would be, may more than
    /// whoever asks; `Invalid` for one's own password, which takes the old one; `Conflict` if the last owner would be none.
    pub async fn patch_user(&self, ctx: &Ctx, id: UserId, patch: UserPatch) -> Result<UserRow, Error> {
        if patch.password.is_some() && ctx.actor.user_id() == Some(id) {
            let told = "is your own; POST /v1/auth/password changes it, with the one before";
            return Err(Error::invalid_field("password", told));
        }
        // Made before there is a connection to hold.
        let password_hash = self.hash_of(patch.password).await?;
        let mut tx = self.store.tenant_tx(ctx).await?;
        if patch.role.is_some() {
            store::users::lock_owners(&mut tx).await?;
        }
        let present = store::users::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "user" })?;
        check_person(ctx, &present)?;
        if let Some(role) = patch.role {
            check_role(ctx, role)?;
            if role != Role::Owner {
                check_not_last_owner(&mut tx, &present).await?;
            }
        }
        let (name, role) = (patch.name.as_deref(), patch.role.map(Role::as_str));
        let (name, role) = (name.unwrap_or(&present.name), role.unwrap_or(&present.role));
        let row = store::users::update(&mut tx, id, name, role).await?.ok_or(Error::NotFound { what: "user" })?;
        let mut after = told(&row);
        if let Some(hash) = &password_hash {
            store::users::set_password(&mut tx, id, hash).await?;
            store::auth_sessions::delete_of_user(&mut tx, ctx.tenant_id, id, None).await?;
            after["password"] = "another one".into();
        }
        let change = Change::between(told(&present), after);
        audit_log::note(&mut tx, ctx, "user.update", id.0, &change).await?;
        tx.commit().await?;
        self.forget_user(id);
        Ok(row)
    }

    /// Deletes a person with their logins. What they wrote stays.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id; `Forbidden` if their role may more than whoever asks; `Conflict` for the
    /// last owner.
    pub async fn delete_user(&self, ctx: &Ctx, id: UserId) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        store::users::lock_owners(&mut tx).await?;
        let present = store::users::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "user" })?;
        check_person(ctx, &present)?;
        check_not_last_owner(&mut tx, &present).await?;
        store::users::delete(&mut tx, id).await?;
        let change = Change::from(told(&present));
        audit_log::note(&mut tx, ctx, "user.delete", id.0, &change).await?;
        tx.commit().await?;
        self.forget_user(id);
        Ok(())
    }

    async fn hash_of(&self, password: Option<String>) -> Result<Option<String>, Error> {
        match password {
            Some(password) => self.passwords.turn().await?.hash(password).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Whether `text` may be an address: something on either side of an `@`, without blanks and control characters.
pub fn is_email(text: &str) -> bool {
    let fits = |part: &str| !part.is_empty() && !part.chars().any(|c| c.is_whitespace() || c.is_control());
    text.len() <= EMAIL_BYTES_MAX && text.rsplit_once('@').is_some_and(|(local, domain)| fits(local) && fits(domain))
}

/// An address as it is stored: in lower case by the letters of ASCII.
pub(super) fn lower(email: &str) -> String {
    email.to_ascii_lowercase()
}

fn check_role(ctx: &Ctx, role: Role) -> Result<(), Error> {
    check_grant(ctx, &format!("The role {}", role.as_str()), role.scopes())
}

fn check_person(ctx: &Ctx, person: &UserRow) -> Result<(), Error> {
    // A role that this server does not know may mean anything.
    let scopes = Role::parse(&person.role).map_or(Scopes::all(), Role::scopes);
    check_grant(ctx, &format!("Somebody who is {}", person.role), scopes)
}

/// To be called under [`store::users::lock_owners`].
async fn check_not_last_owner(tx: &mut store::TenantTx, person: &UserRow) -> Result<(), Error> {
    if person.role == Role::Owner.as_str() && !store::users::has_other_owner(tx, person.id).await? {
        return Err(Error::Conflict {
            detail: "They are the tenant's last owner; make somebody else one first.".into(),
        });
    }
    Ok(())
}

fn taken(error: StoreError) -> Error {
    match error.is_unique_violation() {
        true => Error::Conflict { detail: "There is somebody of that address already.".into() },
        false => error.into(),
    }
}

/// What the audit log says of a person.
fn told(row: &UserRow) -> Value {
    json!({ "email": row.email, "name": row.name, "role": row.role })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_something_on_either_side() {
        let longest = format!("{}@example.com", "a".repeat(EMAIL_BYTES_MAX - 12));
        for good in ["a@b", "Ada.Lovelace+x@Example.com", "\"a@b\"@example.com", "ü@bücher.example", &longest] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "@", "a@", "@b", "a b@c", "a@b c", "a@b\n", "a\u{a0}@b", &format!("a{longest}")] {
            assert!(!is_email(bad), "{bad}");
        }
        assert_eq!(lower("Ada@ÜBER.Example"), "ada@Über.example");
    }
}
