//! Visitors of a widget: an embed key and an origin in, a session and a signed token `tv_…` out.
//!
//! A token has tenant, widget, session, origin and expiry in it, and an HMAC-SHA-256 of them under a secret of the widget,
//! which is read with the service role only. So a check costs no look-up once the widget is known, and ends with the widget,
//! with its origin, and with the secret.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Map, Value};
use sha2::Sha256;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Accounts, Caller, bearer, tenants::Tier, unchecked};
use crate::{
    ctx::{Actor, Arrival, Ctx, Scopes, SessionId, TenantId, WidgetId},
    error::Error,
    origins,
    store::{
        self,
        sessions::{NewSession, SessionRow},
        widgets::{Secrets, WidgetSecrets},
    },
};

/// What a visitor's token starts with, and no key.
const PREFIX: &str = "tv_";
/// Tells this MAC from every other use of a secret, and this form of tokens from later ones.
const TOKEN_PURPOSE: &[u8] = b"tertulia visitor token 1\n";
/// The first line of what a site signs.
const IDENTITY_PURPOSE: &str = "tertulia identity 1";
const MAC_BYTES: usize = 32;
/// Tenant, widget, session and expiry.
const FIXED_BYTES: usize = 3 * 16 + 8;
/// Longest that a visitor waits for a session.
const ADMIT_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Whoever wants to come in.
#[derive(Clone)]
pub struct VisitorDraft {
    /// The widget's.
    pub embed_key: String,
    /// What the page says of them, and nobody has signed.
    pub visitor_id: Option<String>,
    /// As others see them.
    pub visitor_name: Option<String>,
    /// What the site's server has signed.
    pub identity: Option<Identity>,
}

/// Who a visitor is, by the word of the site's server.
#[derive(Clone)]
pub struct Identity {
    /// The site's own name of them, 1 to 255 bytes.
    pub id: String,
    /// As others see them, up to 200 characters.
    pub name: Option<String>,
    /// Their address.
    pub email: Option<String>,
    /// When this ceases to hold, as it is written in what was signed.
    pub expires_at: String,
    /// The HMAC-SHA-256 of [`Identity::text`], in hexadecimal digits.
    pub signature: String,
}

/// A visitor with a token.
pub struct Visitor {
    /// `tv_…`
    pub token: String,
    /// When it ceases to hold.
    pub expires_at: OffsetDateTime,
    /// The session that it opens.
    pub session: SessionRow,
}

impl Identity {
    /// What is signed: lines of text, one for each field, empty for one that is left out.
    pub fn text(&self, widget_id: WidgetId) -> String {
        let (name, email) = (self.name.as_deref().unwrap_or_default(), self.email.as_deref().unwrap_or_default());
        format!("{IDENTITY_PURPOSE}\n{widget_id}\n{}\n{name}\n{email}\n{}", self.id, self.expires_at)
    }

    fn holds(&self, widget: &WidgetSecrets, now: OffsetDateTime) -> bool {
        // A line break in a field could make one text of two identities.
        let fields = [Some(&self.id), self.name.as_ref(), self.email.as_ref(), Some(&self.expires_at)];
        if fields.into_iter().flatten().any(|field| field.chars().any(char::is_control)) {
            return false;
        }
        let Ok(signature) = hex::decode(&self.signature) else { return false };
        let text = self.text(widget.id);
        widget.identity.holding(now).any(|secret| is_mac(secret, &[text.as_bytes()], &signature))
            && OffsetDateTime::parse(&self.expires_at, &Rfc3339).is_ok_and(|expires_at| expires_at > now)
    }
}

/// What a token says.
#[derive(Clone, PartialEq, Eq)]
struct Claims {
    tenant_id: TenantId,
    widget_id: WidgetId,
    session_id: SessionId,
    expires_at_ms: i64,
    origin: String,
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").field("session_id", &self.session.id).finish_non_exhaustive()
    }
}

impl Claims {
    fn payload(&self) -> Vec<u8> {
        let ids = [self.tenant_id.0, self.widget_id.0, self.session_id.0];
        let mut payload: Vec<u8> = ids.iter().flat_map(|id| id.into_bytes()).collect();
        payload.extend(self.expires_at_ms.to_be_bytes());
        payload.extend(self.origin.as_bytes());
        payload
    }

