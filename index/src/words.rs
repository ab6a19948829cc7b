//! One sealed segment's inverted index, and BM25 over many segments.
//!
//! Score: BM25 with fields weighted as if the words of the headings stood in the text twice (Robertson, Zaragoza and
//! Taylor, "Simple BM25 extension to multiple weighted fields", CIKM 2004): `Σ idf · tf / (tf + K)` with
//! `K = K1 · (1 - B + B · length / average length)`, `idf = ln(1 + (N - df + 0.5) / (df + 0.5))` as Lucene has it, and
//! `tf` and lengths summed over fields by weight. N, df and average count live documents of all segments, exactly, so a
//! score does not depend on how documents are spread over segments, nor on those that are gone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::FixedState;

use crate::analyze::Analyzer;
use crate::bits::{Best, Bits, Candidate};
use crate::kernels::{self, BLOCK};
use crate::sections::{LoadError, SectionReader, SectionWriter};
use crate::terms::{Cursor, Entry, Terms, TermsBuilder};

/// How soon more occurrences of a term stop to matter: the default of Lucene, and of Robertson and Zaragoza, "The
/// Probabilistic Relevance Framework", 2009, section 3.5.
const K1: f32 = 1.2;
/// How much a long text's occurrences count for less. Chunks are cut to much the same length, so it says less than the
/// usual 0.75 expects.
const B: f32 = 0.5;

// Weights of fields, whole numbers so that sums of them are exact. They and B are those that ranked best with the entries
// of the index of PostgreSQL's manual as questions and the sections that they point to as answers: better than a title
// that counts twice, headings that count once, the content alone, or a B of 0.75.
const TITLE_WEIGHT: u32 = 1;
const HEADING_WEIGHT: u32 = 2;
const CONTENT_WEIGHT: u32 = 1;

/// Documents that one segment can hold: a posting is a number of 32 bits, 24 of them the document.
pub(crate) const DOCS_MAX: usize = 1 << 24;
const FREQUENCY_BITS: u32 = 8;
/// More occurrences count as this many, at which a term's score is within 2 % of its limit for texts of usual length.
const FREQUENCY_MAX: u32 = (1 << FREQUENCY_BITS) - 1;

/// The searched text of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WordsDoc<'a> {
    pub(crate) title: &'a str,
    pub(crate) heading: &'a str,
    pub(crate) content: &'a str,
}

impl<'a> WordsDoc<'a> {
    /// What each field says, and its weight.
    pub(crate) fn fields(&self) -> [(&'a str, u32); 3] {
        [(self.title, TITLE_WEIGHT), (self.heading, HEADING_WEIGHT), (self.content, CONTENT_WEIGHT)]
    }
}

/// The words of a segment's documents: never changed once built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// Terms, and which postings are of each.
    terms: Terms,
    /// Document above, weighted frequency below, ascending by document for each term that is not among the common ones.
    postings: Vec<u32>,
    common: Common,
    /// `[docs]` weighted number of terms.
    lengths: Vec<u32>,
    /// A byte of the hash of each term of each document, as they follow each other, with [`FIELD_END`] behind each field:
    /// which documents may have a phrase, without a look at their text.
    trails: Vec<u8>,
    /// `[docs + 1]` where each document's part of `trails` starts.
    trail_starts: Vec<u32>,
}

impl Words {
    /// Indexes `docs`, numbered in their order, at most [`DOCS_MAX`].
    pub(crate) fn build(analyzer: Analyzer, docs: &[WordsDoc<'_>]) -> Self {
        assert!(docs.len() <= DOCS_MAX, "{} documents in a segment", docs.len());
        let mut known: HashMap<Box<str>, u32, FixedState> = HashMap::default();
        let mut entries: Vec<(u32, u32)> = Vec::new();
        let mut lengths = Vec::with_capacity(docs.len());
        let (mut trails, mut trail_starts) = (Vec::new(), Vec::with_capacity(docs.len() + 1));
        trail_starts.push(0);
        // Of the document at hand: weighted frequency by term, and which terms have one.
        let mut frequencies: Vec<u32> = Vec::new();
        let mut touched: Vec<u32> = Vec::new();
        for (doc, words) in docs.iter().enumerate() {
            let mut length = 0_u32;
            for (text, weight) in words.fields() {
                analyzer.terms(text, &mut |term| {
                    trails.push(trail_code(term));
                    length = length.saturating_add(weight);
                    let term = match known.get(term) {
                        Some(&term) => term,
                        None => {
                            let next = known.len() as u32;
                            known.insert(term.into(), next);
                            frequencies.push(0);
                            next
                        }
                    };
                    let frequency = &mut frequencies[term as usize];
                    if *frequency == 0 {
                        touched.push(term);
                    }
                    *frequency = frequency.saturating_add(weight);
                });
                trails.push(FIELD_END);
            }
            trail_starts.push(u32::try_from(trails.len()).expect("fewer terms than a segment's text has bytes"));
            for term in touched.drain(..) {
                let frequency = std::mem::take(&mut frequencies[term as usize]).min(FREQUENCY_MAX);
                entries.push((term, (doc as u32) << FREQUENCY_BITS | frequency));
            }
            lengths.push(length);
        }

        let mut counts = vec![0_usize; known.len()];
        entries.iter().for_each(|(term, _)| counts[*term as usize] += 1);
        let mut sorted: Vec<(Box<str>, u32)> = known.into_iter().collect();
        sorted.sort_unstable();
        // A counting sort by rank keeps documents in order.
        let (mut terms, mut common) = (TermsBuilder::default(), Common::default());
        // Of each term: the place of its next posting, or of its row.
        let (mut next, mut start) = (vec![Place::Posting(0); sorted.len()], 0);
        for (rank, (name, term)) in (0_u32..).zip(&sorted) {
            let count = counts[*term as usize];
            let is_common = Common::suits(count, docs.len());
            next[*term as usize] =
                if is_common { Place::Row(common.add_row(rank, count, docs.len())) } else { Place::Posting(start) };
            let postings = if is_common { 0 } else { count };
            terms.push(name.as_bytes(), postings);
            start += postings;
        }
        let mut postings = vec![0_u32; start];
        for (term, posting) in entries {
            match &mut next[term as usize] {
                Place::Row(row) => common.frequencies[*row + (posting >> FREQUENCY_BITS) as usize] = posting as u8,
                Place::Posting(at) => {
                    postings[*at] = posting;
                    *at += 1;
                }
            }
        }
        trails.shrink_to_fit();
        Self { terms: terms.finish(), postings, common, lengths, trails, trail_starts }
    }

    /// The documents of several segments as one: what [`Words::build`] gives for them, at a hundredth of its cost. For
    /// each source there is the new number of each of its documents, `None` for one that is left out; together they are
    /// the numbers from 0 to `len`, each once, and `len` is at most [`DOCS_MAX`].
    pub(crate) fn merge(sources: &[(&Self, &[Option<u32>])], len: usize) -> Self {
        assert!(len <= DOCS_MAX, "{len} documents in a segment");
        let mut lengths = vec![0_u32; len];
        let mut doc_trails: Vec<&[u8]> = vec![&[]; len];
        for (words, numbers) in sources {
            for (doc, number) in (0_u32..).zip(*numbers) {
                if let Some(number) = number {
                    lengths[*number as usize] = words.lengths[doc as usize];
                    doc_trails[*number as usize] = words.trail(doc);
                }
            }
        }
        let mut trails = Vec::with_capacity(doc_trails.iter().map(|trail| trail.len()).sum());
        let mut trail_starts = Vec::with_capacity(len + 1);
        trail_starts.push(0);
        for trail in doc_trails {
            trails.extend_from_slice(trail);
            trail_starts.push(u32::try_from(trails.len()).expect("sizes of what is merged were summed before"));
        }

        let mut walks: Vec<(Cursor<'_>, &Self, &[Option<u32>])> =
            sources.iter().map(|(words, numbers)| (words.terms.cursor(), *words, *numbers)).collect();
        walks.retain_mut(|(cursor, ..)| cursor.advance());
        let (mut terms, mut common) = (TermsBuilder::default(), Common::default());
        let mut postings: Vec<u32> = Vec::with_capacity(sources.iter().map(|(words, _)| words.postings.len()).sum());
        let (mut name, mut rank) = (Vec::new(), 0);
        while let Some(least) = walks.iter().map(|(cursor, ..)| cursor.name()).min() {
            name.clear();
            name.extend_from_slice(least);
            let before = postings.len();
            walks.retain_mut(|(cursor, words, numbers)| {
                if cursor.name() != name {
                    return true;
                }
                words.list_of(&cursor.entry()).each(|posting| {
                    let number = numbers[(posting >> FREQUENCY_BITS) as usize];
                    postings.extend(number.map(|number| number << FREQUENCY_BITS | posting & FREQUENCY_MAX));
                });
                cursor.advance()
            });
            let count = postings.len() - before;
            if count == 0 {
                continue;
            }
            if Common::suits(count, len) {
                let row = common.add_row(rank, count, len);
                for posting in postings.drain(before..) {
                    common.frequencies[row + (posting >> FREQUENCY_BITS) as usize] = posting as u8;
                }
            } else if !postings[before..].is_sorted() {
                // Sources may interleave, though they seldom do.
                postings[before..].sort_unstable();
            }
            terms.push(&name, postings.len() - before);
            rank += 1;
        }
        common.frequencies.shrink_to_fit();
        postings.shrink_to_fit();
        Self { terms: terms.finish(), postings, common, lengths, trails, trail_starts }
    }

    /// How many documents there are.
    pub(crate) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Bytes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        let Self { terms, postings, common, lengths, trails, trail_starts } = self;
        let numbers = [postings, &common.terms, &common.counts, lengths, trail_starts];
        terms.memory_bytes()
            + trails.capacity()
            + common.frequencies.capacity()
            + numbers.iter().map(|numbers| numbers.capacity() * size_of::<u32>()).sum::<usize>()
    }

    /// Bytes of distinct terms, postings, and terms as they follow each other: none may be more than `u32` counts in one
    /// segment.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.terms.text_bytes_max(), self.postings.len(), self.trails.len()]
    }

