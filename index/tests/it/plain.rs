//! The plain implementation: a map of chunks, and each answer worked out from all of them. Nothing is shared with the
//! index but the analyzer, and sums are made in the same order, so answers must be the same to the last bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use tertulia_index::{Analyzer, Batch, Chunk, Fusion, Mode, Options, Recency};
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
    pub(crate) min_score: f32,
    pub(crate) group_by_document: bool,
    pub(crate) diversity: f32,
    /// Key and half-life in seconds; it is [`NOW`].
    pub(crate) recency: Option<(String, u64)>,
    pub(crate) expand: u32,
}

/// Seconds since 1970.
pub(crate) const NOW: f64 = 10.0;
/// What may stand in metadata, and the second that it is.
pub(crate) const DATE: (&str, f64) = ("1970-01-01T00:00:04Z", 4.0);

impl Question {
    pub(crate) fn options(&self) -> Options<'_> {
        Options {
            min_score: self.min_score,
            group_by_document: self.group_by_document,
            diversity: self.diversity,
            recency: self.recency.as_ref().map(|(key, half_life)| Recency {
                key,
                half_life: Duration::from_secs(*half_life),
                now: NOW,
            }),
            expand: self.expand,
            highlight: false,
        }
    }
}

/// What an answer should have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expected {
    pub(crate) id: Uuid,
    pub(crate) score: f32,
    pub(crate) before: Vec<Uuid>,
    pub(crate) after: Vec<Uuid>,
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

    /// Hits, best first.
    pub(crate) fn answer(&self, question: &Question, fusion: &Fusion) -> Result<Vec<Expected>, UnknownKey> {
        let keys_asked = question.recency.iter().map(|(key, _)| key.clone());
        for key in keys_asked.chain(question.filter.iter().flat_map(keys)) {
            let has = |chunk: &Chunk| chunk.metadata.get(&key).is_some_and(|value| !value.is_null());
            if !self.chunks.is_empty() && !self.chunks.values().any(has) {
                return Err(UnknownKey(key));
            }
        }
        let is_nothing =
            !question.excluded.is_empty() && question.ranking().is_empty() && question.mode != Mode::Semantic;
        // What may be shown beside a hit, and what may be one.
        let is_shown = |chunk: &Chunk| question.filter.as_ref().is_none_or(|filter| fits(filter, chunk));
        let passes = |chunk: &Chunk| {
            let is_worded = question.mode == Mode::Semantic
                || question.phrases.iter().all(|phrase| has_phrase(chunk, phrase))
                    && !question.excluded.iter().any(|excluded| has_phrase(chunk, excluded));
            !is_nothing && is_worded && is_shown(chunk)
        };
        let all_semantic = self.semantic(&question.embedding, passes);
        let (all_keyword, ceiling) = self.keyword(&question.ranking(), question.prefix, passes);
        let score_of = |cosine: f32, keyword: f32| {
            let (semantic, keyword) = (cosine.clamp(0.0, 1.0), if ceiling > 0.0 { keyword / ceiling } else { 0.0 });
            match question.mode {
                Mode::Semantic => semantic,
                Mode::Keyword => keyword,
                Mode::Hybrid => (fusion.semantic_weight * semantic + fusion.keyword_weight * keyword) / 3.0,
            }
        };
        let raws = |list: &[(Uuid, f32)]| list.iter().copied().collect::<BTreeMap<_, _>>();
        let (cosines, keywords) = (raws(&all_semantic), raws(&all_keyword));
        let raw = |raws: &BTreeMap<Uuid, f32>, id| raws.get(&id).copied().unwrap_or(0.0);
        let weight = |id: Uuid| question.recency.as_ref().map_or(1.0, |recency| weight(&self.chunks[&id], recency));
        let score = |id| score_of(raw(&cosines, id), raw(&keywords, id)) * weight(id);

        let mut depth = match question.mode {
            _ if question.diversity > 0.0 || question.recency.is_some() => (10 * question.top_k).max(100),
            Mode::Hybrid => (2 * question.top_k).max(10),
            _ => question.top_k,
        };
        let chosen = loop {
            let first = |list: &[(Uuid, f32)]| list.iter().copied().take(depth).collect::<Vec<_>>();
            let (semantic, keyword) = match question.mode {
                Mode::Semantic => (first(&all_semantic), Vec::new()),
                Mode::Keyword => (Vec::new(), first(&all_keyword)),
                Mode::Hybrid => (first(&all_semantic), first(&all_keyword)),
            };
            let mut ranked: Vec<(Uuid, f32)> = match question.mode {
                Mode::Semantic => semantic.iter().map(|(id, cosine)| (*id, score_of(*cosine, 0.0))).collect(),
                Mode::Keyword => keyword.iter().map(|(id, raw)| (*id, score_of(0.0, *raw))).collect(),
                Mode::Hybrid => fused(&semantic, &keyword, fusion),
            };
            ranked.iter_mut().for_each(|(id, relevance)| *relevance *= weight(*id));
            ranked.sort_by(|left, right| right.1.total_cmp(&left.1));
            ranked.retain(|(id, _)| score(*id) >= question.min_score);
            let mut documents = BTreeSet::new();
            ranked.retain(|(id, _)| !question.group_by_document || documents.insert(self.chunks[id].document_id));
            let chosen = self.diverse(ranked, question.top_k, question.diversity);
            let last = |list: &[(Uuid, f32)]| list.get(depth.wrapping_sub(1)).map(|(_, raw)| *raw);
            let lasts = [last(&semantic), last(&keyword)];
            let reach = score_of(lasts[0].unwrap_or(0.0), lasts[1].unwrap_or(0.0));
            if chosen.len() >= question.top_k || lasts == [None, None] || reach < question.min_score {
                break chosen;
            }
            depth *= 4;
        };
        let neighbours = |id: Uuid, is_side: fn(u32, u32) -> bool| {
            let hit = &self.chunks[&id];
            let of_document = self.chunks.values().filter(|chunk| chunk.document_id == hit.document_id);
            let mut near: Vec<&Chunk> = of_document.filter(|chunk| is_side(chunk.ordinal, hit.ordinal)).collect();
            near.retain(|chunk| chunk.ordinal.abs_diff(hit.ordinal) <= question.expand && is_shown(chunk));
            near.sort_by_key(|chunk| (chunk.ordinal, chunk.id));
            near.into_iter().map(|chunk| chunk.id).collect()
        };
        let expected = |id| Expected {
            id,
            score: score(id),
            before: neighbours(id, |ordinal, of_hit| ordinal < of_hit),
            after: neighbours(id, |ordinal, of_hit| ordinal > of_hit),
        };
        Ok(chosen.into_iter().map(expected).collect())
    }

    /// One after the other, what is relevant and unlike all before.
    fn diverse(&self, mut ranked: Vec<(Uuid, f32)>, top_k: usize, diversity: f32) -> Vec<Uuid> {
        if diversity == 0.0 {
            return ranked.into_iter().take(top_k).map(|(id, _)| id).collect();
        }
        let mut chosen: Vec<Uuid> = Vec::new();
        let mut nearest: BTreeMap<Uuid, f32> = BTreeMap::new();
        while chosen.len() < top_k && !ranked.is_empty() {
            let gain = |(id, relevance): &(Uuid, f32)| (1.0 - diversity) * relevance - diversity * nearest[id];
            // The first is the most relevant even where relevance counts for nothing.
            let mut at = 0;
            if !chosen.is_empty() {
                let gains: Vec<f32> = ranked.iter().map(gain).collect();
                let most = gains.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                at = gains.iter().position(|gain| *gain == most).expect("one of them");
            }
            let (next, _) = ranked.remove(at);
            for (id, _) in &ranked {
                let near = cosine(&self.chunks[&next].embedding, &self.chunks[id].embedding);
                nearest.entry(*id).and_modify(|nearest| *nearest = nearest.max(near)).or_insert(near);
            }
            chosen.push(next);
        }
        chosen
    }

    fn semantic(&self, embedding: &[f32], passes: impl Fn(&Chunk) -> bool) -> Vec<(Uuid, f32)> {
        let passing = self.chunks.values().filter(|chunk| passes(chunk));
        best(passing.map(|chunk| (chunk.id, cosine(embedding, &chunk.embedding))))
    }

    /// BM25 with headings counted twice, and what no chunk can reach.
    fn keyword(&self, text: &str, prefix: bool, passes: impl Fn(&Chunk) -> bool) -> (Vec<(Uuid, f32)>, f32) {
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
        (best(scored), ceiling)
    }
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let dot =
        |left: &[f32], right: &[f32]| left.iter().zip(right).map(|(left, right)| f64::from(left * right)).sum::<f64>();
    (dot(left, right) / (dot(left, left).sqrt() * dot(right, right).sqrt())) as f32
}

/// Half for each half-life, one for a chunk without a time.
fn weight(chunk: &Chunk, (key, half_life): &(String, u64)) -> f32 {
    let at = match chunk.metadata.get(key) {
        Some(Value::Number(seconds)) => seconds.as_f64().expect("a number"),
        Some(Value::String(text)) if text == DATE.0 => DATE.1,
        _ => return 1.0,
    };
    0.5_f64.powf((NOW - at) / *half_life as f64) as f32
}

/// Best first, ties by id.
fn best(scored: impl Iterator<Item = (Uuid, f32)>) -> Vec<(Uuid, f32)> {
    let mut scored: Vec<_> = scored.collect();
    scored.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
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
    best(scores.into_iter().map(|(id, score)| (id, score.min(1.0) as f32)))
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
