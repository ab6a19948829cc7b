//! Chat: sessions and the messages in them, and what sessions start from: widgets and meetings.
//!
//! Invariant: within a session messages are numbered 1, 2, 3 and so on without a gap, and whoever has seen one number has
//! seen all before it. What was edited or deleted stands in the audit log as it was.

pub mod meetings;
pub mod messages;
pub mod sessions;
pub mod widgets;

use std::sync::Arc;

use crate::store::Store;

/// What the use cases take and give as the store has it, so that callers need not know of the store.
pub use crate::store::{
    meetings::{MeetingRow, NewMeeting, ParticipantFields, ParticipantRole, ParticipantRow},
    messages::{History, MessageRow, NewMessage, Role},
    page::{Page, PageRequest},
    sessions::{NewSession, SessionFilter, SessionRow},
    widgets::{NewWidget, SecretKind, WidgetRow},
};

/// The chat room: what its use cases share. Built once.
pub struct Chat {
    store: Arc<Store>,
}

impl Chat {
    /// A room over `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }
}
