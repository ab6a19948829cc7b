//! A segment's metadata by key and value, so that a filter looks at each distinct value once, and not at each chunk.
//!
//! For each key there is a sorted table of its distinct values, and for each value the ascending list of documents that
//! have it. A comparison is a binary search (or two, for a range) and setting the bits of the lists found. Elements of
//! arrays have entries of their own, since orders do not see them.
//!
//! "Document" in this crate's segments means a row of the segment, which is one chunk.

use std::{collections::BTreeMap, collections::HashMap, ops::Range};

use serde_json::{Map, Value};

use crate::{
    bits::Bits,
    filter::{Filter, Node, Order, Scalar, Test},
    sections::{LoadError, SectionReader, SectionWriter},
    strings::Strings,
};

/// The metadata of one sealed segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Columns {
    len: usize,
    /// Ascending.
    keys: Strings,
    /// The values of key `k` are those from `values_end[k - 1]` to `values_end[k]`; ascending by kind, then value.
    values_end: Vec<u32>,
    kinds: Vec<u8>,
    /// By kind: 0 or 1, a number by [`sortable`], or the place in `strings`.
    values: Vec<u64>,
    strings: Strings,
    /// The documents of value `v` are those from `docs_end[v - 1]` to `docs_end[v]`; ascending.
    docs_end: Vec<u64>,
    docs: Vec<u32>,
}

