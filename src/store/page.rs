//! Pages of lists: from an offset, with a total, or after a cursor, which costs the same at any depth.
//!
//! A cursor is the key of the last row of a page. Clients get it as opaque text with a checksum, so that one that was
//! typed or cut is told from one that was given; it is no secret and opens nothing, because the tenant and the list come
//! from the request.

use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    StoreError,
    row::Reader,
    tx::{Statement, TenantTx},
};

/// Version of the text form; cursors of another are not understood.
const FORMAT: &[u8] = b"tertulia cursor 1";
const CHECKSUM_BYTES: usize = 8;
/// Longest text that is looked at: the longest external id in hexadecimal, with room for the rest.
const TEXT_BYTES_MAX: usize = 4_096;

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Items at most.
    pub limit: u64,
    /// Where the page starts.
    pub start: Start,
}

/// Where a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// So many items into the list; the page comes with the list's total.
    Offset(u64),
    /// After the row that the cursor names.
    After(Cursor),
}

/// The key of a row in the order of its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(Key);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// Newest first.
    KnowledgeBase(OffsetDateTime, Uuid),
    /// By external id.
    Document(String),
    /// By ordinal.
    Chunk(u32),
    /// Newest first.
    Widget(OffsetDateTime, Uuid),
    /// By start, the latest first.
    Meeting(OffsetDateTime, Uuid),
    /// By id.
    Participant(Uuid),
    /// Newest first.
    Session(OffsetDateTime, Uuid),
    /// By number, largest first.
    MessageBefore(u64),
    /// By number.
    MessageAfter(u64),
    /// Of all sessions, newest first.
    FoundMessage(OffsetDateTime, Uuid),
    /// Newest first.
    User(OffsetDateTime, Uuid),
    /// Newest first.
    ApiAccess(OffsetDateTime, Uuid),
}

impl Key {
    /// The time and id of a row of a list that is newest first.
    fn newest(&self) -> Option<(OffsetDateTime, Uuid)> {
        match self {
            Self::KnowledgeBase(at, id)
            | Self::Widget(at, id)
            | Self::Meeting(at, id)
            | Self::Session(at, id)
            | Self::FoundMessage(at, id)
            | Self::User(at, id)
            | Self::ApiAccess(at, id) => Some((*at, *id)),
            Self::Document(_)
            | Self::Chunk(_)
            | Self::Participant(_)
            | Self::MessageBefore(_)
            | Self::MessageAfter(_) => None,
        }
    }
}

/// Sorts before every row of a list that is newest first.
const BEFORE_ALL: (OffsetDateTime, Uuid) = (PrimitiveDateTime::MAX.assume_utc(), Uuid::max());

/// A part of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// How many items the list has, if the page was asked for by offset.
    pub total: Option<u64>,
    /// The cursor of the next page; none on the last.
    pub next_cursor: Option<String>,
}

impl Start {
    /// After the row that `cursor` names; none if it is not a cursor that [`Page::next_cursor`] gave.
    pub fn after_cursor(cursor: &str) -> Option<Self> {
        Cursor::parse(cursor).map(Self::After)
    }

    /// Rows to skip.
    pub(super) fn offset(&self) -> i64 {
        match self {
            Self::Offset(offset) => i64::try_from(*offset).unwrap_or(i64::MAX),
            Self::After(_) => 0,
        }
    }

    /// What `key` makes of the cursor's key; none if there is no cursor.
    ///
    /// # Errors
    /// [`StoreError::ForeignCursor`] if `key` makes nothing of it, because the cursor is another list's.
    pub(super) fn key<T>(&self, key: impl FnOnce(&Key) -> Option<T>) -> Result<Option<T>, StoreError> {
        match self {
            Self::Offset(_) => Ok(None),
            Self::After(Cursor(cursor)) => key(cursor).map(Some).ok_or(StoreError::ForeignCursor),
        }
    }
}

impl Start {
    /// The time and id of the row behind which a page of a list begins that is newest first and has keys of that `kind`.
    ///
    /// # Errors
    /// [`StoreError::ForeignCursor`] if the cursor is another list's.
    pub(super) fn newest(&self, kind: fn(OffsetDateTime, Uuid) -> Key) -> Result<(OffsetDateTime, Uuid), StoreError> {
        let behind = self.key(|key| key.newest().filter(|(at, id)| kind(*at, *id) == *key))?;
        Ok(behind.unwrap_or(BEFORE_ALL))
    }
}

