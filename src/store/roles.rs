//! Whether the roles of the pools are ones for which row security holds.

use tokio_postgres::Client;

use super::StoreError;

/// Group of every role that row security holds to one tenant.
pub(super) const USER_GROUP: &str = "tertulia_app";
/// Group of every role that sees all tenants.
pub(super) const SERVICE_GROUP: &str = "tertulia_service";

/// What one role can do, directly or as a member of another. A superuser counts as a member of every role.
const RIGHTS: &str = include_str!("sql/roles/rights.sql");

struct Rights {
    role: String,
    is_superuser: bool,
    bypasses: bool,
    owned_tables: Vec<String>,
    in_user_group: bool,
    in_service_group: bool,
}

/// Refuses a user role that could see more than the tenant its transaction names.
pub(super) async fn check_user(client: &Client) -> Result<(), StoreError> {
    let rights = Rights::read(client).await?;
    match rights.user_objection() {
        Some(told) => Err(StoreError::Setup(told)),
        None => Ok(()),
    }
}

/// Refuses a service role that could not do its work.
pub(super) async fn check_service(client: &Client) -> Result<(), StoreError> {
    let rights = Rights::read(client).await?;
    if !rights.in_service_group {
        let role = rights.role;
        return Err(StoreError::Setup(format!(
            "the role {role} of database.service_url is not a member of {SERVICE_GROUP}: run `tertulia migrate` as the \
             owner, then `GRANT {SERVICE_GROUP} TO \"{role}\"`"
        )));
    }
    Ok(())
}

impl Rights {
    async fn read(client: &Client) -> Result<Self, StoreError> {
        let failed = |source| StoreError::of_statement("roles/rights", source);
        let row = client.query_typed_one(RIGHTS, &[]).await.map_err(failed)?;
        let read = || -> Result<Self, tokio_postgres::Error> {
            Ok(Self {
                role: row.try_get(0)?,
                is_superuser: row.try_get(1)?,
                bypasses: row.try_get(2)?,
                owned_tables: row.try_get(3)?,
                in_user_group: row.try_get(4)?,
                in_service_group: row.try_get(5)?,
            })
        };
        read().map_err(failed)
    }

    fn user_objection(&self) -> Option<String> {
        let role = &self.role;
        let fault = if self.is_superuser {
            "is a superuser, or a member of one".to_owned()
        } else if self.bypasses {
            "has BYPASSRLS, or is a member of a role that has".to_owned()
        } else if !self.owned_tables.is_empty() {
            format!("owns tables with row security, or is a member of their owner: {}", self.owned_tables.join(", "))
        } else if self.in_service_group {
            format!("is a member of {SERVICE_GROUP}, which sees all tenants")
        } else if !self.in_user_group {
            return Some(format!(
                "the role {role} of database.url (DATABASE_URL) is not a member of {USER_GROUP}: run `tertulia migrate` \
                 as the owner, then `GRANT {USER_GROUP} TO \"{role}\"`"
            ));
        } else {
            return None;
        };
        Some(format!(
            "the role {role} of database.url (DATABASE_URL) {fault}: row security would not keep tenants apart. Connect \
             as a login role of its own whose only membership is {USER_GROUP}: `CREATE ROLE tertulia_user LOGIN PASSWORD \
             '…' IN ROLE {USER_GROUP}`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights() -> Rights {
        Rights {
            role: "app".into(),
            is_superuser: false,
            bypasses: false,
            owned_tables: Vec::new(),
            in_user_group: true,
            in_service_group: false,
        }
    }

    #[test]
    fn a_role_that_could_see_other_tenants_is_refused_with_the_way_out() {
        assert_eq!(rights().user_objection(), None);
        let refused = |rights: Rights, word: &str| {
            let told = rights.user_objection().expect("it is refused");
            assert!(told.contains(word) && told.contains("tertulia_app"), "{told}");
        };
        refused(Rights { is_superuser: true, ..rights() }, "superuser");
        refused(Rights { bypasses: true, ..rights() }, "BYPASSRLS");
        refused(Rights { owned_tables: vec!["documents".into()], ..rights() }, "documents");
        refused(Rights { in_service_group: true, ..rights() }, "tertulia_service");
        refused(Rights { in_user_group: false, ..rights() }, "GRANT");
    }
}