/// A value as the table has it. The order of the variants is the order in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Entry<'a> {
    Whole(Atom<'a>),
    /// One of the elements of an array.
    Element(Atom<'a>),
    /// An object, or an array without a value to compare: there, and fits nothing.
    Opaque,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Atom<'a> {
    Bool(bool),
    /// By [`sortable`].
    Number(u64),
    String(&'a str),
}

const KIND_OPAQUE: u8 = 6;

impl<'a> Entry<'a> {
    fn kind(self) -> u8 {
        match self {
            Self::Whole(atom) => atom.kind(),
            Self::Element(atom) => 3 + atom.kind(),
            Self::Opaque => KIND_OPAQUE,
        }
    }
}

impl<'a> Atom<'a> {
    fn kind(self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Number(_) => 1,
            Self::String(_) => 2,
        }
    }

    /// `None` for what fits no comparison.
    fn of_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Number(value) => value.as_f64().map(|value| Self::Number(sortable(value))),
            Value::String(value) => Some(Self::String(value)),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn of_scalar(scalar: &'a Scalar) -> Option<Self> {
        match scalar {
            Scalar::Bool(value) => Some(Self::Bool(*value)),
            Scalar::Number(value) => value.as_f64().map(|value| Self::Number(sortable(value))),
            Scalar::String(value) => Some(Self::String(value)),
        }
    }
}

/// Bits that order as the numbers do, with -0.0 as 0.0. JSON has no NaN.
fn sortable(number: f64) -> u64 {
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

impl Columns {
    /// The documents that `filter` lets through, dead ones included.
    pub(crate) fn matches(&self, filter: &Filter) -> Bits {
        self.node(&filter.root)
    }

    fn node(&self, node: &Node) -> Bits {
        match node {
            Node::Leaf { key, test } => self.leaf(key, test),
            Node::And(nodes) => self.combined(nodes, Bits::and),
            Node::Or(nodes) => self.combined(nodes, Bits::or),
            Node::Not(node) => {
                let mut bits = self.node(node);
                bits.not();
                bits
            }
        }
    }

    /// A compound has at least one part, so that the first can be what the others are combined with.
    fn combined(&self, nodes: &[Node], combine: fn(&mut Bits, &Bits)) -> Bits {
        let mut parts = nodes.iter().map(|node| self.node(node));
        let Some(mut bits) = parts.next() else {
            return Bits::zeros(self.len);
        };
        parts.for_each(|part| combine(&mut bits, &part));
        bits
    }

    fn leaf(&self, key: &str, test: &Test) -> Bits {
        let mut bits = Bits::zeros(self.len);
        let values = self.values_of(key);
        match test {
            Test::Exists => self.add_docs(values, &mut bits),
            Test::Equal(value) | Test::NotEqual(value) => self.add_equal(&values, value, &mut bits),
            Test::In(wanted) | Test::NotIn(wanted) => {
                wanted.iter().for_each(|value| self.add_equal(&values, value, &mut bits));
            }
            Test::Order(order, value) => self.add_ordered(&values, *order, value, &mut bits),
        }
        if matches!(test, Test::NotEqual(_) | Test::NotIn(_)) {
            bits.not();
        }
        bits
    }

    fn add_equal(&self, values: &Range<usize>, wanted: &Scalar, bits: &mut Bits) {
        let Some(atom) = Atom::of_scalar(wanted) else { return };
        for entry in [Entry::Whole(atom), Entry::Element(atom)] {
            let at = self.first_not(values, |found| found < entry);
            if at < values.end && self.entry(at) == entry {
                self.add_docs(at..at + 1, bits);
            }
        }
    }

    fn add_ordered(&self, values: &Range<usize>, order: Order, bound: &Scalar, bits: &mut Bits) {
        let Some(bound) = Atom::of_scalar(bound) else { return };
        let same_kind_from = self.first_not(values, |found| found.kind() < bound.kind());
        let same_kind_to = self.first_not(values, |found| found.kind() <= bound.kind());
        let below_to = self.first_not(values, |found| found < Entry::Whole(bound));
        let equal_to = self.first_not(values, |found| found <= Entry::Whole(bound));
        let fitting = match order {
            Order::Greater => equal_to..same_kind_to,
            Order::GreaterOrEqual => below_to..same_kind_to,
            Order::Less => same_kind_from..below_to,
            Order::LessOrEqual => same_kind_from..equal_to,
        };
        self.add_docs(fitting, bits);
    }

    /// The first of `values` for which `holds` is false, where it is true for all before; else their end.
    fn first_not(&self, values: &Range<usize>, holds: impl Fn(Entry<'_>) -> bool) -> usize {
        let (mut from, mut to) = (values.start, values.end);
        while from < to {
            let middle = from.midpoint(to);
            if holds(self.entry(middle)) { from = middle + 1 } else { to = middle }
        }
        from
    }

    fn add_docs(&self, values: Range<usize>, bits: &mut Bits) {
        for doc in &self.docs[self.docs_of(values)] {
            bits.set(*doc, true);
        }
    }

    /// Whether one of the documents in `live` (all, if there is none) has the key.
    pub(crate) fn has_key(&self, key: &str, live: Option<&Bits>) -> bool {
        let docs = &self.docs[self.docs_of(self.values_of(key))];
        docs.iter().any(|doc| live.is_none_or(|live| live.get(*doc)))
    }

    /// All keys, ascending, dead documents' too.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        (0..self.keys.len()).map(|key| self.keys.get(key as u32))
    }

    fn values_of(&self, key: &str) -> Range<usize> {
        let (mut from, mut to) = (0, self.keys.len());
        while from < to {
            let middle = from.midpoint(to);
            if self.keys.get(middle as u32) < key { from = middle + 1 } else { to = middle }
        }
        if from == self.keys.len() || self.keys.get(from as u32) != key {
            return 0..0;
        }
        let start = if from == 0 { 0 } else { self.values_end[from - 1] };
        start as usize..self.values_end[from] as usize
    }

    /// Where the documents of `values` stand: lists of neighbouring values follow each other.
    fn docs_of(&self, values: Range<usize>) -> Range<usize> {
        let end = |values: usize| if values == 0 { 0 } else { self.docs_end[values - 1] as usize };
        end(values.start)..end(values.end)
    }

    fn entry(&self, value: usize) -> Entry<'_> {
        let (kind, bits) = (self.kinds[value], self.values[value]);
        let atom = || match kind % 3 {
            0 => Atom::Bool(bits == 1),
            1 => Atom::Number(bits),
            _ => Atom::String(self.strings.get(bits as u32)),
        };
        match kind {
            0..3 => Entry::Whole(atom()),
            3..KIND_OPAQUE => Entry::Element(atom()),
            _ => Entry::Opaque,
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes()
            + self.values_end.capacity() * size_of::<u32>()
            + self.kinds.capacity()
            + self.values.capacity() * size_of::<u64>()
            + self.strings.memory_bytes()
            + self.docs_end.capacity() * size_of::<u64>()
            + self.docs.capacity() * size_of::<u32>()
    }

    pub(crate) fn save<'a>(&'a self, out: &mut SectionWriter<'a>) {
        self.keys.save(out);
        out.put(&self.values_end);
        out.put(&self.kinds);
        out.put(&self.values);
        self.strings.save(out);
        out.put(&self.docs_end);
        out.put(&self.docs);
    }

    /// Reads the columns of `len` documents.
    pub(crate) fn load(from: &mut SectionReader<'_>, len: usize) -> Result<Self, LoadError> {
        let columns = Self {
            len,
            keys: Strings::load(from)?,
            values_end: from.take()?,
            kinds: from.take()?,
            values: from.take()?,
            strings: Strings::load(from)?,
            docs_end: from.take()?,
            docs: from.take()?,
        };
        if columns.is_sound() { Ok(columns) } else { Err(LoadError::Damaged("metadata columns do not fit together")) }
    }

    /// Whether every number points at something that is there.
    fn is_sound(&self) -> bool {
        let values = self.values.len();
        let strings = self.strings.len() as u64;
        let names_a_string = |kind: u8| kind % 3 == 2;
        self.values_end.len() == self.keys.len()
            && self.values_end.is_sorted()
            && self.values_end.last().copied().unwrap_or(0) as usize == values
            && self.kinds.len() == values
            && self.kinds.iter().all(|kind| *kind <= KIND_OPAQUE)
            && self.kinds.iter().zip(&self.values).all(|(kind, bits)| !names_a_string(*kind) || *bits < strings)
            && self.docs_end.len() == values
            && self.docs_end.is_sorted()
            && self.docs_end.last().copied().unwrap_or(0) == self.docs.len() as u64
            && self.docs.iter().all(|doc| (*doc as usize) < self.len)
    }
}

/// Collects metadata of the documents of a segment, in any order.
#[derive(Default)]
pub(crate) struct ColumnsBuilder<'a> {
    keys: BTreeMap<&'a str, HashMap<Entry<'a>, Vec<u32>, foldhash::fast::RandomState>>,
}