    fn sign(&self, secret: &[u8]) -> Result<String, Error> {
        let mut bytes = self.payload();
        let mac = mac(secret, &[TOKEN_PURPOSE, &bytes]).ok_or_else(|| Error::Internal(anyhow::anyhow!("no HMAC")))?;
        bytes.extend(mac.finalize().into_bytes());
        Ok(format!("{PREFIX}{}", hex::encode(bytes)))
    }

    /// What a token says and its MAC, if it has the form of one. Nothing of it is proven.
    fn read(token: &str) -> Option<(Self, Vec<u8>)> {
        let digits = token.strip_prefix(PREFIX)?;
        if digits.len() > 2 * (FIXED_BYTES + origins::BYTES_MAX + MAC_BYTES) {
            return None;
        }
        let bytes = hex::decode(digits).ok()?;
        let (payload, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        let (fixed, origin) = payload.split_at_checked(FIXED_BYTES)?;
        let id = |at: usize| Uuid::from_slice(&fixed[16 * at..16 * (at + 1)]).ok();
        let claims = Self {
            tenant_id: TenantId(id(0)?),
            widget_id: WidgetId(id(1)?),
            session_id: SessionId(id(2)?),
            expires_at_ms: i64::from_be_bytes(fixed[48..].try_into().ok()?),
            origin: String::from_utf8(origin.to_vec()).ok()?,
        };
        Some((claims, mac.to_vec()))
    }
}

impl Accounts {
    /// Lets a visitor of a page at `origin` in: starts a session and signs a token for it.
    ///
    /// # Errors
    /// `NotFound` if the widget or its key is unknown; `Forbidden` if it is disabled, is not shown there, or the identity is
    /// missing, expired or not signed.
    pub async fn admit_visitor(
        &self,
        arrival: &Arrival,
        widget_id: WidgetId,
        origin: Option<&str>,
        draft: VisitorDraft,
    ) -> Result<Visitor, Error> {
        let widget = store::widgets::find_by_embed_key(&self.store, &draft.embed_key).await?;
        let widget = widget.filter(|it| it.id == widget_id).ok_or(Error::NotFound { what: "widget" })?;
        let origin = origin.filter(|origin| origins::allows(&widget.allowed_origins, origin));
        let origin = origin.ok_or_else(|| forbidden("The widget may not be shown where this comes from."))?;
        if widget.is_disabled {
            return Err(forbidden("The widget is disabled."));
        }
        let now = OffsetDateTime::now_utc();
        let is_verified = match &draft.identity {
            Some(identity) if identity.holds(&widget, now) => true,
            Some(_) => return Err(forbidden("The identity has expired or is not signed with the widget's secret.")),
            None if widget.is_identity_required => return Err(forbidden("The widget asks for a signed identity.")),
            None => false,
        };
        let session_id = SessionId::new();
        let (visitor_id, visitor_name, email) = match draft.identity {
            Some(identity) => (Some(identity.id), identity.name, identity.email),
            None => (draft.visitor_id, draft.visitor_name, None),
        };
        let metadata: Map<String, Value> =
            email.map(|email| ("visitor_email".to_owned(), email.into())).into_iter().collect();
        let session = NewSession {
            id: session_id,
            widget_id: Some(widget_id),
            meeting_id: None,
            visitor_id,
            visitor_name,
            is_verified,
            metadata,
        };
        let ctx = Ctx {
            tenant_id: widget.tenant_id,
            actor: Actor::Visitor(session_id),
            scopes: Scopes::default(),
            address: Some(arrival.address),
            request_id: arrival.request_id.clone(),
            deadline: Instant::now() + ADMIT_WAIT,
            claim: None,
        };
        let mut tx = self.store.tenant_tx(&ctx).await?;
        let session = store::sessions::insert(&mut tx, &session).await?;
        tx.commit().await?;
        self.token(&widget, session, origin.to_owned())
    }

    /// The session of the visitor who asks, with a token that holds for longer. `authorization` is the header's value that
    /// proved who they are.
    ///
    /// # Errors
    /// `NotFound` if the session is not there; `Forbidden` for whoever is no visitor; `Conflict` if the session has ended.
    pub async fn refresh_visitor(
        &self,
        ctx: &Ctx,
        session_id: SessionId,
        authorization: Option<&str>,
    ) -> Result<Visitor, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let session = store::sessions::find(&mut tx, session_id).await?.ok_or(Error::NotFound { what: "session" })?;
        tx.commit().await?;
        let claims = authorization.and_then(bearer).and_then(Claims::read).map(|(claims, _)| claims);
        let claims = claims.ok_or_else(|| forbidden("This is for visitors, not for API keys and people."))?;
        if session.ended_at.is_some() {
            return Err(Error::Conflict { detail: "The session has ended.".into() });
        }
        let widget = self.find_widget(claims.tenant_id, claims.widget_id).await?.ok_or(Error::Unauthenticated)?;
        self.token(&widget, session, claims.origin)
    }