impl PageRequest {
    /// A page of what `list` gives of all that the tenant has, newest first, and `count` counts. `place` is the time and id of
    /// a row by which the list is ordered.
    pub(super) async fn newest<T>(
        &self,
        tx: &mut TenantTx,
        [list, count]: [&'static Statement; 2],
        kind: fn(OffsetDateTime, Uuid) -> Key,
        read: impl Fn(&'static Statement, &Row) -> Result<T, StoreError>,
        place: impl Fn(&T) -> (OffsetDateTime, Uuid),
    ) -> Result<Page<T>, StoreError> {
        let (at, id) = self.start.newest(kind)?;
        let rows = tx.query(list, &[&at, &id, &self.start.offset(), &self.rows()]).await?;
        let items = rows.iter().map(|row| read(list, row)).collect::<Result<_, _>>()?;
        let total = self.total(tx, count, &[]).await?;
        Ok(Page::of(self, items, total, |item| {
            let (at, id) = place(item);
            kind(at, id)
        }))
    }

    /// Rows to read: one more than wanted, which tells whether another page follows.
    pub(super) fn rows(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// The list's total, which `count` gives as its column `count`, if the page is asked for by offset.
    pub(super) async fn total(
        &self,
        tx: &mut TenantTx,
        count: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<u64>, StoreError> {
        match self.start {
            Start::Offset(_) => Reader::new(count, &tx.query_one(count, params).await?).count("count").map(Some),
            Start::After(_) => Ok(None),
        }
    }
}

impl<T> Page<T> {
    /// Of up to `request.rows()` items; `key` is the key of an item.
    pub(super) fn of(request: &PageRequest, mut items: Vec<T>, total: Option<u64>, key: impl Fn(&T) -> Key) -> Self {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let has_next = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| has_next);
        let next_cursor = last.map(|item| Cursor(key(item)).to_text());
        Self { items, total, next_cursor }
    }

    /// The same page of other items.
    pub fn map<U>(self, item: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(item).collect(), total: self.total, next_cursor: self.next_cursor }
    }
}

impl Cursor {
    fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        match &self.0 {
            Key::KnowledgeBase(created_at, id) => push_time_and_id(&mut bytes, b'b', created_at, id),
            Key::Widget(created_at, id) => push_time_and_id(&mut bytes, b'w', created_at, id),
            Key::Meeting(starts_at, id) => push_time_and_id(&mut bytes, b'e', starts_at, id),
            Key::Participant(id) => {
                bytes.push(b'p');
                bytes.extend(id.as_bytes());
            }
            Key::Session(created_at, id) => push_time_and_id(&mut bytes, b's', created_at, id),
            Key::FoundMessage(timestamp, id) => push_time_and_id(&mut bytes, b'f', timestamp, id),
            Key::User(created_at, id) => push_time_and_id(&mut bytes, b'u', created_at, id),
            Key::ApiAccess(created_at, id) => push_time_and_id(&mut bytes, b'k', created_at, id),
            Key::Document(external_id) => {
                bytes.push(b'd');
                bytes.extend(external_id.as_bytes());
            }
            Key::Chunk(ordinal) => {
                bytes.push(b'c');
                bytes.extend(ordinal.to_be_bytes());
            }
            Key::MessageBefore(seq) => {
                bytes.push(b'm');
                bytes.extend(seq.to_be_bytes());
            }
            Key::MessageAfter(seq) => {
                bytes.push(b'n');
                bytes.extend(seq.to_be_bytes());
            }
        }
        bytes.extend(checksum(&bytes));
        hex::encode(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let bytes = hex::decode(text).ok()?;
        let (bytes, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if *sum != checksum(bytes) {
            return None;
        }
        let (kind, key) = bytes.split_first()?;
        let key = match kind {
            b'b' => time_and_id(key).map(|(created_at, id)| Key::KnowledgeBase(created_at, id))?,
            b'w' => time_and_id(key).map(|(created_at, id)| Key::Widget(created_at, id))?,
            b'e' => time_and_id(key).map(|(starts_at, id)| Key::Meeting(starts_at, id))?,
            b'p' => Key::Participant(Uuid::from_slice(key).ok()?),
            b's' => time_and_id(key).map(|(created_at, id)| Key::Session(created_at, id))?,
            b'f' => time_and_id(key).map(|(timestamp, id)| Key::FoundMessage(timestamp, id))?,
            b'u' => time_and_id(key).map(|(created_at, id)| Key::User(created_at, id))?,
            b'k' => time_and_id(key).map(|(created_at, id)| Key::ApiAccess(created_at, id))?,
            b'm' => Key::MessageBefore(seq(key)?),
            b'n' => Key::MessageAfter(seq(key)?),
            b'd' => Key::Document(std::str::from_utf8(key).ok().filter(|id| !id.contains('\0'))?.to_owned()),
            b'c' => Key::Chunk(u32::from_be_bytes(key.try_into().ok()?)),
            _ => return None,
        };
        Some(Self(key))
    }
}

fn push_time_and_id(bytes: &mut Vec<u8>, kind: u8, time: &OffsetDateTime, id: &Uuid) {
    bytes.push(kind);
    bytes.extend((time.unix_timestamp_nanos() / 1_000).to_be_bytes());
    bytes.extend(id.as_bytes());
}

fn time_and_id(key: &[u8]) -> Option<(OffsetDateTime, Uuid)> {
    let (micros, id) = key.split_first_chunk::<16>()?;
    let nanos = i128::from_be_bytes(*micros).checked_mul(1_000)?;
    Some((OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?, Uuid::from_slice(id).ok()?))
}

/// A number of a message, which is one that Postgres can hold.
fn seq(key: &[u8]) -> Option<u64> {
    let seq = u64::from_be_bytes(key.try_into().ok()?);
    i64::try_from(seq).is_ok().then_some(seq)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new().chain_update(FORMAT).chain_update(bytes).finalize();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [Key; 12] {
        let time = OffsetDateTime::from_unix_timestamp_nanos(1_764_000_000_123_456_000).unwrap();
        [
            Key::KnowledgeBase(time, Uuid::now_v7()),
            Key::Document("docs/straße.md".into()),
            Key::Chunk(u32::MAX),
            Key::Widget(time, Uuid::now_v7()),
            Key::Meeting(time, Uuid::now_v7()),
            Key::Participant(Uuid::now_v7()),
            Key::Session(time, Uuid::now_v7()),
            Key::MessageBefore(1),
            Key::MessageAfter(u64::MAX >> 1),
            Key::FoundMessage(time, Uuid::now_v7()),
            Key::User(time, Uuid::now_v7()),
            Key::ApiAccess(time, Uuid::now_v7()),
        ]
    }

    #[test]
    fn a_cursor_survives_its_trip_to_the_client() {
        for key in keys() {
            let cursor = Cursor(key);
            assert_eq!(Cursor::parse(&cursor.to_text()), Some(cursor));
        }
    }

    #[test]
    fn text_that_was_not_given_out_is_no_cursor() {
        for key in keys() {
            let text = Cursor(key).to_text();
            for at in 0..text.len() {
                let mut changed = text.clone().into_bytes();
                changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
                assert_eq!(Start::after_cursor(std::str::from_utf8(&changed).unwrap()), None, "{at} was changed");
            }
            assert_eq!(Start::after_cursor(&text[..text.len() - 2]), None);
            assert_eq!(Start::after_cursor(&format!("{text}00")), None);
            assert_eq!(Start::after_cursor(&text.to_uppercase()), None);
        }
        for bad in ["", "0", "zz", "é", &"0".repeat(10_000)] {
            assert_eq!(Start::after_cursor(bad), None);
        }
        // Well summed, but no key.
        for bad in [
            &b"x"[..],
            b"b",
            b"c1",
            b"d\xff",
            b"da\0b",
            b"m\xff\xff\xff\xff\xff\xff\xff\xff",
            &[b"b".as_slice(), &[0x7f; 32]].concat(),
        ] {
            let text = hex::encode([bad, &checksum(bad)].concat());
            assert_eq!(Start::after_cursor(&text), None, "{bad:?}");
        }
    }

    #[test]
    fn a_page_has_a_next_one_only_if_there_is_more() {
        let request = PageRequest { limit: 2, start: Start::Offset(0) };
        let page = |items: Vec<u32>| Page::of(&request, items, Some(9), |ordinal| Key::Chunk(*ordinal));
        assert_eq!(page(vec![1, 2]).next_cursor, None);
        let more = page(vec![1, 2, 3]);
        assert_eq!(more.items, [1, 2]);
        let next = Start::after_cursor(&more.next_cursor.unwrap()).unwrap();
        assert_eq!(next, Start::After(Cursor(Key::Chunk(2))));
        let foreign = next.key(|key| match key {
            Key::Document(external_id) => Some(external_id.clone()),
            _ => None,
        });
        assert!(matches!(foreign, Err(StoreError::ForeignCursor)));
    }
}
