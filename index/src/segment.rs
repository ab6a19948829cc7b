//! A sealed part of an index: chunks in the order of their ids, with everything that a search needs of them.
//!
//! A segment never changes. What is deleted in it is told by the view that holds it, and a merge builds another.

use std::{io, sync::OnceLock};

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    bits::Bits,
    chunk::Chunk,
    columns::{Columns, ColumnsBuilder},
    index::Settings,
    payload::{Payload, PayloadBuilder, Row},
    sections::{LoadError, Seal, SectionReader, SectionWriter},
    vectors::Vectors,
    words::{Words, WordsDoc},
};

/// Chunks with consecutive numbers from 0, called documents or `doc` within a segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) payload: Payload,
    pub(crate) columns: Columns,
    pub(crate) vectors: Vectors,
    pub(crate) words: Words,
    /// What the segment's file is named by; found out when it is first saved.
    seal: OnceLock<Seal>,
}

impl Segment {
    /// A segment of `chunks`, whose ids ascend. Embeddings have the settings' dimensions and a direction, see [`unit`].
    pub(crate) fn build(settings: &Settings, chunks: &[Chunk]) -> Self {
        let metadata_jsons: Vec<String> = chunks.iter().map(|chunk| to_json(&chunk.metadata)).collect();
        let mut payload = PayloadBuilder::default();
        let mut columns = ColumnsBuilder::default();
        let mut rows = Vec::with_capacity(chunks.len() * settings.dimensions);
        for (doc, (chunk, metadata_json)) in chunks.iter().zip(&metadata_jsons).enumerate() {
            payload.push(Row {
                id: chunk.id,
                document_id: chunk.document_id,
                external_id: &chunk.external_id,
                title: &chunk.title,
                source_url: chunk.source_url.as_deref(),
                heading: &chunk.heading,
                ordinal: chunk.ordinal,
                content: &chunk.content,
                metadata_json,
            });
            columns.add(doc as u32, &chunk.metadata);
            rows.extend(unit(&chunk.embedding).unwrap_or_default());
        }
        Self {
            words: Words::build(settings.analyzer, &words_docs(chunks)),
            vectors: Vectors::build(settings.dimensions, &rows).expect("embeddings were checked before they came here"),
            columns: columns.finish(chunks.len()),
            payload: payload.finish(),
            seal: OnceLock::new(),
        }
    }

    /// A segment of what is live in `sources`; an id is live in one of them at most. `None` if nothing is.
    pub(crate) fn merge(settings: &Settings, sources: &[(&Self, Option<&Bits>)]) -> Option<Self> {
        let mut places: Vec<(&[u8; 16], usize, u32)> = Vec::new();
        for (at, (source, live)) in sources.iter().enumerate() {
            let ids = source.payload.ids().iter().zip(0_u32..);
            places.extend(ids.filter(|(_, doc)| live.is_none_or(|live| live.get(*doc))).map(|(id, doc)| (id, at, doc)));
        }
        if places.is_empty() {
            return None;
        }
        places.sort_unstable();
        let mut payload = PayloadBuilder::default();
        let mut new_docs: Vec<Vec<Option<u32>>> = sources.iter().map(|(source, _)| vec![None; source.len()]).collect();
        for ((_, at, doc), new_doc) in places.iter().zip(0_u32..) {
            let (source, _) = sources[*at];
            payload.push(source.payload.row(*doc));
            new_docs[*at][*doc as usize] = Some(new_doc);
        }
        let mut columns = ColumnsBuilder::default();
        for ((source, _), new_docs) in sources.iter().zip(&new_docs) {
            columns.add_columns(&source.columns, new_docs);
        }
        let words: Vec<_> =
            sources.iter().zip(&new_docs).map(|((source, _), new_docs)| (&source.words, new_docs.as_slice())).collect();
        let vectors: Vec<&Vectors> = sources.iter().map(|(source, _)| &source.vectors).collect();
        Some(Self {
            words: Words::merge(&words, places.len()),
            vectors: Vectors::merge(settings.dimensions, &vectors, places.iter().map(|(_, at, doc)| (*at, *doc))),
            columns: columns.finish(places.len()),
            payload: payload.finish(),
            seal: OnceLock::new(),
        })
    }

    /// How many chunks there are, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }

    /// The numbers of those of `ids`, which ascend, that are here.
    pub(crate) fn find_all(&self, ids: &[Uuid]) -> Vec<u32> {
        let mut found = Vec::new();
        let mut from = 0;
        for id in ids {
            match self.payload.ids()[from..].binary_search(id.as_bytes()) {
                Ok(at) => {
                    found.push((from + at) as u32);
                    from += at + 1;
                }
                Err(at) => from += at,
            }
            if from == self.len() {
                break;
            }
        }
        found
    }

    /// What is searched for words in chunk `doc`.
    pub(crate) fn words_doc(&self, doc: u32) -> WordsDoc<'_> {
        let Row { title, heading, content, .. } = self.payload.row(doc);
        WordsDoc { title, heading, content }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.payload.memory_bytes()
            + self.columns.memory_bytes()
            + self.vectors.memory_bytes()
            + self.words.memory_bytes()
    }

    /// The sections of the segment's file.
    pub(crate) fn sections(&self) -> SectionWriter<'_> {
        let mut out = SectionWriter::default();
        self.payload.save(&mut out);
        self.columns.save(&mut out);
        self.vectors.save(&mut out);
        self.words.save(&mut out);
        out
    }

    /// What the segment's file is named by. Reads the whole segment the first time.
    pub(crate) fn seal(&self) -> Seal {
        *self.seal.get_or_init(|| self.sections().head().1)
    }

    /// Reads the segment of that seal from its file.
    pub(crate) fn load(settings: &Settings, file: &mut dyn io::Read, seal: Seal) -> Result<Self, LoadError> {
        let mut from = SectionReader::open(file, seal)?;
        let payload = Payload::load(&mut from)?;
        let columns = Columns::load(&mut from, payload.len())?;
        let vectors = Vectors::load(&mut from, settings.dimensions)?;
        let words = Words::load(&mut from)?;
        from.finish()?;
        if vectors.len() != payload.len() || words.len() != payload.len() {
            return Err(LoadError::Damaged("parts of a segment differ in length"));
        }
        Ok(Self { payload, columns, vectors, words, seal: OnceLock::from(seal) })
    }
}

/// `embedding` at unit length; `None` if it has no direction, that is, all components are zero or one is not finite.
pub(crate) fn unit(embedding: &[f32]) -> Option<Vec<f32>> {
    // In f64, no square of an f32 overflows or vanishes.
    let length = embedding.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    (length > 0.0 && length.is_finite())
        .then(|| embedding.iter().map(|value| (f64::from(*value) / length) as f32).collect())
}

fn words_docs(chunks: &[Chunk]) -> Vec<WordsDoc<'_>> {
    chunks
        .iter()
        .map(|chunk| WordsDoc { title: &chunk.title, heading: &chunk.heading, content: &chunk.content })
        .collect()
}

fn to_json(metadata: &Map<String, Value>) -> String {
    serde_json::to_string(metadata).expect("a map with string keys is JSON")
}
