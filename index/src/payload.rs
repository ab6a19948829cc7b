//! What a hit shows, compactly: strings that chunks share (titles, headings, metadata) are kept once in a segment.
//!
//! Invariant: ids ascend, so that a chunk is found by its id without a map, and neighbours in a segment are ordered as
//! ties between hits are.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    sections::{LoadError, SectionReader, SectionWriter},
    strings::{Interner, Strings},
};

/// In place of the number of a string that is not there.
const NO_STRING: u32 = u32::MAX;

/// The payload of one sealed segment; a document here is a chunk's number in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Payload {
    ids: Vec<[u8; 16]>,
    /// The number of the chunk's document in `document_ids` and `document_strings`.
    parents: Vec<u32>,
    ordinals: Vec<u32>,
    headings: Vec<u32>,
    metadata: Vec<u32>,
    contents: Strings,
    document_ids: Vec<[u8; 16]>,
    /// External id, title and source URL, by number in `strings`.
    document_strings: Vec<[u32; 3]>,
    strings: Strings,
}

/// What is told of a chunk that is found, borrowed from a chunk or a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The chunk's id.
    pub id: Uuid,
    /// The document that the chunk is a part of.
    pub document_id: Uuid,
    /// The caller's own name of the document.
    pub external_id: &'a str,
    /// The document's title.
    pub title: &'a str,
    /// Where people can read the document.
    pub source_url: Option<&'a str>,
    /// Headings that the chunk stands under, outermost first, joined by ` › `.
    pub heading: &'a str,
    /// Place among the document's chunks, from 0.
    pub ordinal: u32,
    /// The text.
    pub content: &'a str,
    /// The metadata, as the text of a JSON object.
    pub metadata_json: &'a str,
}

impl Payload {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The chunks' ids, ascending.
    pub(crate) fn ids(&self) -> &[[u8; 16]] {
        &self.ids
    }

    /// All of chunk `doc`. Panics past the end, as `ids` would.
    pub(crate) fn row(&self, doc: u32) -> Row<'_> {
        let at = doc as usize;
        let parent = self.parents[at] as usize;
        let [external_id, title, source_url] = self.document_strings[parent];
        Row {
            id: Uuid::from_bytes(self.ids[at]),
            document_id: Uuid::from_bytes(self.document_ids[parent]),
            external_id: self.strings.get(external_id),
            title: self.strings.get(title),
            source_url: (source_url != NO_STRING).then(|| self.strings.get(source_url)),
            heading: self.strings.get(self.headings[at]),
            ordinal: self.ordinals[at],
            content: self.contents.get(doc),
            metadata_json: self.strings.get(self.metadata[at]),
        }
    }

    /// Chunks of the documents that are `wanted`, ascending: about 1 ns a chunk of the segment.
    pub(crate) fn chunks_of(&self, wanted: impl Fn(Uuid) -> bool) -> Vec<u32> {
        let is_wanted: Vec<bool> = self.document_ids.iter().map(|id| wanted(Uuid::from_bytes(*id))).collect();
        if !is_wanted.contains(&true) {
            return Vec::new();
        }
        (0..).zip(&self.parents).filter(|(_, parent)| is_wanted[**parent as usize]).map(|(doc, _)| doc).collect()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let numbers = [&self.parents, &self.ordinals, &self.headings, &self.metadata];
        self.ids.capacity() * size_of::<[u8; 16]>()
            + numbers.iter().map(|numbers| numbers.capacity() * size_of::<u32>()).sum::<usize>()
            + self.contents.memory_bytes()
            + self.document_ids.capacity() * size_of::<[u8; 16]>()
            + self.document_strings.capacity() * size_of::<[u32; 3]>()
            + self.strings.memory_bytes()
    }

    pub(crate) fn save<'a>(&'a self, out: &mut SectionWriter<'a>) {
        out.put(&self.ids);
        out.put(&self.parents);
        out.put(&self.ordinals);
        out.put(&self.headings);
        out.put(&self.metadata);
        self.contents.save(out);
        out.put(&self.document_ids);
        out.put(&self.document_strings);
        self.strings.save(out);
    }

    pub(crate) fn load(from: &mut SectionReader<'_>) -> Result<Self, LoadError> {
        let payload = Self {
            ids: from.take()?,
            parents: from.take()?,
            ordinals: from.take()?,
            headings: from.take()?,
            metadata: from.take()?,
            contents: Strings::load(from)?,
            document_ids: from.take()?,
            document_strings: from.take()?,
            strings: Strings::load(from)?,
        };
        if payload.is_sound() { Ok(payload) } else { Err(LoadError::Damaged("payload does not fit together")) }
    }

    /// Whether ids ascend and every number points at something that is there.
    fn is_sound(&self) -> bool {
        let chunks = self.ids.len();
        let all_below = |numbers: &[u32], bound: usize| numbers.iter().all(|number| (*number as usize) < bound);
        self.ids.is_sorted_by(|left, right| left < right)
            && [&self.parents, &self.ordinals, &self.headings, &self.metadata].iter().all(|rows| rows.len() == chunks)
            && self.contents.len() == chunks
            && self.document_ids.len() == self.document_strings.len()
            && all_below(&self.parents, self.document_ids.len())
            && all_below(&self.headings, self.strings.len())
            && all_below(&self.metadata, self.strings.len())
            && self.document_strings.iter().all(|[external_id, title, source_url]| {
                all_below(&[*external_id, *title], self.strings.len())
                    && (*source_url == NO_STRING || all_below(&[*source_url], self.strings.len()))
            })
    }
}

