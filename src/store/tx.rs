//! Transactions: the only way to run a statement.
//!
//! A [`TenantTx`] sees the rows of one tenant, a [`ServiceTx`] those of all. Either begins with its first statement: BEGIN
//! (with the tenant, for row security) and the statement travel together, so the first answer costs one round trip. Where
//! each statement is a transaction of its own, as for reads, COMMIT travels with it too.
//! Statements are sent unnamed with the types of their parameters, so a pooler in transaction mode may stand in between.
//!
//! Invariant: a connection goes back to its pool only if nothing of this transaction is left on it. A transaction that
//! is dropped while Postgres works on a statement has that statement cancelled and its connection closed; one that is
//! dropped between statements is rolled back first. After a failed statement no other is run.

use std::{ops::DerefMut, pin::pin, sync::Arc, time::Duration};

use deadpool_postgres::Object;
use futures_util::{
    TryStreamExt as _,
    future::{join, join3},
};
use tokio::time::Instant;
use tokio_postgres::{
    Client, Row, SimpleQueryMessage,
    types::{ToSql, Type},
};

use super::{
    StoreError, idempotency_keys,
    pool::{Pool, Surroundings},
    replica::{ANSWER_WAIT, Replica},
};
use crate::ctx::{Actor, Claim, TenantId};

/// Longest that a cancellation or a rollback in the background may take before the connection is closed regardless.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(5);
/// Commits, and tells how far the log has come then.
const COMMIT_AND_TELL: &str = "COMMIT; SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";

/// One SQL statement as it stands in its file.
///
/// Types of extensions and enums are looked up by name on the connection, with a named statement, so neither parameters
/// nor result columns may have one: cast in the SQL (`$1::real[]::vector`, `embedding::real[]`, `kind::text`).
#[derive(Debug)]
pub(in crate::store) struct Statement {
    /// Its file under `sql/` without the ending, such as `documents/list`; the label of its timings.
    pub(in crate::store) name: &'static str,
    /// Its text.
    pub(in crate::store) sql: &'static str,
    /// The types of `$1`, `$2` and so on.
    pub(in crate::store) types: &'static [Type],
}

/// Statement parameters in the order of `$1`, `$2` and so on.
pub(in crate::store) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A transaction that sees one tenant's rows, until the deadline of the request it was opened for.
pub struct TenantTx {
    tx: Tx,
    /// What is marked when it commits, if its request is done once.
    claim: Option<Arc<Claim>>,
}

/// A transaction of the service role, which sees the rows of all tenants.
pub struct ServiceTx(Tx);

/// What both kinds of transactions can do.
pub struct Tx {
    /// `None` only once it was given away.
    connection: Option<Object>,
    state: State,
    begin: Begin,
    deadline: Option<Instant>,
    surroundings: Arc<Surroundings>,
    /// Where commits are noted, if there is a replica.
    notes: Option<WriteNotes>,
    /// What is asked if the replica fails, where it is asked.
    fallback: Option<Fallback>,
}

/// Whose commits a replica has to have before they read from it.
pub(super) struct WriteNotes {
    pub(super) replica: Arc<Replica>,
    pub(super) caller: (TenantId, Actor),
}

struct Fallback {
    primary: Arc<Pool>,
    replica: Arc<Replica>,
}

/// What has to be sent before the first statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begin {
    Tenant(TenantId),
    /// Each statement is a transaction of its own, committed once it is answered.
    TenantSingle(TenantId),
    /// The same for statements that only read.
    TenantRead(TenantId),
    /// Reads a single snapshot of the tenant's rows and writes nothing.
    TenantSnapshot(TenantId),
    Service,
    Snapshot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was sent, or everything was committed: the connection is as the pool gave it.
    Clean,
    /// Begun, and Postgres waits for the next statement.
    Open,
    /// Postgres works on a statement.
    Busy,
    /// COMMIT was sent and not answered.
    Committing,
    /// Postgres refused a statement and waits for a ROLLBACK.
    Refused,
    /// The connection is lost, or what it would say next is not known.
    Broken,
}