    pub(crate) fn save<'a>(&'a self, out: &mut SectionWriter<'a>) {
        self.terms.save(out);
        out.put(&self.postings);
        out.put(&self.common.terms);
        out.put(&self.common.frequencies);
        out.put(&self.lengths);
        out.put(&self.trails);
        out.put(&self.trail_starts);
    }

    /// Takes back what [`Words::save`] put, about 2 ns a posting and 50 ns a term; refuses whatever a search could
    /// stumble over.
    pub(crate) fn load(from: &mut SectionReader<'_>) -> Result<Self, LoadError> {
        let check = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(LoadError::Damaged(what)) };
        let (terms, count) = Terms::load(from)?;
        let (postings, common_terms): (Vec<u32>, Vec<u32>) = (from.take()?, from.take()?);
        let (frequencies, lengths): (Vec<u8>, Vec<u32>) = (from.take()?, from.take()?);
        let (trails, trail_starts): (Vec<u8>, Vec<u32>) = (from.take()?, from.take()?);
        check(lengths.len() <= DOCS_MAX, "too many documents")?;
        check(trail_starts.len() == lengths.len() + 1, "documents and their trails differ in number")?;
        check(starts_of(&trail_starts, trails.len()), "trails overlap or leave gaps")?;
        check(count == postings.len(), "terms have other postings than there are")?;
        let size = common_terms.len().checked_mul(lengths.len());
        check(size == Some(frequencies.len()), "common terms and their rows differ in number")?;
        let rows = frequencies.chunks_exact(lengths.len().max(1));
        let counts = rows.map(|row| row.iter().filter(|frequency| **frequency > 0).count() as u32).collect();
        let common = Common { terms: common_terms, counts, frequencies };
        let words = Self { terms, postings, common, lengths, trails, trail_starts };
        let mut cursor = words.terms.cursor();
        let mut common = words.common.terms.iter().zip(&words.common.counts).peekable();
        while cursor.advance() {
            let Entry { term, postings } = cursor.entry();
            if let Some((_, count)) = common.next_if(|(common, _)| **common == term) {
                check(postings.is_empty(), "a common term has postings")?;
                check(Common::suits(*count as usize, words.len()), "a common term is rare")?;
                continue;
            }
            let postings = &words.postings[postings];
            let last = postings.last().map_or(usize::MAX, |last| (last >> FREQUENCY_BITS) as usize);
            check(last < words.len(), "a posting of no document")?;
            check(postings.iter().all(|posting| posting & FREQUENCY_MAX > 0), "a posting of no occurrence")?;
            let ascend = postings.windows(2).all(|pair| pair[0] >> FREQUENCY_BITS < pair[1] >> FREQUENCY_BITS);
            check(ascend, "postings are out of order")?;
        }
        check(common.peek().is_none(), "common terms are out of order, or no terms")?;
        drop(cursor);
        Ok(words)
    }

    /// The documents that have every one of `terms`, at least one, and are `within`; ascending. Costs about what the
    /// rarest term has postings, not the others.
    pub(crate) fn docs_with_all(&self, terms: &[&str], within: Option<&Bits>) -> Vec<u32> {
        let mut lists: Vec<List<'_>> = terms.iter().map(|term| self.list(term)).collect();
        lists.sort_unstable_by_key(List::len);
        let Some((rarest, others)) = lists.split_first() else { return Vec::new() };
        let mut docs = Vec::with_capacity(rarest.len());
        rarest.each(|posting| docs.push(posting >> FREQUENCY_BITS));
        docs.retain(|doc| within.is_none_or(|within| within.get(*doc)));
        for list in others {
            if docs.len() < list.len() / list.look_up_cost() {
                let mut rest = *list;
                docs.retain(|doc| rest.look_up(*doc).is_some());
            } else {
                let mut with = Bits::zeros(self.len());
                list.each(|posting| _ = with.set(posting >> FREQUENCY_BITS, true));
                docs.retain(|doc| with.get(*doc));
            }
        }
        docs
    }

    /// Whether the terms of these codes may stand one right after the other in a field of a document; true if they do,
    /// and for one document in some hundred if not. At least one code.
    pub(crate) fn may_have(&self, doc: u32, codes: &[u8]) -> bool {
        let trail = self.trail(doc);
        match *codes {
            [first, second, ref rest @ ..] => {
                // All of them at once: few documents have a pair.
                let pairs = trail.iter().zip(trail.get(1..).unwrap_or_default());
                pairs.fold(false, |any, pair| any | ((*pair.0 == first) & (*pair.1 == second)))
                    && (rest.is_empty() || trail.windows(codes.len()).any(|window| window == codes))
            }
            _ => trail.windows(codes.len()).any(|window| window == codes),
        }
    }

    fn trail(&self, doc: u32) -> &[u8] {
        let at = doc as usize;
        &self.trails[self.trail_starts[at] as usize..self.trail_starts[at + 1] as usize]
    }

    /// Where `term` is; nowhere if no document has it.
    fn list(&self, term: &str) -> List<'_> {
        self.terms.find(term.as_bytes()).map_or(List::Rare(&[]), |entry| self.list_of(&entry))
    }

    fn list_of(&self, entry: &Entry) -> List<'_> {
        match self.common.find(entry) {
            Some(row) => {
                let frequencies = &self.common.frequencies[row * self.len()..][..self.len()];
                List::Common { frequencies, count: self.common.counts[row] as usize }
            }
            None => List::Rare(&self.postings[entry.postings.clone()]),
        }
    }

    /// What `count` makes of each term's list.
    fn counted(&self, count: impl Fn(List<'_>) -> u32) -> Vec<u32> {
        let mut counted = Vec::with_capacity(self.terms.len() as usize);
        let mut cursor = self.terms.cursor();
        while cursor.advance() {
            counted.push(count(self.list_of(&cursor.entry())));
        }
        counted
    }

    /// Those of each of `terms` that is there.
    fn lists(&self, terms: &[String]) -> Vec<List<'_>> {
        terms.iter().map(|term| self.list(term)).filter(|list| list.len() > 0).collect()
    }
}

/// The terms that a good part of the documents has. A row of frequencies, most of them zero, takes no more memory than
/// postings would, and a document is found in it at once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Common {
    /// Their numbers, ascending. In [`Terms`] they have no postings, as no other term.
    terms: Vec<u32>,
    /// How many documents each has.
    counts: Vec<u32>,
    /// `[terms, docs]` weighted frequency, 0 where a document does not have the term.
    frequencies: Vec<u8>,
}

impl Common {
    /// Whether a term with `count` of `docs` documents is one of them: if a byte for each document is less than four for each
    /// posting, and the few more that a row takes.
    fn suits(count: usize, docs: usize) -> bool {
        4 * count > docs + 32
    }

    /// Adds a term that comes after those before. Returns where its row starts.
    fn add_row(&mut self, term: u32, count: usize, docs: usize) -> usize {
        self.terms.push(term);
        self.counts.push(count as u32);
        let start = self.frequencies.len();
        self.frequencies.resize(start + docs, 0);
        start
    }

    /// Which of them a term is, if it is.
    fn find(&self, entry: &Entry) -> Option<usize> {
        if entry.postings.is_empty() { self.terms.binary_search(&entry.term).ok() } else { None }
    }
}

