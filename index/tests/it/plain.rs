//! The plain implementation: a map of chunks, and each answer worked out from all of them. Nothing is shared with the
//! index but the analyzer, and sums are made in the same order, so answers must be the same to the last bit.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tertulia_index::{Analyzer, Batch, Chunk, Fusion, Mode};
use uuid::Uuid;

/// A question to both.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// Words that rank, one blank apart.
    pub(crate) text: String,
    /// What hits have, of words in a row.
    pub(crate) phrases: Vec<String>,
    /// What no hit has.
    pub(crate) excluded: Vec<String>,
    pub(crate) prefix: bool,
    pub(crate) embedding: Vec<f32>,
    pub(crate) top_k: usize,
    pub(crate) mode: Mode,
    /// In the form that `Filter::from_json` reads.
    pub(crate) filter: Option<Value>,
}

impl Question {
    /// As it is asked.
    pub(crate) fn written(&self) -> String {
        if self.mode == Mode::Semantic {
            return self.text.clone();
        }
        let mut parts: Vec<String> = self.excluded.iter().map(|excluded| format!("-\"{excluded}\"")).collect();
        parts.extend(self.phrases.iter().map(|phrase| format!("\"{phrase}\"")));
        parts.push(self.text.clone());
        parts.join(" ")
    }