    /// The caller that a visitor's token proves, if it is one: `None` for anything else.
    pub(super) async fn check_visitor(&self, token: &str, origin: Option<&str>) -> Option<Result<Caller, Error>> {
        if !token.starts_with(PREFIX) {
            return None;
        }
        let Some((claims, mac)) = Claims::read(token) else { return Some(Err(Error::Unauthenticated)) };
        Some(self.check_claims(&claims, &mac, origin).await)
    }

    async fn check_claims(&self, claims: &Claims, mac: &[u8], origin: Option<&str>) -> Result<Caller, Error> {
        let now = OffsetDateTime::now_utc();
        let widget = self.find_widget(claims.tenant_id, claims.widget_id).await?.ok_or(Error::Unauthenticated)?;
        let payload = claims.payload();
        let is_signed = widget.signing.holding(now).any(|secret| is_mac(secret, &[TOKEN_PURPOSE, &payload], mac));
        if !is_signed
            || i128::from(claims.expires_at_ms) * 1_000_000 <= now.unix_timestamp_nanos()
            || widget.is_disabled
        {
            return Err(Error::Unauthenticated);
        }
        // A browser names the page wherever it is not the server's own; nobody else has to.
        if origin.is_some_and(|origin| origin != claims.origin)
            || !origins::allows(&widget.allowed_origins, &claims.origin)
        {
            return Err(forbidden("The token is not for the page that this comes from."));
        }
        let actor = Actor::Visitor(claims.session_id);
        let tier = Tier::of_word(&widget.tier);
        Ok(Caller { tenant_id: claims.tenant_id, actor, tier, scopes: Scopes::default() })
    }

    /// Whether a page at `origin` may ask: whether some widget, or that one, is shown there. Not while that is unknown.
    pub async fn knows_origin(&self, origin: &str, widget_id: Option<WidgetId>) -> bool {
        let patterns = origins::patterns_of(origin);
        if patterns.is_empty() {
            return false;
        }
        let read = async || {
            let is_known = store::widgets::has_origin(&self.store, &patterns, widget_id).await?;
            Ok(is_known.then_some(()))
        };
        self.origins.find(&(origin.to_owned(), widget_id), read).await.is_ok_and(|known| known.is_some())
    }

    /// Drops what is known of a widget, because it changed or is gone.
    pub async fn forget_widget(&self, tenant_id: TenantId, id: WidgetId) {
        self.widgets.forget(&(tenant_id, id)).await;
        self.origins.recheck_all();
    }

    async fn find_widget(&self, tenant_id: TenantId, id: WidgetId) -> Result<Option<WidgetSecrets>, Error> {
        let read = async || store::widgets::find_secrets(&self.store, tenant_id, id).await;
        self.widgets.find(&(tenant_id, id), read).await.map_err(unchecked)
    }

    fn token(&self, widget: &WidgetSecrets, session: SessionRow, origin: String) -> Result<Visitor, Error> {
        let expires_at = OffsetDateTime::now_utc() + self.visitor_ttl;
        let expires_at_ms = i64::try_from(expires_at.unix_timestamp_nanos() / 1_000_000);
        let claims = Claims {
            tenant_id: widget.tenant_id,
            widget_id: widget.id,
            session_id: session.id,
            expires_at_ms: expires_at_ms.map_err(|error| Error::Internal(error.into()))?,
            origin,
        };
        let secret = widget.signing.current().ok_or_else(|| Error::Internal(anyhow::anyhow!("no signing secret")))?;
        Ok(Visitor { token: claims.sign(secret)?, expires_at, session })
    }
}

impl Secrets {
    /// Those that hold now, the current one first.
    fn holding(&self, now: OffsetDateTime) -> impl Iterator<Item = &[u8]> {
        let overlaps = self.overlap_until.is_some_and(|until| until > now);
        self.all.iter().take(if overlaps { 2 } else { 1 }).map(Vec::as_slice)
    }

