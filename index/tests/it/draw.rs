//! Strategies that draw chunks and questions, few of each kind, so that ties, replacements and matches are common.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};
use tertulia_index::{Chunk, Mode};
use uuid::Uuid;

use crate::plain::{DATE, Question};

pub(crate) const DIMENSIONS: usize = 16;
const WORDS: [&str; 12] = [
    "vacuum",
    "vacuuming",
    "index",
    "indexes",
    "table",
    "lock",
    "the",
    "pg_stat_activity",
    "E0499",
    "std::vec",
    "max",
    "activity",
];

/// Few ids, in an order that has nothing to do with that of their numbers.
pub(crate) fn id() -> impl Strategy<Value = Uuid> {
    (0_u128..48).prop_map(|number| Uuid::from_u128(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)))
}

/// 1, 4 or 16 components of one size: unit vectors whose products are exact in f32 in whatever order they are summed.
/// Many chunks are equally near to a question. Scaled by a power of two, which a unit length takes away exactly.
pub(crate) fn embedding() -> impl Strategy<Value = Vec<f32>> {
    (select(vec![1_usize, 4, 16]), 0..DIMENSIONS, any::<u16>(), -3_i32..4).prop_map(|(count, first, signs, scale)| {
        let mut embedding = vec![0.0; DIMENSIONS];
        for at in 0..count {
            let sign = if signs >> at & 1 == 1 { -1.0 } else { 1.0 };
            embedding[(first + at * (DIMENSIONS / count)) % DIMENSIONS] = sign * 2.0_f32.powi(scale);
        }
        embedding
    })
}

fn words(at_most: usize) -> impl Strategy<Value = String> {
    vec(select(WORDS.as_slice()), 0..=at_most).prop_map(|words| words.join(" "))
}

fn scalar() -> impl Strategy<Value = Value> {
    let of_every_kind = vec![
        json!("a"),
        json!("b"),
        json!("é"),
        json!(DATE.0),
        json!(1),
        json!(2.5),
        json!(-3),
        json!(true),
        json!(false),
    ];
    select(of_every_kind)
}

fn metadata() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![
        6 => scalar(),
        2 => vec(scalar(), 0..3).prop_map(Value::Array),
        1 => Just(Value::Null),
        1 => Just(json!({ "deep": "a" })),
        1 => Just(json!([["a"]])),
    ];
    vec((select(vec!["lang", "year", "tags", "rare"]), value), 0..4).prop_map(|pairs| {
        // `rare` is, so that its last chunk goes away at times.
        let keep = |at: usize, key: &str| key != "rare" || at == 0;
        pairs
            .into_iter()
            .enumerate()
            .filter(|(at, (key, _))| keep(*at, key))
            .map(|(_, (key, value))| (key.to_owned(), value))
            .collect()
    })
}

pub(crate) fn chunk() -> impl Strategy<Value = Chunk> {
    let texts = (words(2), words(2), words(8), option::of(Just("https://docs.test/".to_owned())));
    (id(), 0_u128..3, texts, 0_u32..4, embedding(), metadata()).prop_map(
        |(id, document, (title, heading, content, source_url), ordinal, embedding, metadata)| Chunk {
            id,
            document_id: Uuid::from_u128(document),
            external_id: format!("document {document}"),
            title,
            source_url,
            heading,
            ordinal,
            content,
            embedding,
            metadata,
        },
    )
}

fn filter() -> impl Strategy<Value = Value> {
    let key = || select(vec!["lang", "year", "tags", "rare"]);
    let ordered = scalar().prop_filter("true and false have no order", |value| !value.is_boolean());
    let leaf = prop_oneof![
        (select(vec!["eq", "ne"]), key(), scalar())
            .prop_map(|(kind, key, value)| { json!({ "type": kind, "key": key, "value": value }) }),
        (select(vec!["gt", "gte", "lt", "lte"]), key(), ordered)
            .prop_map(|(kind, key, value)| { json!({ "type": kind, "key": key, "value": value }) }),
        (select(vec!["in", "nin"]), key(), vec(scalar(), 0..3))
            .prop_map(|(kind, key, values)| { json!({ "type": kind, "key": key, "value": values }) }),
        key().prop_map(|key| json!({ "type": "exists", "key": key })),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            (select(vec!["and", "or"]), vec(inner.clone(), 1..3))
                .prop_map(|(kind, filters)| json!({ "type": kind, "filters": filters })),
            inner.prop_map(|filter| json!({ "type": "not", "filter": filter })),
        ]
    })
}

pub(crate) fn question() -> impl Strategy<Value = Question> {
    let mode = select(vec![Mode::Hybrid, Mode::Semantic, Mode::Keyword]);
    let phrase = || vec(select(WORDS.as_slice()), 1..=3).prop_map(|words| words.join(" "));
    // Most questions are plain.
    let conditions = prop_oneof![
        2 => Just((vec![], vec![])),
        1 => (vec(phrase(), 0..=1), vec(phrase(), 0..=2)),
    ];
    let cut = prop_oneof![1 => Just(0_usize), 1 => 1..4_usize];
    let text = (words(4), cut).prop_map(|(text, cut)| text[..text.len().saturating_sub(cut)].trim_end().to_owned());
    let asked = (
        text,
        conditions,
        any::<bool>(),
        embedding(),
        select(vec![0_usize, 1, 3, 10, 100]),
        mode,
        option::of(filter()),
    );
    // Half of the questions have no options.
    let key = select(vec!["lang", "year", "tags", "rare"]).prop_map(str::to_owned);
    let options = (
        prop_oneof![2 => Just(0.0_f32), 1 => select(vec![0.001, 0.1, 0.25, 0.5, 0.75, 1.0])],
        any::<bool>(),
        prop_oneof![2 => Just(0.0_f32), 1 => select(vec![0.25, 0.5, 1.0])],
        option::weighted(0.3, (key, 1_u64..4)),
        0_u32..4,
    );
    let options = prop_oneof![Just((0.0, false, 0.0, None, 0)), options];
    (asked, options).prop_map(|(asked, options)| {
        let (text, (phrases, excluded), prefix, embedding, top_k, mode, filter) = asked;
        let (min_score, group_by_document, diversity, recency, expand) = options;
        Question {
            text,
            phrases,
            excluded,
            prefix,
            embedding,
            top_k,
            mode,
            filter,
            min_score,
            group_by_document,
            diversity,
            recency,
            expand,
        }
    })
}