/// Where something of a term goes while an index is built.
#[derive(Clone, Copy)]
enum Place {
    Posting(usize),
    Row(usize),
}

/// Which documents have a term, and how often.
#[derive(Debug, Clone, Copy)]
enum List<'a> {
    /// Postings, ascending.
    Rare(&'a [u32]),
    /// `[docs]` frequencies, of which so many are not 0.
    Common { frequencies: &'a [u8], count: usize },
}

impl List<'_> {
    /// How many documents.
    fn len(&self) -> usize {
        match self {
            Self::Rare(postings) => postings.len(),
            Self::Common { count, .. } => *count,
        }
    }

    /// Calls `found` with each posting, ascending.
    fn each(self, mut found: impl FnMut(u32)) {
        match self {
            Self::Rare(postings) => postings.iter().copied().for_each(found),
            Self::Common { frequencies, .. } => {
                for (doc, &frequency) in (0_u32..).zip(frequencies) {
                    if frequency > 0 {
                        found(doc << FREQUENCY_BITS | u32::from(frequency));
                    }
                }
            }
        }
    }

    /// The posting of `doc`, if there is one. Documents must be asked for in ascending order.
    fn look_up(&mut self, doc: u32) -> Option<u32> {
        match self {
            Self::Rare(postings) => look_up(postings, doc),
            Self::Common { frequencies, .. } => {
                let frequency = u32::from(frequencies[doc as usize]);
                (frequency > 0).then_some(doc << FREQUENCY_BITS | frequency)
            }
        }
    }

    /// How many postings are read in the time that it takes to look one up.
    fn look_up_cost(&self) -> usize {
        match self {
            Self::Rare(_) => 16,
            Self::Common { .. } => 2,
        }
    }

    /// How many postings are read in the time that it takes to look one up far from the one before.
    fn far_look_up_cost(&self) -> usize {
        match self {
            Self::Rare(_) => 100,
            Self::Common { .. } => 10,
        }
    }
}

/// What stands behind each field in a trail: no term's code.
const FIELD_END: u8 = 0;

/// What a term is in a trail; never [`FIELD_END`]. Snapshots hold it.
pub(crate) fn trail_code(term: &str) -> u8 {
    (xxhash_rust::xxh3::xxh3_64(term.as_bytes()) % 255) as u8 + 1
}

/// Whether `starts` go from 0 up to `end`, at least one of them.
fn starts_of(starts: &[u32], end: usize) -> bool {
    starts.first() == Some(&0) && starts.last().is_some_and(|&last| last as usize == end) && starts.is_sorted()
}

/// What of a segment's words still counts once documents are deleted: exactly what a segment of the live ones would
/// have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WordsLive {
    /// `[terms]` live documents with the term; as many as it has postings if `None`, where all documents are live.
    frequencies: Option<Vec<u32>>,
    docs: u32,
    /// Of all live documents together, weighted.
    length: u64,
}

impl WordsLive {
    /// All documents are live.
    pub(crate) fn all(words: &Words) -> Self {
        Self {
            frequencies: None,
            docs: words.len() as u32,
            length: words.lengths.iter().map(|&length| u64::from(length)).sum(),
        }
    }

    /// Counts the documents in `live` anew: about 1 ns a posting of the segment, however many are gone.
    pub(crate) fn recount(words: &Words, live: &Bits) -> Self {
        let count = |list: List<'_>| {
            let mut count = 0;
            list.each(|posting| count += u32::from(live.get(posting >> FREQUENCY_BITS)));
            count
        };
        Self {
            frequencies: Some(words.counted(count)),
            docs: live.count() as u32,
            length: live.iter_ones().map(|doc| u64::from(words.lengths[doc as usize])).sum(),
        }
    }

    /// Takes out a live document, whose text is read again: about 50 ns a word. Better than [`WordsLive::recount`] for
    /// few documents of a large segment. `analyzer` and `text` are those that it was indexed with.
    pub(crate) fn remove(&mut self, words: &Words, analyzer: Analyzer, doc: u32, text: &WordsDoc<'_>) {
        let mut terms: Vec<u32> = Vec::new();
        for (field, _) in text.fields() {
            analyzer.terms(field, &mut |term| terms.extend(words.terms.find(term.as_bytes()).map(|entry| entry.term)));
        }
        terms.sort_unstable();
        terms.dedup();
        let frequencies = self.frequencies.get_or_insert_with(|| words.counted(|list| list.len() as u32));
        for term in terms {
            let frequency = &mut frequencies[term as usize];
            *frequency = frequency.saturating_sub(1);
        }
        self.docs = self.docs.saturating_sub(1);
        self.length = self.length.saturating_sub(u64::from(words.lengths[doc as usize]));
    }

    /// Live documents with the term.
    fn frequency(&self, words: &Words, entry: &Entry) -> u64 {
        match &self.frequencies {
            Some(live) => u64::from(live[entry.term as usize]),
            None => words.list_of(entry).len() as u64,
        }
    }

    /// Bytes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.frequencies.as_ref().map_or(0, |frequencies| frequencies.capacity() * size_of::<u32>())
    }
}

/// A segment's words as one search sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WordsView<'a> {
    pub(crate) words: &'a Words,
    /// Counts of the documents that are not deleted, whether or not the search's filter keeps them.
    pub(crate) counts: &'a WordsLive,
    /// The documents that may be found, all of them if `None`: neither deleted nor filtered out.
    pub(crate) live: Option<&'a Bits>,
    /// The documents' chunk ids.
    pub(crate) ids: &'a [[u8; 16]],
}

/// What a search by words found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// Best first, ties by chunk id. Only documents with at least one of the question's terms; scores are above 0.
    pub(crate) candidates: Vec<Candidate>,
    /// What no score reaches: that of a document with each term of the question without end. A score divided by it says
    /// how much of the question a document covers, 0 to 1, and compares between questions.
    pub(crate) ceiling: f32,
    /// Distinct terms of the question.
    pub(crate) terms: usize,
    /// Postings that were scored.
    pub(crate) postings: u64,
}

/// A term of a question.
#[derive(Debug, Clone, Copy)]
struct Term {
    /// Where it is in the scratch's text.
    start: u32,
    end: u32,
    /// Inverse document frequency times occurrences in the question.
    weight: f32,
    /// Stands for all terms that begin so, as one.
    is_prefix: bool,
}

/// What a search needs of memory, kept by its thread.
#[derive(Default)]
struct Scratch {
    question: String,
    terms: Vec<Term>,
    scores: Scores,
    /// The only documents that still count, ascending, and their postings.
    contenders: Vec<u32>,
    chosen: Vec<u32>,
}