/// Collects the payload of a segment, in the order of ids.
#[derive(Default)]
pub(crate) struct PayloadBuilder<'a> {
    payload: Payload,
    strings: Interner<'a>,
    documents: HashMap<(Uuid, [u32; 3]), u32, foldhash::fast::RandomState>,
}

impl<'a> PayloadBuilder<'a> {
    /// Adds a chunk, whose id is past those added before.
    pub(crate) fn push(&mut self, row: Row<'a>) {
        let payload = &mut self.payload;
        debug_assert!(payload.ids.last().is_none_or(|last| last < row.id.as_bytes()));
        let source_url = row.source_url.map_or(NO_STRING, |url| self.strings.number(url));
        let document_strings = [self.strings.number(row.external_id), self.strings.number(row.title), source_url];
        let parent = *self.documents.entry((row.document_id, document_strings)).or_insert_with(|| {
            payload.document_ids.push(*row.document_id.as_bytes());
            payload.document_strings.push(document_strings);
            payload.document_ids.len() as u32 - 1
        });
        payload.ids.push(*row.id.as_bytes());
        payload.parents.push(parent);
        payload.ordinals.push(row.ordinal);
        payload.headings.push(self.strings.number(row.heading));
        payload.metadata.push(self.strings.number(row.metadata_json));
        payload.contents.push(row.content);
    }

    pub(crate) fn finish(self) -> Payload {
        let mut payload = Payload { strings: self.strings.finish(), ..self.payload };
        payload.ids.shrink_to_fit();
        payload.parents.shrink_to_fit();
        payload.ordinals.shrink_to_fit();
        payload.headings.shrink_to_fit();
        payload.metadata.shrink_to_fit();
        payload.contents.shrink_to_fit();
        payload.document_ids.shrink_to_fit();
        payload.document_strings.shrink_to_fit();
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_put_in() {
        let shared = "a title that two chunks share";
        let row = |id: u128, document_id: u128, source_url, ordinal| Row {
            id: Uuid::from_u128(id),
            document_id: Uuid::from_u128(document_id),
            external_id: "guide/start",
            title: shared,
            source_url,
            heading: "Start › Install",
            ordinal,
            content: "text – with a dash",
            metadata_json: r#"{"lang":"en"}"#,
        };
        let rows = [row(3, 1, Some("https://x.test/"), 0), row(7, 1, Some("https://x.test/"), 1), row(9, 2, None, 0)];
        let mut builder = PayloadBuilder::default();
        rows.iter().for_each(|row| builder.push(*row));
        let payload = builder.finish();
        assert_eq!((0..3).map(|doc| payload.row(doc)).collect::<Vec<_>>(), rows);
        assert_eq!(payload.document_ids.len(), 2);
        assert_eq!(payload.chunks_of(|id| id == Uuid::from_u128(1)), [0, 1]);
        assert_eq!(payload.chunks_of(|_| false), [0_u32; 0]);
        assert_eq!(payload.strings.len(), 5, "each string is kept once");
        assert_eq!(payload.ids(), [3_u128, 7, 9].map(u128::to_be_bytes));
        assert!(payload.is_sound());
    }

    #[test]
    fn numbers_that_point_nowhere_are_noticed() {
        let sound = Payload {
            ids: vec![[1; 16]],
            parents: vec![0],
            ordinals: vec![0],
            headings: vec![0],
            metadata: vec![0],
            contents: Strings::of(&["c"]),
            document_ids: vec![[2; 16]],
            document_strings: vec![[0, 0, NO_STRING]],
            strings: Strings::of(&["s"]),
        };
        assert!(sound.is_sound());
        assert!(!Payload { parents: vec![1], ..sound.clone() }.is_sound());
        assert!(!Payload { metadata: vec![7], ..sound.clone() }.is_sound());
        assert!(!Payload { ordinals: vec![], ..sound.clone() }.is_sound());
        let twice = Payload {
            ids: vec![[1; 16]; 2],
            parents: vec![0; 2],
            ordinals: vec![0; 2],
            headings: vec![0; 2],
            metadata: vec![0; 2],
            contents: Strings::of(&["c", "c"]),
            ..sound
        };
        assert!(!twice.is_sound(), "the same id twice");
    }
}
