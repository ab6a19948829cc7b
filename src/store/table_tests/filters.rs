//! What a filter means in SQL, which is what it means in the in-process index.

use serde_json::{Map, Value, json};
use tertulia_index::{Analyzer, Batch, Chunk, Filter, Fusion, Index, Mode, Options, Query, Settings, VectorSearch};
use uuid::Uuid;

use super::TestDatabase;

/// Whether the index lets a chunk of that metadata through.
fn matches_in_the_index(metadata: &str, filter: &Value) -> bool {
    let settings =
        Settings { dimensions: 2, encoder: "test".into(), analyzer: Analyzer::English, vectors: VectorSearch::Auto };
    let chunk = |id: u128, metadata: &str| Chunk {
        id: Uuid::from_u128(id),
        document_id: Uuid::from_u128(9),
        external_id: "a".into(),
        title: String::new(),
        source_url: None,
        heading: String::new(),
        ordinal: id as u32,
        content: "text".into(),
        embedding: vec![1.0, 1.0],
        metadata: serde_json::from_str::<Map<String, Value>>(metadata).unwrap(),
    };
    // The second one has the keys that the first one lacks, since a key that no chunk has is a mistake there.
    let upserts = vec![chunk(1, metadata), chunk(2, r#"{"s": "x", "missing": "x", "null": "x", "empty": "x"}"#)];
    let index = Index::new(settings);
    index.apply(Batch { version: 1, upserts, deletions: Vec::new() }).unwrap();
    let filter = Filter::from_json(filter).unwrap();
    let query = Query {
        text: "text",
        embedding: Some(&[1.0, 1.0]),
        top_k: 2,
        mode: Mode::Semantic,
        prefix: false,
        filter: Some(&filter),
        fusion: Fusion::default(),
        options: Options::default(),
        explain: false,
    };
    index.search(&query).unwrap().hits.iter().any(|hit| hit.row().id == Uuid::from_u128(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_mean_what_they_say() {
    let db = TestDatabase::create().await;
    let client = db.connect("tertulia_user").await;
    let statement = client.prepare("SELECT tertulia_matches($1::text::jsonb, $2::text::jsonb)").await.unwrap();
    let matches = async |metadata: &str, filter: &Value| -> bool {
        let matches = client.query_one(&statement, &[&metadata, &filter.to_string()]).await.unwrap().get(0);
        // Only the SQL gets to see orders of what has none: the index's reader refuses them.
        if Filter::from_json(filter).is_ok() {
            assert_eq!(matches_in_the_index(metadata, filter), matches, "in the index: {filter}");
        }
        matches
    };
    let metadata = r#"{
        "s": "en", "upper": "Zed", "umlaut": "é", "n": 3, "f": 2.5, "big": 9007199254740993, "tiny": 1e-400, "b": true,
        "list": ["a", 2, false, ["nested"], {"o": 1}, null], "empty": [], "object": {"k": 1}, "null": null
    }"#;
    let cases: &[(&str, &str, Value, bool)] = &[
        ("eq", "s", json!("en"), true),
        ("eq", "s", json!("EN"), false),
        ("eq", "n", json!(3), true),
        ("eq", "n", json!(3.0), true),
        ("eq", "n", json!("3"), false),
        ("eq", "b", json!(true), true),
        ("eq", "b", json!(1), false),
        ("eq", "big", json!(9_007_199_254_740_992_u64), true),
        ("eq", "tiny", json!(0), true),
        ("eq", "missing", json!("en"), false),
        ("eq", "null", json!("en"), false),
        ("eq", "object", json!("k"), false),
        ("eq", "list", json!("a"), true),
        ("eq", "list", json!(2), true),
        ("eq", "list", json!(false), true),
        ("eq", "list", json!(true), false),
        ("eq", "list", json!("nested"), false),
        ("eq", "empty", json!("a"), false),
        ("ne", "s", json!("en"), false),
        ("ne", "s", json!("de"), true),
        ("ne", "n", json!("3"), true),
        ("ne", "missing", json!("en"), true),
        ("ne", "null", json!("en"), true),
        ("ne", "list", json!("a"), false),
        ("ne", "list", json!("b"), true),
        ("ne", "object", json!("k"), true),
        ("gt", "n", json!(2.9), true),
        ("gt", "n", json!(3), false),
        ("gte", "n", json!(3), true),
        ("lt", "f", json!(3), true),
        ("lte", "f", json!(2.5), true),
        ("lte", "f", json!(2.4), false),
        ("gt", "n", json!("2"), false),
        ("lt", "n", json!("4"), false),
        ("lt", "upper", json!("a"), true),
        ("gt", "umlaut", json!("z"), true),
        ("gte", "s", json!("en"), true),
        ("gt", "b", json!(false), false),
        ("lt", "list", json!(5), false),
        ("lt", "missing", json!(5), false),
        ("gt", "null", json!(0), false),
        ("gt", "object", json!(0), false),
        ("in", "s", json!(["de", "en"]), true),
        ("in", "s", json!(["de", 1]), false),
        ("in", "n", json!(["3", 3.0]), true),
        ("in", "list", json!([7, 2]), true),
        ("in", "missing", json!(["en"]), false),
        ("nin", "s", json!(["de", "en"]), false),
        ("nin", "s", json!(["de"]), true),
        ("nin", "missing", json!(["en"]), true),
        ("nin", "null", json!(["en"]), true),
        ("nin", "list", json!(["a"]), false),
        ("exists", "s", Value::Null, true),
        ("exists", "missing", Value::Null, false),
        ("exists", "null", Value::Null, false),
        ("exists", "object", Value::Null, true),
        ("exists", "empty", Value::Null, true),
    ];
    for (kind, key, value, expected) in cases {
        let mut filter = json!({ "type": kind, "key": key });
        if *kind != "exists" {
            filter["value"] = value.clone();
        }
        assert_eq!(matches(metadata, &filter).await, *expected, "{filter}");
        assert_ne!(matches(metadata, &json!({ "type": "not", "filter": filter })).await, *expected, "not {filter}");
    }
    let (yes, no) = (json!({ "type": "exists", "key": "s" }), json!({ "type": "exists", "key": "missing" }));
    for (kind, filters, expected) in [
        ("and", json!([yes, yes]), true),
        ("and", json!([yes, no]), false),
        ("or", json!([no, yes]), true),
        ("or", json!([no, no]), false),
        ("or", json!([no, { "type": "and", "filters": [yes, { "type": "not", "filter": no }] }]), true),
    ] {
        let filter = json!({ "type": kind, "filters": filters });
        assert_eq!(matches(metadata, &filter).await, expected, "{filter}");
    }
    assert!(!matches("{}", &yes).await);
    let mut deep = yes.clone();
    for _ in 0..15 {
        deep = json!({ "type": "not", "filter": deep });
    }
    assert!(!matches(metadata, &deep).await);
    let unknown = json!({ "type": "like", "key": "s", "value": "e%" }).to_string();
    assert!(client.query_one(&statement, &[&"{}", &unknown]).await.is_err(), "no filter means something by chance");
}