    fn current(&self) -> Option<&[u8]> {
        self.all.first().map(Vec::as_slice)
    }
}

fn forbidden(detail: &str) -> Error {
    Error::Forbidden { detail: detail.into() }
}

/// None for no secret: HMAC takes keys of any other length.
fn mac(secret: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    if secret.is_empty() {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    parts.iter().for_each(|part| mac.update(part));
    Some(mac)
}

/// Whether `expected` is the MAC of `parts`, compared in constant time.
fn is_mac(secret: &[u8], parts: &[&[u8]], expected: &[u8]) -> bool {
    mac(secret, parts).is_some_and(|mac| mac.verify_slice(expected).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            tenant_id: TenantId::new(),
            widget_id: WidgetId::new(),
            session_id: SessionId::new(),
            expires_at_ms: 1_790_000_000_000,
            origin: "https://example.com".into(),
        }
    }

    #[test]
    fn a_token_says_what_was_signed_and_no_other_digit_fits() {
        let (claims, secret) = (claims(), [7; 32]);
        let token = claims.sign(&secret).unwrap();
        let proves = |token: &str, secret: &[u8]| {
            let (read, mac) = Claims::read(token)?;
            is_mac(secret, &[TOKEN_PURPOSE, &read.payload()], &mac).then_some(read)
        };
        assert!(proves(&token, &secret) == Some(claims));
        assert!(proves(&token, &[8; 32]).is_none() && proves(&token, &[]).is_none());
        for at in PREFIX.len()..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            assert!(proves(std::str::from_utf8(&other).unwrap(), &secret).is_none(), "digit {at}");
        }
        let long = format!("{PREFIX}{}", "0".repeat(10_000));
        for bad in ["", PREFIX, &token[..token.len() - 2], &token.replace("tv_", "tl_"), &format!("{token}00"), &long] {
            assert!(proves(bad, &secret).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_identity_holds_for_its_time_and_its_widget() {
        let now = OffsetDateTime::now_utc();
        let (old, new) = (b"ws_old".to_vec(), b"ws_new".to_vec());
        let overlap_until = Some(now + time::Duration::minutes(1));
        let widget = WidgetSecrets {
            tenant_id: TenantId::new(),
            tier: "pro".into(),
            id: WidgetId::new(),
            allowed_origins: Vec::new(),
            is_identity_required: true,
            is_disabled: false,
            identity: Secrets { all: vec![new.clone(), old.clone()], overlap_until },
            signing: Secrets { all: vec![vec![1; 32]], overlap_until: None },
        };
        let signed = |change: fn(&mut Identity), secret: &[u8], widget_id| {
            let mut identity = Identity {
                id: "u-1".into(),
                name: Some("Grace".into()),
                email: None,
                expires_at: "2999-01-01T00:00:00Z".into(),
                signature: String::new(),
            };
            change(&mut identity);
            let text = identity.text(widget_id);
            identity.signature = hex::encode(mac(secret, &[text.as_bytes()]).unwrap().finalize().into_bytes());
            identity
        };
        let good = signed(|_| {}, &new, widget.id);
        assert!(good.holds(&widget, now));
        let text = format!("tertulia identity 1\n{}\nu-1\nGrace\n\n2999-01-01T00:00:00Z", widget.id);
        assert_eq!(good.text(widget.id), text);
        let replaced = signed(|_| {}, &old, widget.id);
        assert!(replaced.holds(&widget, now), "while secrets overlap");
        assert!(!replaced.holds(&widget, now + time::Duration::minutes(2)));
        assert!(!signed(|_| {}, &new, WidgetId::new()).holds(&widget, now));
        assert!(!signed(|it| it.expires_at = "2020-01-01T00:00:00Z".into(), &new, widget.id).holds(&widget, now));
        assert!(!signed(|it| it.expires_at = "tomorrow".into(), &new, widget.id).holds(&widget, now));
        assert!(!signed(|it| it.id = "u-1\nGrace".into(), &new, widget.id).holds(&widget, now));
        assert!(!Identity { id: "u-2".into(), ..good.clone() }.holds(&widget, now));
        assert!(!Identity { email: Some("a@b".into()), ..good.clone() }.holds(&widget, now));
        assert!(!Identity { signature: "zz".into(), ..good.clone() }.holds(&widget, now));
        assert!(!Identity { signature: String::new(), ..good }.holds(&widget, now));
    }
}