    /// All that ranks.
    fn ranking(&self) -> String {
        [self.phrases.join(" "), self.text.clone()].join(" ").trim().to_owned()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Plain {
    pub(crate) version: u64,
    pub(crate) chunks: BTreeMap<Uuid, Chunk>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct UnknownKey(pub(crate) String);

impl Plain {
    pub(crate) fn apply(&mut self, batch: &Batch) {
        batch.deletions.iter().for_each(|id| _ = self.chunks.remove(id));
        batch.upserts.iter().for_each(|chunk| _ = self.chunks.insert(chunk.id, chunk.clone()));
        self.version = batch.version;
    }

    /// Ids and scores, best first.
    pub(crate) fn answer(&self, question: &Question, fusion: &Fusion) -> Result<Vec<(Uuid, f32)>, UnknownKey> {
        if let Some(filter) = &question.filter {
            let has = |chunk: &Chunk, key: &str| chunk.metadata.get(key).is_some_and(|value| !value.is_null());
            for key in keys(filter) {
                if !self.chunks.is_empty() && !self.chunks.values().any(|chunk| has(chunk, &key)) {
                    return Err(UnknownKey(key));
                }
            }
        }
        let is_nothing =
            !question.excluded.is_empty() && question.ranking().is_empty() && question.mode != Mode::Semantic;
        let passes = |chunk: &Chunk| {
            let is_worded = question.mode == Mode::Semantic
                || question.phrases.iter().all(|phrase| has_phrase(chunk, phrase))
                    && !question.excluded.iter().any(|excluded| has_phrase(chunk, excluded));
            !is_nothing && is_worded && question.filter.as_ref().is_none_or(|filter| fits(filter, chunk))
        };
        let list_len = if question.mode == Mode::Hybrid { (2 * question.top_k).max(20) } else { question.top_k };
        let semantic = || self.semantic(&question.embedding, list_len, passes);
        let keyword = || self.keyword(&question.ranking(), question.prefix, list_len, passes);
        let mut found = match question.mode {
            Mode::Semantic => semantic().into_iter().map(|(id, score)| (id, score.clamp(0.0, 1.0))).collect(),
            Mode::Keyword => keyword(),
            Mode::Hybrid => fused(&semantic(), &keyword(), fusion),
        };
        found.truncate(question.top_k);
        Ok(found)
    }

    fn semantic(&self, embedding: &[f32], k: usize, passes: impl Fn(&Chunk) -> bool) -> Vec<(Uuid, f32)> {
        let cosine = |chunk: &Chunk| {
            let dot = |left: &[f32], right: &[f32]| {
                left.iter().zip(right).map(|(left, right)| f64::from(left * right)).sum::<f64>()
            };
            let lengths = dot(embedding, embedding).sqrt() * dot(&chunk.embedding, &chunk.embedding).sqrt();
            (dot(embedding, &chunk.embedding) / lengths) as f32
        };
        best(self.chunks.values().filter(|chunk| passes(chunk)).map(|chunk| (chunk.id, cosine(chunk))), k)
    }

    /// BM25 with headings counted twice, as a share of what no chunk can reach.
    fn keyword(&self, text: &str, prefix: bool, k: usize, passes: impl Fn(&Chunk) -> bool) -> Vec<(Uuid, f32)> {
        let mut words: BTreeMap<Uuid, (u32, BTreeMap<String, u32>)> =
            self.chunks.iter().map(|(id, chunk)| (*id, words_of(chunk))).collect();
        let count = words.len() as f64;
        let average = (words.values().map(|(length, _)| f64::from(*length)).sum::<f64>() / count).max(1.0);
        let mut asked = terms_of(Analyzer::English, text);
        // The one that is typed, and how many chunks have each of the terms that it stands for, all together.
        let mut unfinished = None;
        if prefix && let Some(last) = text.split(' ').next_back().filter(|last| !last.is_empty()) {
            // A name of several parts is the first of its terms.
            let whole = asked.len() - terms_of(Analyzer::English, last).len();
            let form = terms_of(Analyzer::Simple, last)[0].clone();
            let known: BTreeSet<&String> = words.values().flat_map(|(_, frequencies)| frequencies.keys()).collect();
            let mut meant: Vec<String> =
                known.iter().filter(|term| term.starts_with(&form)).copied().cloned().collect();
            if !meant.contains(&asked[whole]) && known.contains(&asked[whole]) {
                meant.push(asked[whole].clone());
            }
            if meant.is_empty() {
                let shorter = (3..form.len()).rev().map(|end| form[..end].to_owned());
                meant.extend(shorter.into_iter().find(|term| known.contains(term)));
            }
            let frequency = |term: &String| words.values().filter(|(_, terms)| terms.contains_key(term)).count();
            unfinished = Some((form.clone() + "\u{1}", meant.iter().map(frequency).sum::<usize>() as f64));
            // A term of its own, right behind that of the same name.
            asked[whole] = form + "\u{1}";
            for (_, frequencies) in words.values_mut() {
                let sum: u32 = meant.iter().filter_map(|term| frequencies.get(term)).sum();
                if sum > 0 {
                    frequencies.insert(asked[whole].clone(), sum);
                }
            }
        }
        let mut weights: BTreeMap<String, f32> = BTreeMap::new();
        asked.into_iter().for_each(|term| *weights.entry(term).or_default() += 1.0);
        let mut weights: Vec<(String, f32)> = weights.into_iter().collect();
        for (term, weight) in &mut weights {
            let with = words.values().filter(|(_, frequencies)| frequencies.contains_key(term)).count() as f64;
            let with = match &unfinished {
                Some((form, together)) if form == term => count.min(*together),
                _ => with,
            };
            *weight *= ((count - with + 0.5) / (with + 0.5)).ln_1p() as f32;
        }
        weights.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        let ceiling: f32 = weights.iter().map(|(_, weight)| weight).sum();
        let (base, slope) = (1.2 * (1.0 - 0.5_f32), (f64::from(1.2 * 0.5_f32) / average) as f32);
        let scored = self.chunks.values().filter(|chunk| passes(chunk)).filter_map(|chunk| {
            let (length, frequencies) = &words[&chunk.id];
            let mut score = 0.0_f32;
            for (term, weight) in &weights {
                if let Some(frequency) = frequencies.get(term) {
                    let frequency = *frequency as f32;
                    score += weight * frequency / (frequency + (base + slope * *length as f32));
                }
            }
            (score > 0.0).then_some((chunk.id, score))
        });
        best(scored, k).into_iter().map(|(id, score)| (id, score / ceiling)).collect()
    }
}

/// The best `k`, ties by id.
fn best(scored: impl Iterator<Item = (Uuid, f32)>, k: usize) -> Vec<(Uuid, f32)> {
    let mut scored: Vec<_> = scored.collect();
    scored.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    scored.truncate(k);
    scored
}

fn fused(semantic: &[(Uuid, f32)], keyword: &[(Uuid, f32)], fusion: &Fusion) -> Vec<(Uuid, f32)> {
    let constant = f64::from(fusion.constant);
    let lists = [(semantic, f64::from(fusion.semantic_weight)), (keyword, f64::from(fusion.keyword_weight))];
    let most: f64 = lists.iter().map(|(_, weight)| weight / (constant + 1.0)).sum();
    let mut scores: BTreeMap<Uuid, f64> = BTreeMap::new();
    for (list, weight) in lists {
        for ((id, _), rank) in list.iter().zip(1_u32..) {
            *scores.entry(*id).or_default() += weight / (constant + f64::from(rank)) / most;
        }
    }
    best(scores.into_iter().map(|(id, score)| (id, score.min(1.0) as f32)), usize::MAX)
}

/// Weighted length, and weighted frequency by term.
fn words_of(chunk: &Chunk) -> (u32, BTreeMap<String, u32>) {
    let (mut length, mut frequencies) = (0, BTreeMap::new());
    for (text, weight) in [(&chunk.title, 1), (&chunk.heading, 2), (&chunk.content, 1)] {
        Analyzer::English.terms(text, &mut |term| {
            *frequencies.entry(term.to_owned()).or_insert(0) += weight;
            length += weight;
        });
    }
    (length, frequencies)
}

fn terms_of(analyzer: Analyzer, text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    analyzer.terms(text, &mut |term| terms.push(term.to_owned()));
    terms
}

/// Whether one of the chunk's texts has the terms of `phrase` in a row; none has those of an empty one.
fn has_phrase(chunk: &Chunk, phrase: &str) -> bool {
    let phrase = terms_of(Analyzer::English, phrase);
    [&chunk.title, &chunk.heading, &chunk.content]
        .into_iter()
        .any(|text| terms_of(Analyzer::English, text).windows(phrase.len()).any(|terms| terms == phrase))
}

/// The keys of a filter, in the order of first mention.
fn keys(filter: &Value) -> Vec<String> {
    match filter["type"].as_str() {
        Some("and" | "or") => parts(filter).iter().flat_map(keys).collect(),
        Some("not") => keys(&filter["filter"]),
        _ => filter["key"].as_str().map(str::to_owned).into_iter().collect(),
    }
}

fn parts(filter: &Value) -> &[Value] {
    filter["filters"].as_array().expect("compounds have filters")
}

/// What `docs` say of filters, word for word, over one chunk.
fn fits(filter: &Value, chunk: &Chunk) -> bool {
    let (wanted, kind) = (&filter["value"], filter["type"].as_str().expect("a type"));
    let found = filter["key"].as_str().and_then(|key| chunk.metadata.get(key)).filter(|value| !value.is_null());
    let any_of = |wanted: &Value| wanted.as_array().expect("a list").iter().any(|wanted| equals(found, wanted));
    match kind {
        "and" => parts(filter).iter().all(|part| fits(part, chunk)),
        "or" => parts(filter).iter().any(|part| fits(part, chunk)),
        "not" => !fits(&filter["filter"], chunk),
        "exists" => found.is_some(),
        "eq" => equals(found, wanted),
        "ne" => !equals(found, wanted),
        "in" => any_of(wanted),
        "nin" => !any_of(wanted),
        _ => {
            let order = match (found, wanted) {
                (Some(Value::Number(found)), Value::Number(wanted)) => found.as_f64().partial_cmp(&wanted.as_f64()),
                (Some(Value::String(found)), Value::String(wanted)) => Some(found.cmp(wanted)),
                _ => None,
            };
            match kind {
                "gt" => order.is_some_and(|order| order.is_gt()),
                "gte" => order.is_some_and(|order| order.is_ge()),
                "lt" => order.is_some_and(|order| order.is_lt()),
                "lte" => order.is_some_and(|order| order.is_le()),
                other => panic!("{other}"),
            }
        }
    }
}

fn equals(found: Option<&Value>, wanted: &Value) -> bool {
    let same = |found: &Value| match (found, wanted) {
        (Value::Number(found), Value::Number(wanted)) => found.as_f64() == wanted.as_f64(),
        (Value::String(found), Value::String(wanted)) => found == wanted,
        (Value::Bool(found), Value::Bool(wanted)) => found == wanted,
        _ => false,
    };
    match found {
        Some(Value::Array(elements)) => elements.iter().any(same),
        Some(value) => same(value),
        None => false,
    }
}
