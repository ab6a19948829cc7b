//! Tenants: the customers whose data is kept apart.

use crate::{
    ctx::TenantId,
    error::Error,
    store::{self, Store, tenants::TenantRow},
};

/// What a tenant pays for; it sets the tenant's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Trying it out.
    Free,
    /// Paying.
    Pro,
    /// Paying by contract.
    Enterprise,
}

impl Tier {
    /// The word for it in SQL, JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }

    /// The tier that `word` stands for. A word that this version does not know is not worth more than the least.
    pub fn of_word(word: &str) -> Self {
        [Self::Free, Self::Pro, Self::Enterprise].into_iter().find(|tier| tier.as_str() == word).unwrap_or(Self::Free)
    }
}

/// Longest name of a tenant, in characters: it may become a host name's label (RFC 1035, section 2.3.4).
pub const NAME_CHARS_MAX: usize = 63;

/// Creates a tenant of that name.
///
/// # Errors
/// `Invalid` if the name is not letters, digits and hyphens; `Conflict` if it is taken.
pub async fn create(store: &Store, name: &str, tier: Tier) -> Result<TenantId, Error> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !fits {
        return Err(Error::invalid_field(
            "name",
            format!("must be 1 to {NAME_CHARS_MAX} small letters, digits and inner hyphens, such as `acme-2`"),
        ));
    }
    let mut tx = store.service_tx().await?;
    let id = store::tenants::insert(&mut tx, name, tier.as_str()).await?;
    tx.commit().await?;
    id.ok_or_else(|| Error::Conflict { detail: format!("There is a tenant named {name} already.") })
}

/// Every tenant, by name.
///
/// # Errors
/// `Unavailable` if Postgres is away.
pub async fn list(store: &Store) -> Result<Vec<TenantRow>, Error> {
    let mut tx = store.service_tx().await?;
    let all = store::tenants::list(&mut tx).await?;
    tx.commit().await?;
    Ok(all)
}

/// The id of the tenant of that name.
///
/// # Errors
/// `NotFound` if there is none.
pub async fn find_id(store: &Store, name: &str) -> Result<TenantId, Error> {
    let mut tx = store.service_tx().await?;
    let found = store::tenants::find_by_slug(&mut tx, name).await?;
    tx.commit().await?;
    found.map(|row| row.id).ok_or(Error::NotFound { what: "tenant" })
}