impl Begin {
    /// Whether each statement is a transaction of its own.
    fn is_single(self) -> bool {
        matches!(self, Self::TenantSingle(_) | Self::TenantRead(_))
    }

    fn sql(self) -> String {
        match self {
            // A UUID prints as hexadecimal digits and hyphens only, so it needs no quoting. In a simple query, SET LOCAL's
            // function form takes effect inside the transaction that the BEGIN before it has opened.
            Self::Tenant(tenant_id) | Self::TenantSingle(tenant_id) => {
                format!("BEGIN; SELECT set_config('tertulia.tenant_id', '{tenant_id}', true)")
            }
            Self::TenantRead(tenant_id) => {
                format!("BEGIN READ ONLY; SELECT set_config('tertulia.tenant_id', '{tenant_id}', true)")
            }
            Self::TenantSnapshot(tenant_id) => format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                 SELECT set_config('tertulia.tenant_id', '{tenant_id}', true)"
            ),
            Self::Service => "BEGIN".into(),
            // Many rows may be read, as fast as they are used; no limit but the one on idling fits that.
            Self::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0".into(),
        }
    }
}

impl TenantTx {
    /// `begin` is one of the tenant's.
    pub(super) fn new(connection: Object, begin: Begin, deadline: Instant, surroundings: Arc<Surroundings>) -> Self {
        Self { tx: Tx::new(connection, begin, Some(deadline), surroundings), claim: None }
    }

    /// For a request that is done once.
    pub(super) fn under(self, claim: Option<Arc<Claim>>) -> Self {
        Self { claim, ..self }
    }

    /// With its commits noted.
    pub(super) fn noting_writes(mut self, notes: Option<WriteNotes>) -> Self {
        self.tx.notes = notes;
        self
    }

    /// With `primary` to be asked where `replica`, on whose connection it is, fails.
    pub(super) fn falling_back(mut self, primary: Arc<Pool>, replica: Arc<Replica>) -> Self {
        self.tx.fallback = Some(Fallback { primary, replica });
        self
    }

    /// Makes what was written permanent. A transaction without a statement is no work at all.
    ///
    /// # Errors
    /// If a statement failed before, or COMMIT does. If the connection breaks or the deadline passes while COMMIT is
    /// under way, it is not known whether the transaction was committed. [`StoreError::Superseded`] if the request is done
    /// once, and its claim is another's: then nothing is committed.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        if let Some(claim) = self.claim.filter(|_| self.tx.state == State::Open) {
            idempotency_keys::commit(&mut self.tx, &claim).await?;
        }
        self.tx.commit().await
    }
}

impl ServiceTx {
    pub(super) fn new(connection: Object, surroundings: Arc<Surroundings>) -> Self {
        Self(Tx::new(connection, Begin::Service, None, surroundings))
    }

    /// One that reads a single snapshot of the database and writes nothing.
    pub(super) fn snapshot(connection: Object, surroundings: Arc<Surroundings>) -> Self {
        Self(Tx::new(connection, Begin::Snapshot, None, surroundings))
    }

    /// Makes what was written permanent. A transaction without a statement is no work at all.
    ///
    /// # Errors
    /// As [`TenantTx::commit`].
    pub async fn commit(self) -> Result<(), StoreError> {
        self.0.commit().await
    }
}

impl std::ops::Deref for TenantTx {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl DerefMut for TenantTx {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.tx
    }
}

impl std::ops::Deref for ServiceTx {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.0
    }
}

impl DerefMut for ServiceTx {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.0
    }
}

impl Tx {
    fn new(connection: Object, begin: Begin, deadline: Option<Instant>, surroundings: Arc<Surroundings>) -> Self {
        Self {
            connection: Some(connection),
            state: State::Clean,
            begin,
            deadline,
            surroundings,
            notes: None,
            fallback: None,
        }
    }

