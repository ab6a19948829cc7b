//! A segment's terms in the order of their bytes, each with how many postings it has; a few bytes a term.
//!
//! Terms stand in blocks. One is written as how many bytes it shares with the one before it, and the rest. It is found by
//! the first bytes of blocks, and then one after the other within its block.

use std::ops::Range;

use crate::sections::{LoadError, SectionReader, SectionWriter};

/// Terms of a block.
const BLOCK: u32 = 16;
/// A term's length is a byte.
const TERM_BYTES_MAX: usize = u8::MAX as usize;

/// The terms, numbered in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Terms {
    len: u32,
    /// For each term: bytes shared with the one before, number of the others, the others, number of postings (LEB128). The
    /// first of a block shares none.
    text: Vec<u8>,
    /// By block, where it starts in `text`.
    starts: Vec<u32>,
    /// By block, its first posting.
    postings: Vec<u32>,
    /// By block, the first bytes of its first term.
    keys: Vec<u64>,
}

/// A term that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u32,
    /// Its postings' places.
    pub(crate) postings: Range<usize>,
}

impl Terms {
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Bytes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        let numbers = self.starts.capacity() + self.postings.capacity();
        self.text.capacity() + numbers * size_of::<u32>() + self.keys.capacity() * size_of::<u64>()
    }

    /// At least what `text` takes in a merge with others, where other terms may come first in blocks.
    pub(crate) fn text_bytes_max(&self) -> usize {
        self.text.len() + self.starts.len() * TERM_BYTES_MAX
    }

    /// Where `term` is. Takes about 0.1 µs.
    pub(crate) fn find(&self, term: &[u8]) -> Option<Entry> {
        let block = self.block_of(term)?;
        let mut at = self.starts[block] as usize;
        let mut first = self.postings[block];
        // How many bytes `term` and the one before, which comes before it, have in common.
        let mut common = 0;
        let start = block as u32 * BLOCK;
        for number in start..self.len.min(start + BLOCK) {
            let (shared, others, count, next) = self.read(at);
            // One that shares more with the one before differs from `term` where that does.
            if shared <= common {
                let same = others.iter().zip(&term[shared..]).take_while(|(left, right)| left == right).count();
                common = shared + same;
                if same == others.len() && common == term.len() {
                    return Some(Entry { term: number, postings: first as usize..(first + count) as usize });
                }
                if others.get(same) > term.get(common) {
                    return None;
                }
            }
            at = next;
            first += count;
        }
        None
    }

    /// The block that `term` is in, if it is anywhere.
    fn block_of(&self, term: &[u8]) -> Option<usize> {
        let key = key(term);
        let from = self.keys.partition_point(|other| *other < key);
        let same = self.keys[from..].iter().take_while(|other| **other == key).count();
        let starts = &self.starts[from..from + same];
        (from + starts.partition_point(|start| self.read(*start as usize).1 <= term)).checked_sub(1)
    }

    /// How many bytes the term at a place shares, the others, the number of postings, and the place of the next one.
    fn read(&self, at: usize) -> (usize, &[u8], u32, usize) {
        let (shared, len) = (usize::from(self.text[at]), usize::from(self.text[at + 1]));
        let others = &self.text[at + 2..at + 2 + len];
        let (mut count, mut next) = (0, at + 2 + len);
        for shift in (0..u32::BITS).step_by(7) {
            let byte = self.text[next];
            next += 1;
            count |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        (shared, others, count, next)
    }

    /// All terms, in order.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        self.cursor_at(0)
    }

    fn cursor_at(&self, block: usize) -> Cursor<'_> {
        let (at, first) = match self.starts.get(block) {
            Some(start) => (*start as usize, self.postings[block] as usize),
            None => (self.text.len(), 0),
        };
        Cursor {
            terms: self,
            next: block as u32 * BLOCK,
            at,
            name: Vec::new(),
            entry: Entry { term: 0, postings: first..first },
        }
    }

    /// Calls `found` with each term that begins with `prefix`, in order.
    pub(crate) fn each_with(&self, prefix: &[u8], mut found: impl FnMut(&[u8], Entry)) {
        let mut cursor = self.cursor_at(self.block_of(prefix).unwrap_or(0));
        while cursor.advance() {
            if cursor.name().starts_with(prefix) {
                found(cursor.name(), cursor.entry());
            } else if cursor.name() > prefix {
                break;
            }
        }
    }

    pub(crate) fn save<'a>(&'a self, out: &mut SectionWriter<'a>) {
        out.put(std::slice::from_ref(&self.len));
        out.put(&self.text);
        out.put(&self.starts);
        out.put(&self.postings);
    }

    /// Takes back what [`Terms::save`] put, about 20 ns a term, and says how many postings there are; refuses whatever a
    /// search could stumble over.
    pub(crate) fn load(from: &mut SectionReader<'_>) -> Result<(Self, usize), LoadError> {
        let check = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(LoadError::Damaged(what)) };
        let (lens, text): (Vec<u32>, Vec<u8>) = (from.take()?, from.take()?);
        let (starts, postings): (Vec<u32>, Vec<u32>) = (from.take()?, from.take()?);
        let [len] = lens[..] else { return Err(LoadError::Damaged("not one number of terms")) };
        let blocks = len.div_ceil(BLOCK) as usize;
        check(starts.len() == blocks && postings.len() == blocks, "terms and blocks differ in number")?;
        let mut terms = Self { len, text, starts, postings, keys: Vec::with_capacity(blocks) };
        let (mut at, mut first) = (0, 0_u32);
        let (mut before, mut name) = (Vec::new(), Vec::new());
        for number in 0..len {
            let (block, is_first) = ((number / BLOCK) as usize, number % BLOCK == 0);
            if is_first {
                check(terms.starts[block] as usize == at, "a block of terms starts elsewhere")?;
                check(terms.postings[block] == first, "postings overlap or leave gaps")?;
            }
            check(is_whole(&terms.text, at), "a term is cut off")?;
            let (shared, others, count, next) = terms.read(at);
            check(shared <= before.len() && !(is_first && shared > 0), "a term shares what is not there")?;
            name.clear();
            name.extend_from_slice(&before[..shared]);
            name.extend_from_slice(others);
            check(name.len() <= TERM_BYTES_MAX, "a term is too long")?;
            check(number == 0 || before < name, "terms are out of order")?;
            first = first.checked_add(count).ok_or(LoadError::Damaged("more postings than can be"))?;
            at = next;
            if is_first {
                terms.keys.push(key(&name));
            }
            std::mem::swap(&mut before, &mut name);
        }
        check(at == terms.text.len(), "something stands behind the terms")?;
        Ok((terms, first as usize))
    }
}

