//! Who asks, for which tenant, until when. Settled once at dispatch and handed down as the first parameter.
//!
//! Invariant: code that touches a tenant's rows or index takes a [`Ctx`] (or a type made from one), so there is no
//! way to reach them without having said whose they are.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new UUIDv7: later ids sort after earlier ones.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

ids! {
    /// A customer: nothing of one is ever seen by another.
    TenantId,
    /// A tenant's collection of documents that is searched as one.
    KnowledgeBaseId,
    /// A document of a knowledge base.
    DocumentId,
    /// An API key's row.
    ApiKeyId,
    /// A person of a tenant.
    UserId,
    /// A person's login: one device, say.
    LoginId,
    /// A place on a tenant's site where visitors start sessions.
    WidgetId,
    /// A meeting, of which a session may be the conversation.
    MeetingId,
    /// Somebody in a meeting.
    ParticipantId,
    /// One conversation.
    SessionId,
    /// A message of a session.
    MessageId,
}

/// What somebody may do. An API key has any set of them, a person those of their role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Search and read knowledge.
    KnowledgeRead,
    /// Create, replace and delete knowledge.
    KnowledgeWrite,
    /// Read widgets.
    WidgetsRead,
    /// Create, change and delete widgets.
    WidgetsWrite,
    /// Read meetings and who is in them.
    MeetingsRead,
    /// Create, change, end and delete meetings, and say who is in them.
    MeetingsWrite,
    /// Read sessions and their messages, and search in these.
    SessionsRead,
    /// Create, change, end and delete sessions, and post, edit and delete messages.
    SessionsWrite,
    /// Read who the tenant's people are.
    UsersRead,
    /// Create, change and delete people, as far as their roles may no more than oneself.
    UsersWrite,
    /// Read which API keys there are.
    KeysRead,
    /// Create, rotate and revoke API keys, as far as they may no more than oneself.
    KeysWrite,
}

impl Scope {
    /// Every scope there is, in the order that help texts list them.
    pub const ALL: [Self; 12] = [
        Self::KnowledgeRead,
        Self::KnowledgeWrite,
        Self::WidgetsRead,
        Self::WidgetsWrite,
        Self::MeetingsRead,
        Self::MeetingsWrite,
        Self::SessionsRead,
        Self::SessionsWrite,
        Self::UsersRead,
        Self::UsersWrite,
        Self::KeysRead,
        Self::KeysWrite,
    ];

    /// The word for it in SQL, JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KnowledgeRead => "knowledge:read",
            Self::KnowledgeWrite => "knowledge:write",
            Self::WidgetsRead => "widgets:read",
            Self::WidgetsWrite => "widgets:write",
            Self::MeetingsRead => "meetings:read",
            Self::MeetingsWrite => "meetings:write",
            Self::SessionsRead => "sessions:read",
            Self::SessionsWrite => "sessions:write",
            Self::UsersRead => "users:read",
            Self::UsersWrite => "users:write",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
        }
    }

    /// The scope that `word` stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u32);

impl Scopes {
    /// Every scope there is.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Those that `words` stand for. A word that no scope has gives no right, so it is passed over.
    pub fn of_words(words: &[String]) -> Self {
        words.iter().filter_map(|word| Scope::parse(word)).collect()
    }

    /// Whether `scope` is among them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    /// Those that are not in `other`.
    pub fn beyond(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The word for each, in the order of [`Scope::ALL`].
    pub fn words(self) -> Vec<&'static str> {
        Scope::ALL.into_iter().filter(|scope| self.has(*scope)).map(Scope::as_str).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | 1 << scope as u32))
    }
}

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A program with an API key.
    ApiKey(ApiKeyId),
    /// A person, by a login of theirs.
    User(UserId, LoginId),
    /// The visitor of a session, who may see and do nothing but in it.
    Visitor(SessionId),
    /// Somebody at the command line, who needs no key.
    Operator,
}

impl Actor {
    /// The person, if it is one.
    pub fn user_id(self) -> Option<UserId> {
        match self {
            Self::User(user_id, _) => Some(user_id),
            Self::ApiKey(_) | Self::Visitor(_) | Self::Operator => None,
        }
    }
}

/// One request's surroundings.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Whose data this request may touch.
    pub tenant_id: TenantId,
    /// Who asked.
    pub actor: Actor,
    /// What they may do.
    pub scopes: Scopes,
    /// Where they are, if they are elsewhere.
    pub address: Option<IpAddr>,
    /// Given back in `X-Request-Id` and every error.
    pub request_id: RequestId,
    /// When the answer is of no more use.
    pub deadline: Instant,
    /// What stands for it if it is done once, however often it is sent.
    pub claim: Option<Arc<Claim>>,
}

/// A request's hold on an `Idempotency-Key`. Transactions of its [`Ctx`] mark it, and fail if it is another's by then.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who shares the key: empty for the tenant's keys and people.
    pub caller: String,
    /// The key's hash, in hexadecimal digits.
    pub key: String,
    /// Until when it is held; tells this hold from every other.
    pub leased_until: OffsetDateTime,
}

impl Ctx {
    /// For what an operator does with a tenant's data, which takes no longer than a minute.
    pub fn of_operator(tenant_id: TenantId) -> Self {
        Self {
            tenant_id,
            actor: Actor::Operator,
            scopes: Scopes::all(),
            address: None,
            request_id: RequestId::accept_or_new(None),
            deadline: Instant::now() + Duration::from_secs(60),
            claim: None,
        }
    }
}

/// The surroundings of a request of somebody who is not known yet.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Where they are.
    pub address: IpAddr,
    /// Given back in `X-Request-Id` and every error.
    pub request_id: RequestId,
}

/// Names one request in answers and logs: the client's own `X-Request-Id` where it fits, else a UUIDv7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// Longest id of a client's own that is taken over.
    pub const LEN_MAX: usize = 128;

    /// `from_client` if it is 1 to 128 characters of `A-Za-z0-9._:-`, else a new UUIDv7: an id lands in logs, so
    /// nothing else may stand in it.
    pub fn accept_or_new(from_client: Option<&str>) -> Self {
        let fits = |id: &&str| {
            (1..=Self::LEN_MAX).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
        };
        Self(from_client.filter(fits).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_that_could_forge_a_log_line_are_replaced() {
        assert_eq!(RequestId::accept_or_new(Some("abc-1.2:3_4")).as_str(), "abc-1.2:3_4");
        for bad in ["", "a b", "a\nb", "é", &"x".repeat(129)] {
            let id = RequestId::accept_or_new(Some(bad));
            assert!(Uuid::parse_str(id.as_str()).is_ok(), "{bad:?} was taken over");
        }
    }

    #[test]
    fn scopes_have_one_word_each() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::parse("knowledge:*"), None);
    }

    #[test]
    fn sets_of_scopes_compare_as_sets() {
        let some: Scopes = [Scope::KeysWrite, Scope::KnowledgeRead].into_iter().collect();
        assert_eq!(Scopes::of_words(&["keys:write".into(), "all:all".into(), "knowledge:read".into()]), some);
        assert!(some.has(Scope::KeysWrite) && !some.has(Scope::KeysRead));
        assert!(some.beyond(Scopes::all()).is_empty() && !Scopes::all().beyond(some).is_empty());
        assert_eq!(Scopes::all().beyond(some).words().len(), Scope::ALL.len() - 2);
        assert_eq!(some.words(), ["knowledge:read", "keys:write"]);
        assert_eq!(Scopes::all().words().len(), Scope::ALL.len());
        assert!(Scopes::default().is_empty());
    }
}