    /// All rows of `statement`.
    ///
    /// # Errors
    /// [`StoreError::Statement`] if Postgres refuses it, after which the transaction is of no more use;
    /// [`StoreError::Deadline`] if the deadline passes first.
    pub(in crate::store) async fn query(
        &mut self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.run(statement, params).await?.0)
    }

    /// The only row of `statement`, or none.
    ///
    /// # Errors
    /// As [`Tx::query`], and if there are several rows.
    pub(in crate::store) async fn query_opt(
        &mut self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Option<Row>, StoreError> {
        let mut rows = self.query(statement, params).await?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            count => Err(StoreError::RowCount { statement: statement.name, count }),
        }
    }

    /// The only row of `statement`.
    ///
    /// # Errors
    /// As [`Tx::query`], and if there is none or several.
    pub(in crate::store) async fn query_one(
        &mut self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Row, StoreError> {
        let row = self.query_opt(statement, params).await?;
        row.ok_or(StoreError::RowCount { statement: statement.name, count: 0 })
    }

    /// Runs `statement` and gives the number of rows that it touched.
    ///
    /// # Errors
    /// As [`Tx::query`].
    pub(in crate::store) async fn execute(
        &mut self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<u64, StoreError> {
        Ok(self.run(statement, params).await?.1)
    }

    /// The rows of `statement` and how many rows it touched, from the primary where the replica does not give them.
    async fn run(&mut self, statement: &Statement, params: Params<'_>) -> Result<(Vec<Row>, u64), StoreError> {
        let outcome = self.run_here(statement, params).await;
        let Err(error) = &outcome else { return outcome };
        let Some(Fallback { primary, replica }) = self.fallback.take() else { return outcome };
        // Each statement is alone and only reads, so it may be run again; a replica may refuse what the primary does not,
        // such as what it would have to keep for too long, or what it has not been told of yet.
        if self.state == State::Broken {
            replica.skip(error);
        }
        self.release();
        self.connection = Some(primary.get(self.deadline).await?);
        self.surroundings = primary.surroundings().clone();
        self.state = State::Clean;
        Box::pin(self.run_here(statement, params)).await
    }

    /// The same on the connection at hand. Sends BEGIN ahead of the statement where that is due.
    async fn run_here(&mut self, statement: &Statement, params: Params<'_>) -> Result<(Vec<Row>, u64), StoreError> {
        let name = statement.name;
        if params.len() != statement.types.len() {
            return Err(StoreError::ParameterCount { statement: name });
        }
        let is_first = match self.state {
            State::Clean => true,
            State::Open => false,
            _ => return Err(StoreError::Unusable { statement: name }),
        };
        let Some(connection) = &self.connection else { return Err(StoreError::Unusable { statement: name }) };
        self.state = State::Busy;
        let sent_at = Instant::now();
        let typed = params.iter().copied().zip(statement.types.iter().cloned());
        let query = async {
            let mut answer = pin!(connection.query_typed_raw(statement.sql, typed).await?);
            let mut rows = Vec::new();
            while let Some(row) = answer.try_next().await? {
                rows.push(row);
            }
            Ok((rows, answer.rows_affected().unwrap_or(0)))
        };
        let mut position = None;
        let answered = async {
            if is_first {
                let sql = self.begin.sql();
                // They are polled in this order, and the first poll sends each, so the order on the wire is certain.
                let begin = connection.batch_execute(&sql);
                if self.begin.is_single() {
                    let commit = commit_on(connection, self.notes.is_some());
                    let (begun, rows, committed) = join3(begin, query, commit).await;
                    begun.and(rows).and_then(|rows| {
                        position = committed?;
                        Ok(rows)
                    })
                } else {
                    let (begun, rows) = join(begin, query).await;
                    begun.and(rows)
                }
            } else {
                query.await
            }
        };
        let deadline = match self.fallback {
            Some(_) => Some(self.deadline.map_or(sent_at + ANSWER_WAIT, |at| at.min(sent_at + ANSWER_WAIT))),
            None => self.deadline,
        };
        let outcome = within(deadline, answered).await?;
        self.surroundings.observe(name, sent_at.elapsed());
        match outcome {
            Ok(answer) => {
                self.state = if self.begin.is_single() { State::Clean } else { State::Open };
                self.note(position);
                Ok(answer)
            }
            Err(source) => Err(self.failed(name, source)),
        }
    }

    fn failed(&mut self, statement: &'static str, source: tokio_postgres::Error) -> StoreError {
        // Only an answer of Postgres to this very statement tells where the connection stands.
        self.state = if source.as_db_error().is_some() { State::Refused } else { State::Broken };
        StoreError::of_statement(statement, source)
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        match self.state {
            State::Clean => return Ok(()),
            State::Open => {}
            _ => return Err(StoreError::Unusable { statement: "commit" }),
        }
        let Some(connection) = &self.connection else { return Err(StoreError::Unusable { statement: "commit" }) };
        self.state = State::Committing;
        let sent_at = Instant::now();
        let outcome = within(self.deadline, commit_on(connection, self.notes.is_some())).await?;
        self.surroundings.observe("commit", sent_at.elapsed());
        match outcome {
            Ok(position) => {
                self.state = State::Clean;
                self.note(position);
                Ok(())
            }
            Err(source) => Err(self.failed("commit", source)),
        }
    }

    /// Notes what was committed, if the log's position then is known.
    fn note(&self, position: Option<u64>) {
        if let (Some(notes), Some(position)) = (&self.notes, position) {
            notes.replica.note_write(notes.caller, position);
        }
    }

    /// Gives its connection back or closes it.
    fn release(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match self.state {
            State::Clean => {}
            State::Open | State::Refused if !connection.is_closed() => {
                let connection = Unreturned(Some(connection));
                self.surroundings.runtime.spawn(connection.roll_back());
            }
            State::Busy if !connection.is_closed() => {
                let token = connection.cancel_token();
                let tls = self.surroundings.tls.clone();
                let connection = Object::take(connection);
                self.surroundings.runtime.spawn(async move {
                    // Closing the connection alone would not stop Postgres: it looks at the socket only when it writes.
                    if !matches!(tokio::time::timeout(CLEAN_UP_WAIT, token.cancel_query(tls)).await, Ok(Ok(()))) {
                        tracing::debug!("a statement could not be cancelled; statement_timeout ends it");
                    }
                    drop(connection);
                });
            }
            // A COMMIT under way is left to finish; its connection cannot tell any more how it went.
            State::Open | State::Refused | State::Busy | State::Committing | State::Broken => {
                drop(Object::take(connection));
            }
        }
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        self.release();
    }
}

/// Commits; with the log's position then, if that is asked for.
async fn commit_on(connection: &Client, tells_position: bool) -> Result<Option<u64>, tokio_postgres::Error> {
    if !tells_position {
        return connection.batch_execute("COMMIT").await.map(|()| None);
    }
    let messages = connection.simple_query(COMMIT_AND_TELL).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    }))
}

/// A connection that is closed rather than given back to its pool, unless it is proven clean: also where the runtime
/// drops the task that was to prove it.
struct Unreturned(Option<Object>);

impl Unreturned {
    async fn roll_back(mut self) {
        let Some(connection) = &self.0 else { return };
        // Answers come in order, so an answered ROLLBACK means that nothing else is left to come.
        if let Ok(Ok(())) = tokio::time::timeout(CLEAN_UP_WAIT, connection.batch_execute("ROLLBACK")).await {
            drop(self.0.take());
        }
    }
}

impl Drop for Unreturned {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, StoreError> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.map_err(|_| StoreError::Deadline),
        None => Ok(work.await),
    }
}
