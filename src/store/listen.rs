//! What Postgres tells of: changed knowledge bases, API keys, logins, tenants and widgets, a line for each transaction that changed one.
//!
//! Notifications are wake-ups: one that is lost with the connection is made up for by who listens, by looking at everything
//! again once it has a new [`Listener`].

use std::{collections::VecDeque, future::poll_fn, pin::pin, time::Duration};

use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};
use uuid::Uuid;

use super::{Store, StoreError, address::TlsStream};
use crate::ctx::{KnowledgeBaseId, TenantId, WidgetId};

const LISTEN: &str = "LISTEN tertulia_knowledge; LISTEN tertulia_api_keys; LISTEN tertulia_auth_sessions; LISTEN tertulia_tenants; \
     LISTEN tertulia_widgets";
/// Silence after which the peer is asked for a sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Longest that it may take to give one.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// A knowledge base got a version, or is gone.
    Knowledge {
        /// Whose it is.
        tenant_id: TenantId,
        /// Which one.
        knowledge_base_id: KnowledgeBaseId,
        /// The version it got; its last one if it is gone.
        version: u64,
    },
    /// An API key is new, changed or gone.
    ApiKey {
        /// The key's public id.
        public_id: String,
    },
    /// A login ended, or its person changed.
    Login {
        /// What it is found by.
        token_sha256: [u8; 32],
    },
    /// A tenant changed, or is gone.
    Tenant {
        /// Which one.
        tenant_id: TenantId,
    },
    /// A widget is new, changed or gone.
    Widget {
        /// Whose it is.
        tenant_id: TenantId,
        /// Which one.
        widget_id: WidgetId,
    },
}

/// Hears what changes, on a connection of its own.
pub struct Listener {
    client: Client,
    connection: Connection<Socket, TlsStream>,
    /// Heard while something else was waited for.
    heard: VecDeque<Notification>,
}

impl Store {
    /// Hears every change that is committed from now on.
    ///
    /// # Errors
    /// If Postgres is away.
    pub async fn listen(&self) -> Result<Listener, StoreError> {
        let (client, connection) = self.direct.connect().await?;
        let mut listener = Listener { client, connection, heard: VecDeque::new() };
        listener.ask(LISTEN).await?;
        Ok(listener)
    }
}

impl Listener {
    /// The next change; waits for as long as nothing changes.
    ///
    /// # Errors
    /// If the connection is lost, or nobody answers at its other end: then a new one is needed.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Notification, StoreError> {
        loop {
            if let Some(notification) = self.heard.pop_front() {
                return Ok(notification);
            }
            match timeout(SILENCE_MAX, hear(&mut self.connection)).await {
                Ok(notification) => self.heard.extend(notification?),
                Err(_) => self.ask("").await?,
            }
        }
    }

    /// Has Postgres run `sql`, and hears on meanwhile.
    async fn ask(&mut self, sql: &str) -> Result<(), StoreError> {
        let Self { client, connection, heard } = self;
        let asking = async {
            let mut answer = pin!(client.batch_execute(sql));
            loop {
                tokio::select! {
                    answer = &mut answer => return answer.map_err(|error| StoreError::of_statement("listen", error)),
                    notification = hear(connection) => heard.extend(notification?),
                }
            }
        };
        timeout(ANSWER_WAIT, asking).await.unwrap_or(Err(StoreError::ListenerClosed))
    }
}

/// The next message on the connection, if it is one for us.
async fn hear(connection: &mut Connection<Socket, TlsStream>) -> Result<Option<Notification>, StoreError> {
    match poll_fn(|cx| connection.poll_message(cx)).await {
        Some(Ok(AsyncMessage::Notification(message))) => Ok(parse(message.channel(), message.payload())),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(StoreError::of_statement("listen", error)),
        None => Err(StoreError::ListenerClosed),
    }
}

/// None for what no trigger of ours says: any client may NOTIFY.
fn parse(channel: &str, payload: &str) -> Option<Notification> {
    match channel {
        "tertulia_knowledge" => {
            let mut words = payload.split(' ');
            let mut word = || words.next();
            let tenant_id = TenantId(Uuid::parse_str(word()?).ok()?);
            let knowledge_base_id = KnowledgeBaseId(Uuid::parse_str(word()?).ok()?);
            let version = word()?.parse().ok()?;
            word().is_none().then_some(Notification::Knowledge { tenant_id, knowledge_base_id, version })
        }
        "tertulia_api_keys" => Some(Notification::ApiKey { public_id: payload.to_owned() }),
        "tertulia_auth_sessions" => {
            let mut token_sha256 = [0; 32];
            hex::decode_to_slice(payload, &mut token_sha256).ok()?;
            Some(Notification::Login { token_sha256 })
        }
        "tertulia_tenants" => Some(Notification::Tenant { tenant_id: TenantId(Uuid::parse_str(payload).ok()?) }),
        "tertulia_widgets" => {
            let (tenant_id, widget_id) = payload.split_once(' ')?;
            let tenant_id = TenantId(Uuid::parse_str(tenant_id).ok()?);
            Some(Notification::Widget { tenant_id, widget_id: WidgetId(Uuid::parse_str(widget_id).ok()?) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_triggers_say_is_understood() {
        let (tenant_id, knowledge_base_id) = (TenantId::new(), KnowledgeBaseId::new());
        let said = format!("{tenant_id} {knowledge_base_id} 7");
        assert_eq!(
            parse("tertulia_knowledge", &said),
            Some(Notification::Knowledge { tenant_id, knowledge_base_id, version: 7 })
        );
        for bad in ["", "a b 1", &said[1..], &format!("{said} 8"), &said.replace('7', "-7")] {
            assert_eq!(parse("tertulia_knowledge", bad), None, "{bad}");
        }
        let key = Some(Notification::ApiKey { public_id: "ab12".into() });
        assert_eq!(parse("tertulia_api_keys", "ab12"), key);
        let login = Some(Notification::Login { token_sha256: [0xab; 32] });
        assert_eq!(parse("tertulia_auth_sessions", &"ab".repeat(32)), login);
        let tenant = Some(Notification::Tenant { tenant_id });
        assert_eq!(parse("tertulia_tenants", &tenant_id.to_string()), tenant);
        let widget_id = WidgetId::new();
        let widget = Some(Notification::Widget { tenant_id, widget_id });
        assert_eq!(parse("tertulia_widgets", &format!("{tenant_id} {widget_id}")), widget);
        assert_eq!(parse("tertulia_widgets", &tenant_id.to_string()), None);
        for (channel, bad) in [("tertulia_auth_sessions", "abab"), ("tertulia_tenants", "acme"), ("other", "ab12")] {
            assert_eq!(parse(channel, bad), None);
        }
    }
}