/// Whether there is a term at a place, and its number of postings.
fn is_whole(text: &[u8], at: usize) -> bool {
    let behind = text.get(at + 1).and_then(|len| text.get(at + 2 + usize::from(*len)..));
    // Five bytes at most, of which the last has four bits that count.
    let count =
        behind.and_then(|behind| behind.iter().take(5).position(|byte| *byte < 0x80).map(|last| (last, behind[last])));
    count.is_some_and(|(last, byte)| last < 4 || byte < 0x10)
}

/// A walk through terms.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    terms: &'a Terms,
    next: u32,
    /// Place of the next one.
    at: usize,
    name: Vec<u8>,
    entry: Entry,
}

impl Cursor<'_> {
    /// Goes to the next term; false if there is none.
    pub(crate) fn advance(&mut self) -> bool {
        if self.next == self.terms.len {
            return false;
        }
        let (shared, others, count, next) = self.terms.read(self.at);
        self.name.truncate(shared);
        self.name.extend_from_slice(others);
        self.at = next;
        self.entry =
            Entry { term: self.next, postings: self.entry.postings.end..self.entry.postings.end + count as usize };
        self.next += 1;
        true
    }

    /// The term that it is at.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(crate) fn entry(&self) -> Entry {
        self.entry.clone()
    }
}

/// Writes terms.
#[derive(Default)]
pub(crate) struct TermsBuilder {
    terms: Terms,
    before: Vec<u8>,
    postings: u32,
}

