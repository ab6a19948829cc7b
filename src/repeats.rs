//! Requests that are done once, however often they are sent: what an `Idempotency-Key` stands for.
//!
//! A key is claimed, the request is done, its answer is kept; whoever comes with the key later gets that answer. The
//! transaction that does it marks the claim ([`crate::store::TenantTx::commit`]), so nothing is done twice, also where a
//! server goes away in between: then the key is free again once its lease is over, or what was done is told without its
//! answer. Follows draft-ietf-httpapi-idempotency-key-header-07.
//!
//! Invariant: Postgres holds neither a key as it was sent nor anything by which a password in a body could be tried, and no
//! answer that shows a secret.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    ctx::{Actor, Claim, Ctx},
    error::Error,
    store::{
        Store,
        idempotency_keys::{self, Held, NewClaim},
    },
};

pub use crate::store::idempotency_keys::{Answer, BODY_BYTES_MAX};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a claim outlives the deadline of its request: time to write down the answer.
const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// Longest that writing down an answer may take.
const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// When whoever repeats a request that is under way shall come again.
const UNDER_WAY_WAIT: Duration = Duration::from_secs(1);

/// A request that is to be done once.
pub struct Ask<'a> {
    /// What the client sent as its key.
    pub key: &'a str,
    /// Method and pattern of the route.
    pub route: &'a str,
    /// Path and query string.
    pub target: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// What is to be done with a request.
pub enum Standing {
    /// It is done now, under this claim.
    New(Arc<Claim>),
    /// It was done before.
    Done(Answer),
}

/// What became of a request.
pub enum Settled {
    /// This was answered, and may be told again.
    Answered(Answer),
    /// It is done, and its answer is not to be kept.
    Unkept,
    /// It failed in such a way that it is worth another try.
    Failed,
}

/// The room of what is done once.
pub struct Repeats {
    store: Arc<Store>,
}

impl Repeats {
    /// A room over `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Claims the key for this request, or gives what was answered to it before.
    ///
    /// # Errors
    /// `UnderWay` while it is being done, `KeyReused` if the key stands for another request, `Conflict` if it was done and
    /// its answer is not kept.
    pub async fn claim(&self, ctx: &Ctx, ask: &Ask<'_>) -> Result<Standing, Error> {
        let caller = match ctx.actor {
            Actor::Visitor(session_id) => session_id.to_string(),
            Actor::ApiKey(_) | Actor::User(..) | Actor::Operator => String::new(),
        };
        let key = hex::encode(Sha256::digest(ask.key.as_bytes()));
        let request_sha256 = &fingerprint(ask);
        let lease = ctx.deadline.saturating_duration_since(Instant::now()) + LEASE_MARGIN;
        let wanted = NewClaim { caller: &caller, route: ask.route, key: &key, request_sha256, lease, kept: KEPT };
        let mut tx = self.store.tenant_tx(ctx).await?;
        let leased_until = idempotency_keys::claim(&mut tx, &wanted).await?;
        let held = match leased_until {
            Some(_) => None,
            None => idempotency_keys::find(&mut tx, &caller, &key).await?,
        };
        tx.commit().await?;
        match (leased_until, held) {
            (Some(leased_until), _) => Ok(Standing::New(Arc::new(Claim { caller, key, leased_until }))),
            (None, Some(held)) => standing(held, request_sha256),
            // It was given back between the two statements.
            (None, None) => Err(Error::UnderWay { retry_after: UNDER_WAY_WAIT }),
        }
    }

    /// Writes down what became of the request of `ctx`, which has a claim. If Postgres is away, the lease ends by itself.
    pub async fn settle(&self, ctx: &Ctx, settled: &Settled) {
        let Some(claim) = &ctx.claim else { return };
        // The request's own deadline may be over, and this transaction is not the one that is marked.
        let ctx = Ctx { claim: None, deadline: Instant::now() + SETTLE_WAIT, ..ctx.clone() };
        let write = async {
            let mut tx = self.store.tenant_tx(&ctx).await?;
            match settled {
                Settled::Answered(answer) if answer.body.len() <= BODY_BYTES_MAX => {
                    idempotency_keys::answer(&mut tx, claim, answer).await?;
                }
                Settled::Answered(_) | Settled::Unkept => idempotency_keys::close(&mut tx, claim).await?,
                Settled::Failed => {
                    if !idempotency_keys::release(&mut tx, claim).await? {
                        idempotency_keys::close(&mut tx, claim).await?;
                    }
                }
            }
            tx.commit().await
        };
        if let Err(error) = write.await {
            let (request_id, error) = (&ctx.request_id, anyhow::Error::new(error));
            tracing::warn!(%request_id, "the answer to a request with a key could not be kept: {error:#}");
        }
    }
}

fn standing(held: Held, request_sha256: &[u8; 32]) -> Result<Standing, Error> {
    match held.answer {
        _ if held.request_sha256 != *request_sha256 => Err(Error::KeyReused),
        Some(answer) => Ok(Standing::Done(answer)),
        None if held.is_leased => Err(Error::UnderWay { retry_after: UNDER_WAY_WAIT }),
        None => Err(Error::Conflict {
            detail: "This was done before under the same Idempotency-Key, and its answer is not kept. Look at what is \
                     there."
                .into(),
        }),
    }
}

/// Of all that makes a request that request. The key is in it, so nobody who has the hash alone can try bodies.
fn fingerprint(ask: &Ask<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [ask.key, ask.route, ask.target] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(ask.body);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_from_every_other() {
        let ask = |key, route, target, body| fingerprint(&Ask { key, route, target, body });
        let one = ask("k", "POST /a", "/a?b", b"c".as_slice());
        assert_eq!(one, ask("k", "POST /a", "/a?b", b"c"));
        for other in [
            ask("K", "POST /a", "/a?b", b"c"),
            ask("kP", "OST /a", "/a?b", b"c"),
            ask("k", "POST /b", "/a?b", b"c"),
            ask("k", "POST /a", "/a", b"?bc"),
            ask("k", "POST /a", "/a?b", b"C"),
        ] {
            assert_ne!(one, other);
        }
    }
}