impl<'a> ColumnsBuilder<'a> {
    /// Adds the metadata of document `doc`.
    pub(crate) fn add(&mut self, doc: u32, metadata: &'a Map<String, Value>) {
        for (key, value) in metadata {
            match value {
                Value::Null => {}
                Value::Array(elements) => {
                    let mut is_opaque = true;
                    for atom in elements.iter().filter_map(Atom::of_value) {
                        self.add_entry(key, Entry::Element(atom), doc);
                        is_opaque = false;
                    }
                    if is_opaque {
                        self.add_entry(key, Entry::Opaque, doc);
                    }
                }
                _ => self.add_entry(key, Atom::of_value(value).map_or(Entry::Opaque, Entry::Whole), doc),
            }
        }
    }

    /// Adds the documents of another segment, each as `new_docs` numbers it; those without a number are left out.
    pub(crate) fn add_columns(&mut self, columns: &'a Columns, new_docs: &[Option<u32>]) {
        for key in columns.keys() {
            let entries = self.keys.entry(key).or_default();
            for value in columns.values_of(key) {
                let docs = &columns.docs[columns.docs_of(value..value + 1)];
                let mut kept = docs.iter().filter_map(|doc| new_docs[*doc as usize]).peekable();
                if kept.peek().is_some() {
                    entries.entry(columns.entry(value)).or_default().extend(kept);
                }
            }
        }
    }

    fn add_entry(&mut self, key: &'a str, entry: Entry<'a>, doc: u32) {
        self.keys.entry(key).or_default().entry(entry).or_default().push(doc);
    }

    /// The columns of a segment of `len` documents.
    pub(crate) fn finish(self, len: usize) -> Columns {
        let mut columns = Columns { len, ..Columns::default() };
        for (key, entries) in self.keys {
            if entries.is_empty() {
                continue;
            }
            columns.keys.push(key);
            let mut entries: Vec<_> = entries.into_iter().collect();
            entries.sort_unstable_by_key(|(entry, _)| *entry);
            for (entry, mut docs) in entries {
                docs.sort_unstable();
                docs.dedup();
                columns.kinds.push(entry.kind());
                columns.values.push(match entry {
                    Entry::Opaque => 0,
                    Entry::Whole(atom) | Entry::Element(atom) => match atom {
                        Atom::Bool(value) => u64::from(value),
                        Atom::Number(bits) => bits,
                        Atom::String(string) => u64::from(columns.strings.push(string)),
                    },
                });
                columns.docs.extend(docs);
                columns.docs_end.push(columns.docs.len() as u64);
            }
            columns.values_end.push(columns.values.len() as u32);
        }
        columns.shrink_to_fit();
        columns
    }
}