impl TermsBuilder {
    /// Adds a term, of 255 bytes at most, that comes after those before; it has `count` postings.
    pub(crate) fn push(&mut self, term: &[u8], count: usize) {
        let Self { terms, before, postings } = self;
        let mut shared = 0;
        if terms.len.is_multiple_of(BLOCK) {
            terms.starts.push(u32::try_from(terms.text.len()).expect("distinct terms of less than 4 GB"));
            terms.postings.push(*postings);
            terms.keys.push(key(term));
        } else {
            shared = before.iter().zip(term).take_while(|(left, right)| left == right).count();
        }
        let others = &term[shared..];
        let byte = |len: usize| u8::try_from(len).expect("an analyzer's term has 100 bytes at most");
        terms.text.extend([byte(shared), byte(others.len())]);
        terms.text.extend_from_slice(others);
        let count = u32::try_from(count).expect("fewer postings than documents");
        let mut rest = count;
        while rest >= 0x80 {
            terms.text.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        terms.text.push(rest as u8);
        *postings = postings.checked_add(count).expect("fewer postings than 16 million documents of 256 terms have");
        terms.len += 1;
        before.clear();
        before.extend_from_slice(term);
    }

    pub(crate) fn finish(mut self) -> Terms {
        let Terms { text, starts, postings, keys, .. } = &mut self.terms;
        text.shrink_to_fit();
        starts.shrink_to_fit();
        postings.shrink_to_fit();
        keys.shrink_to_fit();
        self.terms
    }
}

/// The first bytes, ordered as they are.
fn key(term: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = term.len().min(8);
    bytes[..len].copy_from_slice(&term[..len]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn built(all: &BTreeMap<Vec<u8>, u32>) -> Terms {
        let mut builder = TermsBuilder::default();
        all.iter().for_each(|(term, count)| builder.push(term, *count as usize));
        builder.finish()
    }

    fn saved_and_loaded(terms: &Terms) -> Result<(Terms, usize), LoadError> {
        let mut out = SectionWriter::default();
        terms.save(&mut out);
        let (head, seal) = out.head();
        let mut file = Vec::new();
        out.write_to(&head, &mut file).expect("a Vec takes whatever is written to it");
        Terms::load(&mut SectionReader::open(&mut file.as_slice(), seal).expect("a sound head"))
    }

    /// Everything that can be asked, against a map.
    fn check(all: &BTreeMap<Vec<u8>, u32>, others: &BTreeSet<Vec<u8>>) {
        let terms = built(all);
        let mut entries = BTreeMap::new();
        let mut end = 0;
        for (term, (name, count)) in (0..).zip(all) {
            entries.insert(name.clone(), Entry { term, postings: end..end + *count as usize });
            end += *count as usize;
        }
        for term in all.keys().chain(others) {
            assert_eq!(terms.find(term), entries.get(term).cloned(), "{term:?}");
            for cut in 0..=term.len() {
                let mut found = Vec::new();
                terms.each_with(&term[..cut], |name, entry| found.push((name.to_vec(), entry)));
                let expected = entries.iter().filter(|(name, _)| name.starts_with(&term[..cut]));
                assert_eq!(found, expected.map(|(name, entry)| (name.clone(), entry.clone())).collect::<Vec<_>>());
            }
        }
        let mut cursor = terms.cursor();
        let mut walked = BTreeMap::new();
        while cursor.advance() {
            walked.insert(cursor.name().to_vec(), cursor.entry());
        }
        assert_eq!(walked, entries);
        assert!(!cursor.advance(), "it stays at the end");
        assert_eq!(terms.len() as usize, all.len());
        assert_eq!(saved_and_loaded(&terms).expect("it is sound"), (terms, end));
    }

    fn term() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof!["[ab]{1,12}", "[a-c\u{0}é]{1,4}", "a{200}[ab]{0,40}"].prop_map(String::into_bytes)
    }

    proptest! {
        #[test]
        fn terms_are_found(
            all in btree_map(term(), prop_oneof![4 => 1..4_u32, 1 => 1..100_000_u32], 0..80),
            others in proptest::collection::btree_set(term(), 0..10),
        ) {
            check(&all, &others);
        }
    }

    #[test]
    fn a_block_may_be_full_or_begin_like_the_one_before() {
        for count in [0, 1, 15, 16, 17, 32, 33, 200] {
            let name = |number: u32| format!("same first bytes {number:04}").into_bytes();
            check(&(0..count).map(|number| (name(2 * number), number % 3 + 1)).collect(), &[name(1), name(399)].into());
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let all = (0..40_u32).map(|number| (format!("term{number}").into_bytes(), number + 100)).collect();
        let refused = |what: &str, damage: fn(&mut Terms)| {
            let mut terms = built(&all);
            damage(&mut terms);
            match saved_and_loaded(&terms) {
                Err(LoadError::Damaged(told)) => assert_eq!(told, what),
                other => panic!("{what}: {other:?}"),
            }
        };
        refused("terms and blocks differ in number", |terms| terms.len = 49);
        refused("terms and blocks differ in number", |terms| _ = terms.postings.pop());
        refused("something stands behind the terms", |terms| terms.len = 39);
        refused("a block of terms starts elsewhere", |terms| terms.starts[1] += 1);
        refused("postings overlap or leave gaps", |terms| terms.postings[1] += 1);
        refused("a term is cut off", |terms| terms.text.truncate(3));
        refused("a term is cut off", |terms| _ = terms.text.pop());
        refused("a term shares what is not there", |terms| terms.text[0] = 1);
        refused("terms are out of order", |terms| terms.text[2] = b'u');
        let mut long = built(&[(vec![b'a'; 255], 1), (vec![b'b'; 255], 1)].into());
        assert!(saved_and_loaded(&long).is_ok());
        // The second shares all of the first, and has as many again.
        let second = 2 + 255 + 1;
        long.text[second] = 255;
        match saved_and_loaded(&long) {
            Err(LoadError::Damaged(told)) => assert_eq!(told, "a term is too long"),
            other => panic!("{other:?}"),
        }
    }
}