thread_local! {
    // Bound: twelve bytes for each document of the largest segment searched, for its score, and for its places among
    // contenders and chosen, where few documents are.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The `k` live documents of the highest BM25 score for `question`, exactly.
///
/// Terms are read from the rarest to the most common, about 2 ns a posting. Now and then those that are ahead are scored
/// to the end; once the `k`-th of them is out of reach for documents that have none of the terms so far (common words
/// weigh little), the rest is looked up for those alone that may still come in.
///
/// With `is_prefix`, the last word is one that is being typed; see [`Unfinished`].
pub(crate) fn search(
    analyzer: Analyzer,
    segments: &[WordsView<'_>],
    question: &str,
    is_prefix: bool,
    k: usize,
) -> Found {
    SCRATCH.with_borrow_mut(|scratch| search_with(scratch, analyzer, segments, question, is_prefix, k))
}

fn search_with(
    scratch: &mut Scratch,
    analyzer: Analyzer,
    segments: &[WordsView<'_>],
    question: &str,
    is_prefix: bool,
    k: usize,
) -> Found {
    let Scratch { question: text, terms, scores, contenders, chosen } = scratch;
    let docs: u64 = segments.iter().map(|segment| u64::from(segment.counts.docs)).sum();
    let length: u64 = segments.iter().map(|segment| segment.counts.length).sum();
    if docs == 0 || k == 0 {
        return Found::default();
    }
    let unfinished = question_terms(analyzer, question, is_prefix, text, terms);
    let unfinished = unfinished.as_ref().map(|(form, term)| Unfinished::find(analyzer, segments, form, term));
    for term in terms.iter_mut() {
        let name = &text[term.start as usize..term.end as usize];
        let frequency = match &unfinished {
            Some(unfinished) if term.is_prefix => unfinished.frequency,
            _ => segments.iter().map(|segment| segment.frequency(name)).sum(),
        };
        term.weight *= inverse_frequency(docs, frequency);
    }
    // One order for all segments, so that a sum does not depend on where a document is.
    let name = |term: &Term| &text[term.start as usize..term.end as usize];
    terms.sort_unstable_by(|left, right| {
        let by_name = || (name(left), left.is_prefix).cmp(&(name(right), right.is_prefix));
        right.weight.total_cmp(&left.weight).then_with(by_name)
    });

    let saturation = Saturation::of(docs, length);
    let mut found =
        Found { ceiling: terms.iter().map(|term| term.weight).sum(), terms: terms.len(), ..Found::default() };
    let mut best = Best::new(k);
    // However sums are rounded, no score is further from what it should be.
    let rounding = found.ceiling * (2 * terms.len() + 4) as f32 * f32::EPSILON;
    for (at, segment) in (0_u32..).zip(segments) {
        let len = segment.words.len();
        let lengths = &segment.words.lengths;
        scores.make_room(len);
        let lists: Vec<Postings<'_>> = terms
            .iter()
            .map(|term| match &unfinished {
                Some(unfinished) if term.is_prefix => Postings::Union(segment.words.lists(&unfinished.terms)),
                _ => Postings::One(segment.words.list(name(term))),
            })
            .collect();
        // The score that a document must have in the end to come in. Once it is known, there are contenders.
        let mut threshold = None;
        if let Some(live) = segment.live
            && live.count() < len / ALONE_COST
        {
            contenders.clear();
            contenders.extend(live.iter_ones());
            threshold = Some(0.0);
        }
        let mut rest = found.ceiling;
        // What the rest must be below to make it worth to look for contenders.
        let mut worth = found.ceiling * WORTH_SHARE;
        // Scores that so many documents have at least, so far and in the end.
        let (mut least_yet, mut least) = (best.threshold(), best.threshold());
        for (next, (term, postings)) in terms.iter().zip(&lists).enumerate() {
            let reach = rest + rounding;
            rest -= term.weight;
            if postings.len() == 0 {
                continue;
            }
            if let Some(threshold) = threshold {
                contenders.retain(|&doc| scores.of(doc) + reach >= threshold);
            } else if reach < worth {
                let left = &lists[next..];
                let left_len: usize = left.iter().map(Postings::len).sum();
                let lists = left.iter().flat_map(|postings| postings.lists());
                let look_ups: usize = lists.map(List::far_look_up_cost).sum();
                if len / SWEPT + k * look_ups < left_len {
                    let left = terms[next..].iter().zip(left);
                    (least_yet, least) = ahead(&best, scores, at, segment, left, saturation, least_yet);
                    worth = reach * WORTH_SHARE;
                    if least > reach {
                        // More than these are not worth to be looked up.
                        let limit = left_len / ALONE_COST;
                        contenders.clear();
                        scores.each_at_least(len, least - reach, segment.live, |doc, _| {
                            if contenders.len() <= limit {
                                contenders.push(doc);
                            }
                        });
                        threshold = (contenders.len() <= limit).then_some(least);
                    }
                }
            }
            let is_looked_up = threshold.is_some() && contenders.len() * postings.look_up_cost() <= postings.len();
            if is_looked_up {
                postings.of_docs(contenders, chosen);
                scores.add(chosen, lengths, term.weight, saturation);
                found.postings += chosen.len() as u64;
            } else {
                found.postings += postings.add_to(scores, lengths, term.weight, saturation);
            }
        }
        if threshold.is_some() {
            for &doc in contenders.iter().filter(|doc| scores.of(**doc) > 0.0) {
                best.offer(Candidate::new(at, doc, scores.of(doc), segment.ids));
            }
        } else {
            scores.sum_up(len);
            scores.offer(at, segment, &mut best, least - rounding);
        }
        scores.clear(len);
    }
    found.candidates = best.into_sorted();
    found
}

/// Scores that `k` documents have at least, so far and in the end, `best` being those of the segments before: what is
/// `left` of the question is looked up for those that are ahead so far. `least_yet` is what `k` are known to have so far.
fn ahead<'a>(
    best: &Best,
    scores: &mut Scores,
    at: u32,
    segment: &WordsView<'_>,
    left: impl Iterator<Item = (&'a Term, &'a Postings<'a>)>,
    saturation: Saturation,
    least_yet: f32,
) -> (f32, f32) {
    let mut ahead = best.clone();
    scores.sum_up(segment.words.len());
    scores.offer(at, segment, &mut ahead, least_yet);
    let least_yet = ahead.threshold();
    let mut ahead: Vec<Candidate> = ahead.into_sorted();
    ahead.retain(|candidate| candidate.segment == at);
    ahead.sort_unstable_by_key(|candidate| candidate.doc);
    let docs: Vec<u32> = ahead.iter().map(|candidate| candidate.doc).collect();
    let (mut chosen, mut parts) = (Vec::with_capacity(docs.len()), vec![0.0; docs.len()]);
    for (term, postings) in left {
        postings.of_docs(&docs, &mut chosen);
        let parts = &mut parts[..chosen.len()];
        saturation.parts(&chosen, &segment.words.lengths, term.weight, parts);
        let mut places = ahead.iter_mut();
        for (part, posting) in parts.iter().zip(&chosen) {
            let place = places.find(|candidate| candidate.doc == posting >> FREQUENCY_BITS);
            if let Some(candidate) = place {
                candidate.score += part;
            }
        }
    }
    let mut complete = best.clone();
    ahead.into_iter().for_each(|candidate| complete.offer(candidate));
    (least_yet, complete.threshold())
}

/// Where a segment's documents have a term, or any of several that count as one.
enum Postings<'a> {
    One(List<'a>),
    Union(Vec<List<'a>>),
}

impl<'a> Postings<'a> {
    fn lists(&self) -> &[List<'a>] {
        match self {
            Self::One(list) => std::slice::from_ref(list),
            Self::Union(lists) => lists,
        }
    }

    /// Of all lists together.
    fn len(&self) -> usize {
        self.lists().iter().map(List::len).sum()
    }

    /// How many postings are read in the time that it takes to look up those of a document.
    fn look_up_cost(&self) -> usize {
        self.lists().iter().map(List::look_up_cost).sum()
    }

    /// Adds a part of `weight` to the scores of all documents that have it; returns how many there are.
    fn add_to(&self, scores: &mut Scores, lengths: &[u32], weight: f32, saturation: Saturation) -> u64 {
        match self.lists() {
            [] => 0,
            [List::Rare(postings)] => {
                scores.add(postings, lengths, weight, saturation);
                postings.len() as u64
            }
            [List::Common { frequencies, count }] => {
                saturation.add(frequencies, lengths, weight, &mut scores.of[..lengths.len()]);
                *count as u64
            }
            lists => {
                // 65 terms at most, of 255 at most.
                let mut sums = vec![0_u16; lengths.len()];
                for list in lists {
                    list.each(|posting| sums[(posting >> FREQUENCY_BITS) as usize] += (posting & FREQUENCY_MAX) as u16);
                }
                let found = (0_u32..).zip(sums).filter(|(_, sum)| *sum > 0);
                let posting = |(doc, sum)| doc << FREQUENCY_BITS | u32::from(sum).min(FREQUENCY_MAX);
                let postings: Vec<u32> = found.map(posting).collect();
                scores.add(&postings, lengths, weight, saturation);
                postings.len() as u64
            }
        }
    }

    /// Puts those of `docs` in `chosen`; both ascend.
    fn of_docs(&self, docs: &[u32], chosen: &mut Vec<u32>) {
        chosen.clear();
        match self {
            Self::One(list) => {
                let mut rest = *list;
                chosen.extend(docs.iter().filter_map(|doc| rest.look_up(*doc)));
            }
            Self::Union(lists) => {
                chosen.extend(docs.iter().map(|doc| doc << FREQUENCY_BITS));
                for list in lists {
                    let mut rest = *list;
                    for sum in &mut *chosen {
                        let frequency = rest.look_up(*sum >> FREQUENCY_BITS).unwrap_or(0) & FREQUENCY_MAX;
                        *sum += frequency.min(FREQUENCY_MAX - (*sum & FREQUENCY_MAX));
                    }
                }
                chosen.retain(|sum| sum & FREQUENCY_MAX > 0);
            }
        }
    }
}

/// How many scores are looked through in the time that it takes to read a posting.
const SWEPT: usize = 32;
/// It is worth to look for contenders when less than this share of the question is left, and again when less than this
/// share of that is.
const WORTH_SHARE: f32 = 0.4;
/// How many documents are scored in the time that it takes to score one of them alone.
const ALONE_COST: usize = 16;

/// The posting of `doc`, if it is among `postings`, which ascend; leaves in `postings` what comes from there on.
fn look_up(postings: &mut &[u32], doc: u32) -> Option<u32> {
    let least = doc << FREQUENCY_BITS;
    // In steps that double, then in halves: near what was found before.
    let mut step = 1;
    while step < postings.len() && postings[step] < least {
        step *= 2;
    }
    let (from, to) = (step / 2, postings.len().min(step + 1));
    let at = from + postings[from..to].partition_point(|&posting| posting < least);
    *postings = &postings[at..];
    postings.first().copied().filter(|posting| posting >> FREQUENCY_BITS == doc)
}

/// Most terms that the last word of a question stands for.
const EXPANSIONS_MAX: usize = 64;
/// Fewest characters of a term that a longer word may stand for while it is typed.
const SHORTENED_CHARS_MIN: usize = 3;

/// The last word of a question, while it is typed: it stands for the terms that begin with it, of them the most frequent
/// ones, and for what it means as a whole word. They count as one term: a document has it as often as all of them
/// together, and so it is as frequent as all of them are, though not more than in every document.
///
/// A word may be longer than its stem is: `replicati` begins no term, where `replication` gives `replic`. So if a
/// language's word finds nothing, the longest term that it begins with stands in.
struct Unfinished {
    /// What it stands for.
    terms: Vec<String>,
    /// Live documents with each term, all together.
    frequency: u64,
}

impl Unfinished {
    /// `form`: as typed, in lower case. `term`: what the word is if it is whole.
    fn find(analyzer: Analyzer, segments: &[WordsView<'_>], form: &str, term: &str) -> Self {
        // Names one after the other in `names`; for each, where it stands, and live documents with it.
        let mut names: Vec<u8> = Vec::new();
        let mut known: Vec<(Range<usize>, u64)> = Vec::new();
        for segment in segments {
            segment.words.terms.each_with(form.as_bytes(), |name, entry| {
                let frequency = segment.counts.frequency(segment.words, &entry);
                if frequency > 0 {
                    known.push((names.len()..names.len() + name.len(), frequency));
                    names.extend_from_slice(name);
                }
            });
        }
        if segments.len() > 1 {
            // Each segment's are sorted already, which makes it quick.
            known.sort_by(|left, right| names[left.0.clone()].cmp(&names[right.0.clone()]));
            known.dedup_by(|again, first| {
                let same = names[again.0.clone()] == names[first.0.clone()];
                first.1 += if same { again.1 } else { 0 };
                same
            });
        }
        if known.len() > EXPANSIONS_MAX {
            // One letter begins thousands.
            known.select_nth_unstable_by(EXPANSIONS_MAX, |left, right| {
                right.1.cmp(&left.1).then_with(|| names[left.0.clone()].cmp(&names[right.0.clone()]))
            });
            known.truncate(EXPANSIONS_MAX);
        }
        let name = |place: Range<usize>| String::from_utf8_lossy(&names[place]).into_owned();
        let mut terms: Vec<String> = known.into_iter().map(|(place, _)| name(place)).collect();
        let is_known = |term: &str| segments.iter().any(|segment| segment.frequency(term) > 0);
        if !terms.iter().any(|known| known == term) && is_known(term) {
            terms.push(term.to_owned());
        }
        if terms.is_empty() && analyzer != Analyzer::Simple {
            let ends = form.char_indices().skip(SHORTENED_CHARS_MIN).map(|(end, _)| end);
            terms.extend(ends.map(|end| &form[..end]).filter(|term| is_known(term)).last().map(str::to_owned));
        }
        let frequency = |term: &String| segments.iter().map(|segment| segment.frequency(term)).sum::<u64>();
        Self { frequency: terms.iter().map(frequency).sum(), terms }
    }
}

impl WordsView<'_> {
    /// Live documents with the term.
    fn frequency(&self, term: &str) -> u64 {
        self.words.terms.find(term.as_bytes()).map_or(0, |entry| self.counts.frequency(self.words, &entry))
    }
}

/// Writes the distinct terms of a question, each with its number of occurrences as weight. With `is_prefix`, the last
/// word is not one of them; it comes back as it was typed and as the term that it gives, if there is one.
fn question_terms(
    analyzer: Analyzer,
    question: &str,
    is_prefix: bool,
    text: &mut String,
    terms: &mut Vec<Term>,
) -> Option<(String, String)> {
    text.clear();
    terms.clear();
    // Where the last word begins, in the question and among the terms: an identifier is first given whole.
    let (mut last, mut last_term, mut form) = (usize::MAX, 0, String::new());
    analyzer.words(question, &mut |word| {
        if is_prefix && word.start != last {
            (last, last_term) = (word.start, terms.len());
            form.clear();
            form.push_str(word.form);
        }
        let start = text.len() as u32;
        text.push_str(word.term);
        terms.push(Term { start, end: text.len() as u32, weight: 1.0, is_prefix: false });
    });
    let unfinished = (is_prefix && !terms.is_empty()).then(|| {
        let Term { start, end, .. } = terms[last_term];
        let whole = text[start as usize..end as usize].to_owned();
        let start = text.len() as u32;
        text.push_str(&form);
        terms[last_term] = Term { start, end: text.len() as u32, weight: 1.0, is_prefix: true };
        (form, whole)
    });
    let name = |term: &Term| (&text[term.start as usize..term.end as usize], term.is_prefix);
    terms.sort_unstable_by(|left, right| name(left).cmp(&name(right)));
    terms.dedup_by(|again, first| {
        let same = name(again) == name(first);
        first.weight += if same { again.weight } else { 0.0 };
        same
    });
    unfinished
}

/// `ln(1 + (N - df + 0.5) / (df + 0.5))`: above 0 even for a term that every document has.
fn inverse_frequency(docs: u64, frequency: u64) -> f32 {
    let (docs, frequency) = (docs as f64, frequency.min(docs) as f64);
    ((docs - frequency + 0.5) / (frequency + 0.5)).ln_1p() as f32
}

/// How a document's length and a term's frequency make a share of the term's weight: `tf / (tf + base + slope ·
/// length)`.
#[derive(Debug, Clone, Copy)]
struct Saturation {
    base: f32,
    slope: f32,
}

impl Saturation {
    fn of(docs: u64, length: u64) -> Self {
        let average = (length as f64 / docs as f64).max(1.0);
        Self { base: K1 * (1.0 - B), slope: (f64::from(K1 * B) / average) as f32 }
    }

    /// Adds to the score of each document the part of a term's weight that it has, by the term's frequency in it.
    fn add(self, frequencies: &[u8], lengths: &[u32], weight: f32, scores: &mut [f32]) {
        kernels::add_saturated(frequencies, lengths, weight, self.base, self.slope, scores);
    }

    /// Writes the part of a term's weight that each posting's document has.
    fn parts(self, postings: &[u32], lengths: &[u32], weight: f32, parts: &mut [f32]) {
        for (part, posting) in parts.iter_mut().zip(postings) {
            *part = lengths[(posting >> FREQUENCY_BITS) as usize] as f32;
        }
        kernels::saturate(postings, weight, self.base, self.slope, parts);
    }
}

/// Scores of a segment's documents, as terms add to them.
#[derive(Default)]
struct Scores {
    /// Score by document, 0 between searches.
    of: Vec<f32>,
    /// The highest of each [`BLOCK`] of them, when they were summed up.
    maxima: Vec<f32>,
}

impl Scores {
    fn make_room(&mut self, docs: usize) {
        if self.of.len() < docs {
            self.of.resize(docs, 0.0);
        }
    }

    fn of(&self, doc: u32) -> f32 {
        self.of[doc as usize]
    }

    /// Adds a term's part to the scores of the documents that have it.
    fn add(&mut self, postings: &[u32], lengths: &[u32], weight: f32, saturation: Saturation) {
        // In stretches, so that divisions are done many at a time.
        let mut parts = [0.0_f32; 128];
        for postings in postings.chunks(parts.len()) {
            let parts = &mut parts[..postings.len()];
            saturation.parts(postings, lengths, weight, parts);
            for (&part, &posting) in parts.iter().zip(postings) {
                self.of[(posting >> FREQUENCY_BITS) as usize] += part;
            }
        }
    }

    /// Takes in the scores of `docs` documents as they are now, for what follows.
    fn sum_up(&mut self, docs: usize) {
        self.maxima.resize(docs.div_ceil(BLOCK), 0.0);
        kernels::maxima_of(&self.of[..docs], &mut self.maxima);
    }

    /// Calls `found` with each live one of `docs` documents whose score, above 0, is at least `threshold`. Scores must have
    /// been summed up.
    fn each_at_least(&self, docs: usize, threshold: f32, live: Option<&Bits>, mut found: impl FnMut(u32, f32)) {
        kernels::each_at_least(&self.of[..docs], &self.maxima, threshold.max(f32::MIN_POSITIVE), |doc, score| {
            if live.is_none_or(|live| live.get(doc)) {
                found(doc, score);
            }
        });
    }

    /// Offers all live documents whose score is above 0 and at least `least`, and that could come in. Scores must have been
    /// summed up.
    fn offer(&self, at: u32, segment: &WordsView<'_>, best: &mut Best, least: f32) {
        let mut threshold = best.threshold().max(least);
        // As many documents as are kept have this score or a higher one.
        if segment.live.is_none()
            && let Some(reached) = kernels::nth_highest(&self.maxima, best.limit() - 1)
        {
            threshold = threshold.max(reached);
        }
        self.each_at_least(segment.words.len(), threshold, segment.live, |doc, score| {
            if score >= best.threshold() {
                best.offer(Candidate::new(at, doc, score, segment.ids));
            }
        });
    }

    fn clear(&mut self, docs: usize) {
        self.of[..docs].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};

    use super::*;

    const ANALYZER: Analyzer = Analyzer::English;

    type Text = [String; 3];

    fn doc(text: &Text) -> WordsDoc<'_> {
        WordsDoc { title: &text[0], heading: &text[1], content: &text[2] }
    }

    fn build(texts: &[Text]) -> Words {
        Words::build(ANALYZER, &texts.iter().map(doc).collect::<Vec<_>>())
    }

    /// Ids of any segment's documents. They run against the order of documents.
    fn ids() -> Vec<[u8; 16]> {
        (0..3_000_u128).rev().map(u128::to_be_bytes).collect()
    }

    /// What comes back of a snapshot.
    fn saved_and_loaded(words: &Words) -> Result<Words, LoadError> {
        let mut out = SectionWriter::default();
        words.save(&mut out);
        loaded(&out)
    }

    fn loaded(out: &SectionWriter<'_>) -> Result<Words, LoadError> {
        let (head, seal) = out.head();
        let mut file = Vec::new();
        out.write_to(&head, &mut file).unwrap();
        let mut file = file.as_slice();
        Words::load(&mut SectionReader::open(&mut file, seal).unwrap())
    }

    /// A segment as a test knows it: texts, which are not deleted, which a filter keeps.
    struct Segment {
        texts: Vec<Text>,
        alive: Bits,
        kept: Option<Bits>,
    }

    /// BM25 as the page has it, over maps: live documents only, one after the other, every term of the question.
    fn plain(segments: &[Segment], question: &str, is_prefix: bool, k: usize) -> Vec<Candidate> {
        struct Doc {
            segment: u32,
            doc: u32,
            kept: bool,
            length: u32,
            frequencies: BTreeMap<String, u32>,
        }
        let mut docs = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            for number in segment.alive.iter_ones() {
                let mut frequencies = BTreeMap::new();
                let mut length = 0;
                for (text, weight) in
                    segment.texts[number as usize].iter().zip([TITLE_WEIGHT, HEADING_WEIGHT, CONTENT_WEIGHT])
                {
                    ANALYZER.terms(text, &mut |term| {
                        *frequencies.entry(term.to_owned()).or_insert(0) += weight;
                        length += weight;
                    });
                }
                let kept = segment.kept.as_ref().is_none_or(|kept| kept.get(number));
                docs.push(Doc { segment: at as u32, doc: number, kept, length, frequencies });
            }
        }
        let count = docs.len() as u64;
        let average = (docs.iter().map(|doc| u64::from(doc.length)).sum::<u64>() as f64 / count as f64).max(1.0);
        let mut asked = Vec::new();
        ANALYZER.terms(question, &mut |term| asked.push(term.to_owned()));
        let mut unfinished = None;
        if is_prefix && let Some(last) = question.split(' ').next_back().filter(|last| !last.is_empty()) {
            // The whole identifier is the first of its terms.
            let terms_of = |analyzer: Analyzer, text: &str| {
                let mut terms = Vec::new();
                analyzer.terms(text, &mut |term| terms.push(term.to_owned()));
                terms
            };
            let form = terms_of(Analyzer::Simple, last)[0].clone();
            let whole_at = asked.len() - terms_of(ANALYZER, last).len();
            let mut known = BTreeMap::new();
            docs.iter()
                .flat_map(|doc| doc.frequencies.keys())
                .for_each(|term| *known.entry(term.clone()).or_insert(0) += 1);
            let mut expanded: Vec<_> = known.iter().filter(|(term, _)| term.starts_with(&form)).collect();
            expanded.sort_by_key(|(term, count)| (-**count, *term));
            let mut expanded: Vec<String> =
                expanded.into_iter().map(|(term, _)| term.clone()).take(EXPANSIONS_MAX).collect();
            if !expanded.contains(&asked[whole_at]) && known.contains_key(&asked[whole_at]) {
                expanded.push(asked[whole_at].clone());
            }
            if expanded.is_empty() {
                let shorter = (3..form.len()).rev().map(|end| form[..end].to_owned());
                expanded.extend(shorter.into_iter().find(|term| known.contains_key(term)));
            }
            let together = expanded.iter().map(|term| known.get(term).copied().unwrap_or(0)).sum::<i64>();
            unfinished = Some((form.clone() + "\u{1}", together as f64));
            // A term of its own, right behind the one of that name.
            asked[whole_at] = form + "\u{1}";
            for doc in &mut docs {
                let frequencies = expanded.iter().filter_map(|term| doc.frequencies.get(term));
                let sum = frequencies.map(|frequency| *frequency.min(&FREQUENCY_MAX)).sum::<u32>();
                if sum > 0 {
                    doc.frequencies.insert(asked[whole_at].clone(), sum);
                }
            }
        }
        let mut terms = BTreeMap::new();
        asked.into_iter().for_each(|term| *terms.entry(term).or_insert(0.0) += 1.0_f32);
        let mut terms: Vec<(f32, String)> = terms
            .into_iter()
            .map(|(term, times)| {
                let with = docs.iter().filter(|doc| doc.frequencies.contains_key(&term)).count() as f64;
                let with = match &unfinished {
                    Some((form, together)) if *form == term => together.min(count as f64),
                    _ => with,
                };
                let weight = times * ((count as f64 - with + 0.5) / (with + 0.5)).ln_1p() as f32;
                (weight, term)
            })
            .collect();
        terms.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
        let (base, slope) = (K1 * (1.0 - B), (f64::from(K1 * B) / average) as f32);
        let mut found = Vec::new();
        for doc in docs.iter().filter(|doc| doc.kept) {
            let mut score = 0.0_f32;
            for (weight, term) in &terms {
                if let Some(&frequency) = doc.frequencies.get(term) {
                    let frequency = frequency.min(FREQUENCY_MAX) as f32;
                    score += weight * frequency / (frequency + (base + slope * doc.length as f32));
                }
            }
            if score > 0.0 {
                found.push(Candidate::new(doc.segment, doc.doc, score, &ids()));
            }
        }
        found.sort();
        found.truncate(k);
        found
    }

    /// All that live counts say.
    fn told(counts: &WordsLive, words: &Words) -> (u32, u64, Vec<u64>) {
        let mut frequencies = Vec::new();
        let mut cursor = words.terms.cursor();
        while cursor.advance() {
            frequencies.push(counts.frequency(words, &cursor.entry()));
        }
        (counts.docs, counts.length, frequencies)
    }

    fn check(segments: &[Segment], questions: &[String]) {
        let words: Vec<Words> = segments.iter().map(|segment| build(&segment.texts)).collect();
        let counts: Vec<WordsLive> = words
            .iter()
            .zip(segments)
            .map(|(words, segment)| {
                let counts = WordsLive::recount(words, &segment.alive);
                let mut removed = WordsLive::all(words);
                for (number, text) in segment.texts.iter().enumerate() {
                    if !segment.alive.get(number as u32) {
                        removed.remove(words, ANALYZER, number as u32, &doc(text));
                    }
                }
                assert_eq!(told(&counts, words), told(&removed, words));
                counts
            })
            .collect();
        let live: Vec<Bits> = segments
            .iter()
            .map(|segment| {
                let mut live = segment.alive.clone();
                segment.kept.iter().for_each(|kept| live.and(kept));
                live
            })
            .collect();
        let ids = ids();
        let views: Vec<WordsView<'_>> = words
            .iter()
            .zip(&counts)
            .zip(&live)
            .map(|((words, counts), live)| {
                let some = |bits: &'_ Bits| bits.count() < words.len();
                let live = Some(live).filter(|bits| some(bits));
                WordsView { words, counts, live, ids: &ids }
            })
            .collect();
        for (question, is_prefix) in questions.iter().flat_map(|question| [(question, false), (question, true)]) {
            for k in [1, 10, 1_000] {
                let found = search(ANALYZER, &views, question, is_prefix, k);
                let expected = plain(segments, question, is_prefix, k);
                assert_eq!(found.candidates, expected, "{question:?}, prefix: {is_prefix}, k = {k}");
                assert!(found.candidates.iter().all(|candidate| candidate.score < found.ceiling));
            }
        }
    }

    /// A word, rare ones seldom.
    fn word(rng: &mut impl Rng) -> String {
        let rank = (1.0 / rng.random_range(0.002_f64..1.0)) as u32;
        match rank % 5 {
            0 => format!("max_w{rank}"),
            1 => "the".to_owned(),
            _ => format!("word{}s", char::from(b'a' + (rank % 26) as u8)),
        }
    }

    fn words(rng: &mut impl Rng, at_most: usize) -> String {
        let count = rng.random_range(0..=at_most);
        (0..count).map(|_| word(rng)).collect::<Vec<_>>().join(" ")
    }

    fn texts(rng: &mut impl Rng, count: usize) -> Vec<Text> {
        (0..count).map(|_| [words(rng, 4), words(rng, 3), words(rng, 60)]).collect()
    }

    fn chosen(rng: &mut impl Rng, len: usize, share: f64) -> Bits {
        let mut bits = Bits::zeros(len);
        (0..len as u32).for_each(|at| _ = bits.set(at, rng.random_bool(share)));
        bits
    }

    #[test]
    fn finds_what_the_plain_formula_finds() {
        let rng = &mut StdRng::seed_from_u64(1);
        for round in 0..12 {
            let segments: Vec<Segment> = (0..rng.random_range(1..4))
                .map(|_| {
                    let len = rng.random_range(0..400);
                    let alive = if round % 3 == 0 { Bits::ones(len) } else { chosen(rng, len, 0.8) };
                    let kept = [None, Some(0.5), Some(0.02)][round % 3].map(|share| chosen(rng, len, share));
                    Segment { texts: texts(rng, len), alive, kept }
                })
                .collect();
            let mut questions: Vec<String> = (0..12).map(|_| words(rng, 8)).collect();
            questions.extend(["", "nothing", "the the the max_w5"].map(str::to_owned));
            questions.extend(
                ["the w", "wordbs wor", "the max_", "max_w1", "wordbsing", "zzz", "wor wor"].map(str::to_owned),
            );
            check(&segments, &questions);
        }
    }

    #[test]
    fn common_words_are_read_only_where_they_matter() {
        let rng = &mut StdRng::seed_from_u64(5);
        let texts = texts(rng, 3_000);
        let words = build(&texts);
        let counts = WordsLive::all(&words);
        let few = chosen(rng, texts.len(), 0.01);
        let ids = ids();
        let question = "the max_w100 the words wordbs max_w25";
        let mut terms = Vec::new();
        ANALYZER.terms(question, &mut |term| terms.push(term.to_owned()));
        terms.sort();
        terms.dedup();
        let all: usize = terms.iter().map(|term| words.list(term).len()).sum();
        for live in [None, Some(&few)] {
            let found =
                search(ANALYZER, &[WordsView { words: &words, counts: &counts, live, ids: &ids }], question, false, 10);
            assert!((found.postings as usize) < all / 2, "{} of {all}", found.postings);
        }
        let segment = |kept| Segment { texts: texts.clone(), alive: Bits::ones(texts.len()), kept };
        check(&[segment(None)], &[question.to_owned()]);
        check(&[segment(Some(few))], &[question.to_owned()]);
    }

    #[test]
    fn those_ahead_are_known_before_common_words_are_read() {
        let rng = &mut StdRng::seed_from_u64(7);
        let segment = || {
            let texts = texts(rng, 1_500);
            let alive = Bits::ones(texts.len());
            Segment { texts, alive, kept: None }
        };
        let segments: Vec<Segment> = std::iter::repeat_with(segment).take(2).collect();
        let questions = ["max_w30 the words wordbs wor", "wordbs wordcs wordds wordes the", "max_w25 max_w10 the wo"];
        check(&segments, &questions.map(str::to_owned));
        let words = build(&segments[0].texts);
        let counts = WordsLive::all(&words);
        let view = WordsView { words: &words, counts: &counts, live: None, ids: &ids() };
        let found = search(ANALYZER, &[view], "wordbs wordcs wordds wordes the", false, 1);
        let common = words.list("the").len();
        assert!((found.postings as usize) < common, "{} where one term has {common}", found.postings);
    }

    #[test]
    fn scores_do_not_depend_on_segments_or_the_dead() {
        let rng = &mut StdRng::seed_from_u64(2);
        let texts = texts(rng, 300);
        let alive = chosen(rng, texts.len(), 0.7);
        let question = words(rng, 8);
        let survivors: Vec<Text> = alive.iter_ones().map(|doc| texts[doc as usize].clone()).collect();
        let ids = ids();
        let scores = |segments: &[(&Words, &WordsLive, Option<&Bits>)]| {
            let views: Vec<WordsView<'_>> =
                segments.iter().map(|&(words, counts, live)| WordsView { words, counts, live, ids: &ids }).collect();
            let found = search(ANALYZER, &views, &question, false, 1_000);
            (found.ceiling, found.candidates.iter().map(|candidate| candidate.score).collect::<Vec<_>>())
        };
        let whole = build(&survivors);
        let expected = scores(&[(&whole, &WordsLive::all(&whole), None)]);
        assert!(expected.1.len() > 20);

        let with_dead = build(&texts);
        assert_eq!(expected, scores(&[(&with_dead, &WordsLive::recount(&with_dead, &alive), Some(&alive))]));
        let (left, right) = (build(&survivors[..50]), build(&survivors[50..]));
        assert_eq!(expected, scores(&[(&left, &WordsLive::all(&left), None), (&right, &WordsLive::all(&right), None)]));
    }

    #[test]
    fn a_merge_is_what_a_build_of_the_live_would_be() {
        let rng = &mut StdRng::seed_from_u64(3);
        let sources: Vec<(Vec<Text>, Bits)> = [80, 0, 120, 3]
            .map(|len| (texts(rng, len), chosen(rng, len, 0.6)))
            .into_iter()
            .chain([(texts(rng, 5), Bits::zeros(5))])
            .collect();
        let built: Vec<Words> = sources.iter().map(|(texts, _)| build(texts)).collect();
        // Numbered from the last source to the first, and then alternately.
        let merged = |places: &[(usize, u32)]| {
            let mut numbers: Vec<Vec<Option<u32>>> = sources.iter().map(|(texts, _)| vec![None; texts.len()]).collect();
            for ((source, doc), number) in places.iter().zip(0..) {
                numbers[*source][*doc as usize] = Some(number);
            }
            let sources: Vec<_> =
                built.iter().zip(&numbers).map(|(words, numbers)| (words, numbers.as_slice())).collect();
            Words::merge(&sources, places.len())
        };
        let in_order: Vec<(usize, u32)> = (sources.iter().enumerate().rev())
            .flat_map(|(source, (_, live))| live.iter_ones().map(move |doc| (source, doc)))
            .collect();
        let (left, right) = in_order.split_at(in_order.len() / 2);
        let alternating = right.iter().zip(left).flat_map(|(right, left)| [*right, *left]).collect();
        for places in [in_order.clone(), alternating] {
            let survivors: Vec<Text> =
                places.iter().map(|(source, doc)| sources[*source].0[*doc as usize].clone()).collect();
            assert_eq!(merged(&places), build(&survivors));
        }
        assert_eq!(Words::merge(&[], 0).len(), 0);
    }

    #[test]
    fn fields_weigh_as_said() {
        let text = |title: &str, heading: &str, content: &str| [title, heading, content].map(str::to_owned);
        let filler = "lorem ipsum dolor sit amet";
        let words = build(&[
            text("", "", &format!("vacuum {filler}")),
            text("", "vacuum", filler),
            text("", "", filler),
            text("", "vacuum", &format!("vacuum {filler}")),
        ]);
        let counts = WordsLive::all(&words);
        let found = search(
            ANALYZER,
            &[WordsView { words: &words, counts: &counts, live: None, ids: &ids() }],
            "Vacuuming",
            false,
            10,
        );
        let order: Vec<u32> = found.candidates.iter().map(|candidate| candidate.doc).collect();
        assert_eq!(order, [3, 1, 0]);
        assert_eq!((found.terms, found.postings), (1, 3));
    }

    #[test]
    fn trails_tell_which_terms_may_stand_in_a_row() {
        let texts = ["one two three", "two one", "", "one"].map(|text| ["one two", "", text].map(str::to_owned));
        let words = build(&texts);
        let codes = |text: &str| text.split(' ').map(trail_code).collect::<Vec<_>>();
        let may = |text: &str| (0..4).filter(|doc| words.may_have(*doc, &codes(text))).collect::<Vec<_>>();
        assert_eq!(may("one two"), [0, 1, 2, 3]);
        assert_eq!(may("two one"), [1]);
        assert_eq!(may("one two three"), [0]);
        assert_eq!(may("two three"), [0]);
        assert_eq!(may("three"), [0]);
        assert_eq!(may("two one two"), [0_u32; 0], "not across fields");
        assert!((0..10_000).all(|term| trail_code(&term.to_string()) != FIELD_END));
    }

    #[test]
    fn documents_with_all_terms_are_found() {
        let rng = &mut StdRng::seed_from_u64(6);
        let texts = texts(rng, 1_000);
        let words = build(&texts);
        let even = chosen(rng, texts.len(), 0.5);
        let having = |doc: u32, term: &str| {
            let mut found = false;
            doc_terms(&texts[doc as usize], &mut |other| found |= other == term);
            found
        };
        let all = ["the", "wordb", "wordc", "max_w5", "max_w25", "no"];
        for chosen in [vec![], vec![0], vec![0, 0], vec![0, 1], vec![2, 1, 0], vec![3, 0], vec![4, 0, 1], vec![0, 5]] {
            let terms: Vec<&str> = chosen.iter().map(|at| all[*at]).collect();
            for within in [None, Some(&even)] {
                let expected: Vec<u32> = (0..texts.len() as u32)
                    .filter(|doc| within.is_none_or(|within| within.get(*doc)))
                    .filter(|doc| !terms.is_empty() && terms.iter().all(|term| having(*doc, term)))
                    .collect();
                assert_eq!(words.docs_with_all(&terms, within), expected, "{terms:?}");
            }
        }
    }

    fn doc_terms(text: &Text, found: &mut impl FnMut(&str)) {
        text.iter().for_each(|field| ANALYZER.terms(field, found));
    }

    #[test]
    fn very_many_occurrences_count_as_the_most() {
        let words = build(&[["", "", &"again ".repeat(1_000)].map(str::to_owned)]);
        assert_eq!(words.postings, [FREQUENCY_MAX]);
        assert_eq!(words.lengths, [1_000]);
    }

    #[test]
    fn the_last_word_may_be_unfinished() {
        let texts =
            ["replication", "replicas", "replace", "the replica set", "repairs of pg_stat_activity", "xa xb xc"];
        let words = build(&texts.map(|text| ["", "", text].map(str::to_owned)));
        let counts = WordsLive::all(&words);
        let view = WordsView { words: &words, counts: &counts, live: None, ids: &ids() };
        let docs = |question: &str| {
            let found = search(ANALYZER, &[view], question, true, 10);
            let mut docs: Vec<u32> = found.candidates.iter().map(|candidate| candidate.doc).collect();
            docs.sort_unstable();
            docs
        };
        assert_eq!(docs("rep"), [0, 1, 2, 3, 4]);
        assert_eq!(docs("Repl"), [0, 1, 2, 3]);
        assert_eq!(docs("replic"), [0, 1, 3]);
        assert_eq!(docs("replication"), [0], "longer than its stem");
        assert_eq!(docs("replicati"), [1, 3], "the longest term that it begins with");
        assert_eq!(docs("pg_st"), [4]);
        assert_eq!(docs("set repa"), [3, 4]);
        assert_eq!(docs("zz"), [0_u32; 0]);
        assert_eq!(docs("re"), [0, 1, 2, 3, 4]);
        assert_eq!(docs("… ?"), [0_u32; 0]);
        // One term, however many it stands for.
        let found = search(ANALYZER, &[view], "x", true, 10);
        assert_eq!((found.terms, found.postings, found.candidates.len()), (1, 1, 1));
        let single = search(ANALYZER, &[view], "xa", false, 10);
        let share = |found: &Found| found.candidates[0].score / found.ceiling;
        assert!(share(&found) > share(&single), "three occurrences of one term");
        // As frequent as its terms are together: in three of six documents.
        assert_eq!(found.ceiling, inverse_frequency(6, 3));
    }

    #[test]
    fn an_unfinished_word_stands_for_the_most_frequent_terms() {
        // Two documents have each of the terms but the first and the last by name.
        let term = |at: usize| format!("x{at:03}");
        let count = EXPANSIONS_MAX + 2;
        let texts: Vec<Text> =
            (0..count).chain(1..count - 1).map(|at| ["", "", &term(at)].map(str::to_owned)).collect();
        let words = build(&texts);
        let counts = WordsLive::all(&words);
        let ids = ids();
        let view = WordsView { words: &words, counts: &counts, live: None, ids: &ids };
        let found = search(ANALYZER, &[view], "x", true, 1_000);
        assert_eq!(found.candidates.len(), 2 * EXPANSIONS_MAX);
        assert!(found.candidates.iter().all(|candidate| ![0, count as u32 - 1].contains(&candidate.doc)));
    }

    #[test]
    fn of_many_terms_the_most_frequent_of_all_segments_count() {
        let rng = &mut StdRng::seed_from_u64(8);
        // Each of 300 terms in a few documents of either segment, so that ranks within them differ from those of all.
        let segment = || {
            let texts: Vec<Text> = (0..600)
                .map(|_| {
                    let mut word = || format!("zz{:03}", (300.0 * rng.random::<f64>().powi(2)) as u32);
                    ["", "", &format!("{} {} the", word(), word())].map(str::to_owned)
                })
                .collect();
            let alive = chosen(rng, texts.len(), 0.9);
            Segment { texts, alive, kept: None }
        };
        let segments: Vec<Segment> = std::iter::repeat_with(segment).take(2).collect();
        for segment in &segments {
            let mut count = 0;
            build(&segment.texts).terms.each_with(b"zz", |_, _| count += 1);
            assert!(count > 2 * EXPANSIONS_MAX, "{count}");
        }
        check(&segments, &["zz", "the zz", "zz1", "zz2 zz", "zz001 z"].map(str::to_owned));
        check(&segments[..1], &["zz", "the zz", "z"].map(str::to_owned));
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        let none = build(&[]);
        let counts = WordsLive::all(&none);
        let view = WordsView { words: &none, counts: &counts, live: None, ids: &[] };
        assert!(search(ANALYZER, &[], "word", true, 5).candidates.is_empty());
        assert!(search(ANALYZER, &[view], "word", true, 5).candidates.is_empty());
        // All dead: no average to divide by.
        let words = build(&[["", "", "word"].map(str::to_owned)]);
        let dead = Bits::zeros(1);
        let counts = WordsLive::recount(&words, &dead);
        let view = WordsView { words: &words, counts: &counts, live: Some(&dead), ids: &[[0; 16]] };
        assert!(search(ANALYZER, &[view], "word", true, 5).candidates.is_empty());
    }

    #[test]
    fn takes_back_what_was_saved_and_refuses_what_is_damaged() {
        let words = || build(&texts(&mut StdRng::seed_from_u64(4), 40));
        assert_eq!(saved_and_loaded(&words()).unwrap(), words());
        assert_eq!(saved_and_loaded(&build(&[])).unwrap().len(), 0);

        let told = |outcome: Result<Words, LoadError>| match outcome {
            Err(LoadError::Damaged(what)) => what,
            other => panic!("{other:?}"),
        };
        let refused = |what: &str, damage: fn(&mut Words)| {
            let mut words = words();
            damage(&mut words);
            assert_eq!(told(saved_and_loaded(&words)), what);
        };
        refused("terms have other postings than there are", |words| _ = words.postings.pop());
        refused("documents and their trails differ in number", |words| _ = words.lengths.pop());
        refused("trails overlap or leave gaps", |words| _ = words.trails.pop());
        refused("trails overlap or leave gaps", |words| words.trail_starts[1] = u32::MAX);
        refused("common terms and their rows differ in number", |words| _ = words.common.frequencies.pop());
        refused("common terms and their rows differ in number", |words| _ = words.common.terms.pop());
        refused("a common term is rare", |words| words.common.frequencies[..30].fill(0));
        refused("a common term has postings", |words| {
            words.common.terms.push(words.terms.len() - 1);
            words.common.frequencies.extend(vec![1; words.len()]);
        });
        refused("common terms are out of order, or no terms", |words| {
            words.common.terms.push(u32::MAX);
            words.common.frequencies.extend(vec![1; words.len()]);
        });
        refused("a posting of no document", |words| *words.postings.last_mut().unwrap() |= !FREQUENCY_MAX);
        refused("a posting of no occurrence", |words| words.postings[0] &= !FREQUENCY_MAX);
        refused("postings are out of order", |words| {
            let mut cursor = words.terms.cursor();
            while cursor.advance() && cursor.entry().postings.len() < 2 {}
            let many = cursor.entry().postings.start;
            words.postings.swap(many, many + 1);
        });
    }
}