impl Columns {
    fn shrink_to_fit(&mut self) {
        self.keys.shrink_to_fit();
        self.values_end.shrink_to_fit();
        self.kinds.shrink_to_fit();
        self.values.shrink_to_fit();
        self.strings.shrink_to_fit();
        self.docs_end.shrink_to_fit();
        self.docs.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Eleven documents that differ in `a`, in this order.
    fn examples() -> Vec<Map<String, Value>> {
        [
            json!({ "a": "x", "lang": "en" }),
            json!({ "a": "é" }),
            json!({ "a": 2 }),
            json!({ "a": 10.0 }),
            json!({ "a": true }),
            json!({ "a": ["x", 2, "x", { "deep": 1 }] }),
            json!({ "a": { "x": "x" } }),
            json!({ "a": null, "lang": "de" }),
            json!({ "a": [] }),
            json!({ "a": -0.0 }),
            json!({ "a": -3.5 }),
        ]
        .into_iter()
        .map(|json| json.as_object().expect("an object").clone())
        .collect()
    }

    fn columns_of(rows: &[Map<String, Value>]) -> Columns {
        let mut builder = ColumnsBuilder::default();
        rows.iter().enumerate().for_each(|(doc, metadata)| builder.add(doc as u32, metadata));
        builder.finish(rows.len())
    }

    fn check(filter: Value, expected: &[u32]) {
        let filter = Filter::from_json(&filter).expect("a filter");
        let matches: Vec<u32> = columns_of(&examples()).matches(&filter).iter_ones().collect();
        assert_eq!(matches, expected, "{}", filter.to_json());
    }

    fn leaf(kind: &str, value: Value) -> Value {
        json!({ "type": kind, "key": "a", "value": value })
    }

    #[test]
    fn equality_is_by_type_and_sees_elements() {
        check(leaf("eq", json!("x")), &[0, 5]);
        check(leaf("eq", json!(2.0)), &[2, 5]);
        check(leaf("eq", json!(0)), &[9]);
        check(leaf("eq", json!("2")), &[]);
        check(leaf("eq", json!(true)), &[4]);
        check(leaf("in", json!(["é", 10, "none"])), &[1, 3]);
        check(leaf("in", json!([])), &[]);
    }

    #[test]
    fn negations_are_true_where_the_key_is_missing() {
        check(leaf("ne", json!("x")), &[1, 2, 3, 4, 6, 7, 8, 9, 10]);
        check(leaf("nin", json!(["x", 2])), &[1, 3, 4, 6, 7, 8, 9, 10]);
        check(json!({ "type": "not", "filter": leaf("gt", json!(0)) }), &[0, 1, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn orders_stay_within_a_type_and_outside_of_arrays() {
        check(leaf("gt", json!(2)), &[3]);
        check(leaf("gte", json!(2)), &[2, 3]);
        check(leaf("lt", json!(2)), &[9, 10]);
        check(leaf("lte", json!(0)), &[9, 10]);
        check(leaf("gt", json!("x")), &[1]);
        check(leaf("lte", json!("x")), &[0]);
    }

    #[test]
    fn existence_counts_all_but_null() {
        check(json!({ "type": "exists", "key": "a" }), &[0, 1, 2, 3, 4, 5, 6, 8, 9, 10]);
        check(json!({ "type": "exists", "key": "lang" }), &[0, 7]);
        check(json!({ "type": "exists", "key": "b" }), &[]);
    }

    #[test]
    fn compounds_combine() {
        let en = json!({ "type": "eq", "key": "lang", "value": "en" });
        check(json!({ "type": "and", "filters": [leaf("eq", json!("x")), en] }), &[0]);
        check(json!({ "type": "or", "filters": [leaf("eq", json!(10)), en] }), &[0, 3]);
    }

    #[test]
    fn keys_are_known_by_live_documents_only() {
        let columns = columns_of(&examples());
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["a", "lang"]);
        assert!(columns.has_key("lang", None) && !columns.has_key("language", None));
        let mut live = Bits::ones(columns.len);
        live.set(0, false);
        assert!(columns.has_key("lang", Some(&live)));
        live.set(7, false);
        assert!(!columns.has_key("lang", Some(&live)));
    }

    #[test]
    fn merging_equals_building_from_what_is_left() {
        let rows = examples();
        let (left, right) = rows.split_at(4);
        let (left, right) = (columns_of(left), columns_of(right));
        let mut builder = ColumnsBuilder::default();
        // The right side comes first and loses its last two rows.
        builder.add_columns(&right, &[Some(0), Some(1), Some(2), Some(3), Some(4), None, None]);
        builder.add_columns(&left, &[Some(5), Some(6), Some(7), Some(8)]);
        let expected: Vec<_> = rows[4..9].iter().chain(&rows[..4]).cloned().collect();
        assert_eq!(builder.finish(9), columns_of(&expected));
    }

    #[test]
    fn numbers_sort_by_their_bits() {
        let numbers = [f64::MIN, -1.0, -f64::MIN_POSITIVE, 0.0, f64::MIN_POSITIVE, 1.0, f64::MAX];
        assert!(numbers.map(sortable).is_sorted());
        assert_eq!(sortable(-0.0), sortable(0.0));
    }
}
