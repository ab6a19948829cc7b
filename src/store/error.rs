//! What can go wrong between the server and Postgres, and what that means to a caller.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::error::Error;

/// A failed piece of database work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Every connection of the pool was in use for all of the time that a request may wait for one.
    #[error("no connection of the {pool} pool was free within {waited:?}")]
    Busy {
        /// Which pool.
        pool: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// Postgres refused a new connection, or nobody is there.
    #[error("no connection to postgres at {place}: does it run there, and does it know this role and database?")]
    Connect {
        /// Where it should be and as whom, as [`super::Address`] shows itself.
        place: String,
        /// What the connection met with.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A new connection was not ready in time.
    #[error("postgres did not answer a new connection in time")]
    ConnectTimeout,
    /// The pools are closed: the server stops.
    #[error("the connections are closed")]
    Closed,
    /// The request's own deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// Postgres refused a statement, or the connection broke under it.
    #[error("the statement {statement} failed")]
    Statement {
        /// The statement's name, or `commit`.
        statement: &'static str,
        /// What Postgres said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement of this transaction failed before, or was given up.
    #[error("{statement} was not run: a statement of the transaction before it failed or was given up")]
    Unusable {
        /// The statement that was not run, or `commit`.
        statement: &'static str,
    },
    /// The call has more or fewer parameters than the statement.
    #[error("the statement {statement} takes another number of parameters")]
    ParameterCount {
        /// The statement's name.
        statement: &'static str,
    },
    /// The statement gave another number of rows than it can.
    #[error("the statement {statement} gave {count} rows")]
    RowCount {
        /// The statement's name.
        statement: &'static str,
        /// How many rows there were.
        count: usize,
    },
    /// A value in a row is not what the code takes it for.
    #[error("a row of {statement} cannot be read")]
    Row {
        /// The statement's name.
        statement: &'static str,
        /// Which column, and why.
        #[source]
        source: anyhow::Error,
    },
    /// What a statement was to change is not there any more.
    #[error("the {what} is gone")]
    Gone {
        /// Such as `knowledge base`.
        what: &'static str,
    },
    /// A row was to refer to one that is not there.
    #[error("the {field} refers to nothing")]
    BrokenReference {
        /// The column, which is the field of the input too.
        field: &'static str,
    },
    /// A widget was to ask for signed identities and has nothing to check them with.
    #[error("the widget has no identity secret")]
    NoIdentitySecret,
    /// The knowledge base got another active generation since it was looked at.
    #[error("the active generation was switched")]
    GenerationSwitched,
    /// The request's `Idempotency-Key` is held by a later request, since it took longer than it may.
    #[error("another request holds the idempotency key")]
    Superseded,
    /// A cursor that another list gave.
    #[error("the cursor is another list's")]
    ForeignCursor,
    /// A listening connection was closed.
    #[error("the connection that listens for changes was closed")]
    ListenerClosed,
    /// The database, its roles or its address are not as they have to be; the text says what to do.
    #[error("{0}")]
    Setup(String),
    /// A migration failed, and left nothing behind.
    #[error("the schema cannot be migrated")]
    Migration(#[source] Box<refinery::Error>),
}

impl StoreError {
    pub(super) fn of_statement(statement: &'static str, source: tokio_postgres::Error) -> Self {
        Self::Statement { statement, source }
    }

    /// Whether a statement broke a unique constraint.
    pub fn is_unique_violation(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// What a broken foreign key is about: `fields` has the constraints, each with its field. Anything else stays as it is.
    pub(super) fn reference_to(self, fields: &[(&str, &'static str)]) -> Self {
        let Self::Statement { source, .. } = &self else { return self };
        let Some(refused) = source.as_db_error().filter(|it| *it.code() == SqlState::FOREIGN_KEY_VIOLATION) else {
            return self;
        };
        match fields.iter().find(|(constraint, _)| refused.constraint() == Some(*constraint)) {
            Some((_, field)) => Self::BrokenReference { field },
            None => self,
        }
    }

    /// What is broken where a widget asks for identities without a secret. Anything else stays as it is.
    pub(super) fn without_identity_secret(self) -> Self {
        match self.code() {
            Some(&SqlState::CHECK_VIOLATION) => Self::NoIdentitySecret,
            _ => self,
        }
    }

    /// What Postgres calls the failure.
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Statement { source, .. } | Self::Connect { source, .. } => source.code(),
            _ => None,
        }
    }

    /// Whether Postgres is away or overloaded, so that the same call may go well a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Connect { .. } | Self::ConnectTimeout | Self::Closed | Self::ListenerClosed => {
                true
            }
            Self::Statement { source, .. } => match source.code() {
                Some(code) => is_transient(code),
                // Without a code, Postgres did not answer. What could not be sent at all is our own mistake.
                None => source.is_closed() || is_io(source),
            },
            _ => false,
        }
    }
}

/// Connection trouble (08), rollbacks that ask for a retry (40), resources (53), operator intervention (57P).
fn is_transient(code: &SqlState) -> bool {
    let code = code.code();
    code.starts_with("08") || code.starts_with("40") || code.starts_with("53") || code.starts_with("57P")
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        // A cancelled statement is one that took longer than `statement_timeout`: nobody else cancels them.
        if matches!(error, StoreError::Deadline) || error.code() == Some(&SqlState::QUERY_CANCELED) {
            return Self::Deadline;
        }
        if error.is_unique_violation() {
            return Self::Conflict { detail: "Something of that name or id exists already.".into() };
        }
        match error {
            StoreError::Gone { what } => return Self::NotFound { what },
            StoreError::GenerationSwitched => {
                return Self::Conflict {
                    detail: "The knowledge base got another encoder meanwhile; try again.".into(),
                };
            }
            StoreError::Superseded => return Self::Deadline,
            StoreError::NoIdentitySecret => {
                return Self::Conflict { detail: "The widget has no identity secret; create another one.".into() };
            }
            StoreError::BrokenReference { field } => return Self::invalid_field(field, "names nothing that is there"),
            StoreError::ForeignCursor => {
                return Self::invalid_field("cursor", "is another list's; start again without it");
            }
            _ => {}
        }
        if matches!(error, StoreError::Busy { .. }) {
            return Self::unavailable("The server is busy; try again in a moment.", error);
        }
        if error.is_transient() {
            return Self::unavailable("The database is away; try again in a moment.", error);
        }
        Self::Internal(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_means_something_to_a_client() {
        let check = |error: StoreError, status: u16| assert_eq!(Error::from(error).meaning().status, status);
        check(StoreError::Busy { pool: "user", waited: Duration::from_secs(5) }, 503);
        check(StoreError::ConnectTimeout, 503);
        check(StoreError::Closed, 503);
        check(StoreError::Deadline, 504);
        check(StoreError::Gone { what: "knowledge base" }, 404);
        check(StoreError::GenerationSwitched, 409);
        check(StoreError::NoIdentitySecret, 409);
        check(StoreError::Superseded, 504);
        check(StoreError::ForeignCursor, 400);
        check(StoreError::BrokenReference { field: "widget_id" }, 400);
        check(StoreError::Unusable { statement: "documents/list" }, 500);
        check(StoreError::RowCount { statement: "documents/list", count: 2 }, 500);
    }

    #[test]
    fn codes_worth_a_retry_are_told_from_mistakes() {
        for code in [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::CONNECTION_FAILURE,
        ] {
            assert!(is_transient(&code), "{code:?}");
        }
        for code in [SqlState::SYNTAX_ERROR, SqlState::UNIQUE_VIOLATION, SqlState::INSUFFICIENT_PRIVILEGE] {
            assert!(!is_transient(&code), "{code:?}");
        }
    }
}
