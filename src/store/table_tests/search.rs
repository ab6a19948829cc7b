//! Searches that Postgres answers.

use serde_json::{Map, Value, json};

use super::{TestDatabase, chunk, document, insert_chunks, value};
use crate::{
    ctx::Ctx,
    store::{
        chunks::NewChunk,
        documents::{self, NewDocument},
        knowledge_bases::{self, KnowledgeBaseRow},
        search::{self, FallbackHit},
    },
};
use tertulia_index::{Analyzer, Question};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

async fn put(db: &TestDatabase, ctx: &Ctx, base: &KnowledgeBaseRow, document: &NewDocument, chunks: &[NewChunk]) {
    let mut tx = db.tx(ctx).await;
    documents::replace(&mut tx, base.id, base.generation_id, document, chunks).await.unwrap();
    tx.commit().await.unwrap();
}

async fn keyword(db: &TestDatabase, ctx: &Ctx, base: &KnowledgeBaseRow, question: &str) -> Vec<FallbackHit> {
    let mut tx = db.tx(ctx).await;
    let hits = search::keyword(&mut tx, base, &Question::parse(question), false, None, 10).await.unwrap();
    tx.commit().await.unwrap();
    hits
}

fn contents(hits: &[FallbackHit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.content.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_word_of_the_question_finds_and_titles_weigh_most() {
    let db = TestDatabase::create().await;
    let (ctx, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let base = db.base(&ctx, "docs").await;
    let other = db.base(&ctx, "other").await;
    let titled = NewDocument { title: "Replication".into(), ..document("r") };
    put(&db, &ctx, &base, &titled, &[chunk(0, "about slots")]).await;
    let texts = ["replication is mentioned once among many other words", "vacuuming tables", "pg_stat_activity view"];
    let chunks: Vec<_> = (0..).zip(texts).map(|(ordinal, text)| chunk(ordinal, text)).collect();
    put(&db, &ctx, &base, &document("x"), &chunks).await;
    put(&db, &ctx, &other, &document("y"), &[chunk(0, "replication elsewhere")]).await;

    let hits = keyword(&db, &ctx, &base, "How does replication work?").await;
    assert_eq!(contents(&hits), ["about slots", texts[0]]);
    assert!(hits[0].score > hits[1].score && hits[0].score <= 1.0 && hits[1].score > 0.0);
    assert_eq!((hits[0].title.as_str(), hits[0].external_id.as_str()), ("Replication", "r"));
    assert_eq!(contents(&keyword(&db, &ctx, &base, "vacuumed nonsense").await), [texts[1]], "stems, any word");
    assert_eq!(contents(&keyword(&db, &ctx, &base, "pg_stat_activity").await), [texts[2]]);
    assert!(keyword(&db, &rival, &base, "replication").await.is_empty());
    for odd in ["", "the of and", "' \\ & | ! ( ) :* <->", "'''", "\\'", "a:b*c | d'e\\f"] {
        assert!(keyword(&db, &ctx, &base, odd).await.is_empty(), "{odd}");
    }
    let long: String = (0..2_000).map(|word| format!("word{word} ")).collect();
    assert!(keyword(&db, &ctx, &base, &(long + "replication")).await.is_empty(), "the 2,001st word is left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn phrases_exclusions_and_unfinished_words_hold_in_both_lists() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    // In the order of their bytes.
    let texts = ["dead tuples are removed", "tuples of the dead", "vacuum, full"];
    let chunks: Vec<_> = (0..).zip(texts).map(|(ordinal, text)| chunk(ordinal, text)).collect();
    put(&db, &ctx, &base, &document("x"), &chunks).await;
    let mut tx = db.tx(&ctx).await;
    let cases: &[(&str, bool, &[&str], &[&str])] = &[
        ("\"dead tuple\"", false, &texts[..1], &texts[..1]),
        ("tuples -\"dead tuples\"", false, &texts[1..2], &texts[1..]),
        ("tuples -removal -o'dd\\:*", false, &texts[1..2], &texts[1..]),
        ("tuples vacuum -the", false, &texts, &texts),
        ("\"the of\" tuples \"\"", false, &texts[..2], &texts),
        ("vacu", false, &[], &texts),
        ("vacu", true, &texts[2..], &texts),
        ("tuple FU'", true, &texts, &texts),
        ("fu vacuuming -full", true, &[], &texts[..2]),
    ];
    for (question, is_prefix, worded, near) in cases {
        let question = Question::parse(question);
        let hits = search::keyword(&mut tx, &base, &question, *is_prefix, None, 10).await.unwrap();
        let mut found = contents(&hits);
        found.sort_unstable();
        assert_eq!(found, *worded, "{question:?}");
        let hits = search::semantic(&mut tx, &base, &[1.0, 0.0, 0.0], &question, None, 10).await.unwrap();
        let mut found = contents(&hits);
        found.sort_unstable();
        assert_eq!(found, *near, "{question:?}");
    }
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_of_the_language_of_their_knowledge_base() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let superuser = db.superuser().await;
    for (analyzer, name) in Analyzer::ALL {
        let mut tx = db.tx(&ctx).await;
        let base = knowledge_bases::insert(&mut tx, name, analyzer, "test-3", 3).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(base.analyzer, analyzer);
        put(&db, &ctx, &base, &document("a"), &[chunk(0, "Häuser und Tabellen")]).await;
        match analyzer {
            Analyzer::German => assert_eq!(keyword(&db, &ctx, &base, "Tabelle der Haus").await.len(), 1),
            Analyzer::Simple | Analyzer::English => assert!(keyword(&db, &ctx, &base, "Haus").await.is_empty()),
            _ => {}
        }
        assert_eq!(keyword(&db, &ctx, &base, "TABELLEN").await.len(), 1, "{name}");
        let configuration = format!("SELECT tertulia_configuration('{name}') = 'pg_catalog.{name}'::regconfig");
        assert!(value::<bool>(&superuser, &configuration).await);
    }
    let unknown = "INSERT INTO knowledge_bases (tenant_id, name, generation_id, analyzer)
        SELECT tenant_id, 'x', generation_id, 'klingon' FROM knowledge_bases";
    assert!(superuser.batch_execute(unknown).await.is_err());
    let client = db.begin(ctx.tenant_id).await;
    assert!(client.batch_execute("UPDATE knowledge_bases SET analyzer = 'simple'").await.is_err(), "never changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_sees_nothing_that_was_written_after_its_version() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    put(&db, &ctx, &base, &document("a"), &[chunk(0, "about slots")]).await;
    let mut tx = db.store.tenant_snapshot(&ctx).await.unwrap();
    let seen = knowledge_bases::find(&mut tx, base.id).await.unwrap().unwrap();
    put(&db, &ctx, &base, &document("a"), &[chunk(0, "about replication")]).await;
    for (question, found) in [("slots", vec!["about slots"]), ("replication", vec![])] {
        assert_eq!(
            contents(&search::keyword(&mut tx, &seen, &Question::parse(question), false, None, 10).await.unwrap()),
            found
        );
    }
    let nearest = search::semantic(&mut tx, &seen, &[1.0, 0.0, 0.0], &Question::plain(""), None, 10).await.unwrap();
    assert_eq!(contents(&nearest), ["about slots"]);
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_are_found_exactly_in_a_small_knowledge_base() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    db.put(&ctx, &base, "a", 50).await;
    let question = [1.0, 20.2, 0.5];
    let mut tx = db.tx(&ctx).await;
    let hits = search::semantic(&mut tx, &base, &question, &Question::plain(""), None, 5).await.unwrap();
    assert_eq!(contents(&hits)[..3], ["text 20", "text 21", "text 19"]);
    assert!(hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)));
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    let opposite = search::semantic(&mut tx, &base, &[-1.0, -20.0, 0.0], &Question::plain(""), None, 1).await.unwrap();
    assert_eq!(opposite[0].score, 0.0);
    tx.commit().await.unwrap();
    let mut tx = db.tx(&ctx).await;
    assert!(
        search::semantic(&mut tx, &base, &[1.0, 2.0], &Question::plain(""), None, 5).await.is_err(),
        "other dimensions"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_holds_inside_of_both_searches() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let german = NewDocument { metadata: object(json!({ "lang": "de", "year": 2020 })), ..document("de") };
    let own = NewChunk { metadata: object(json!({ "year": 2024 })), ..chunk(1, "text own year") };
    put(&db, &ctx, &base, &german, &[chunk(0, "text of the document's year"), own]).await;
    db.put(&ctx, &base, "en", 30).await;
    let filter = json!({ "type": "eq", "key": "lang", "value": "de" });
    let newer = json!({ "type": "and", "filters": [filter, { "type": "gt", "key": "year", "value": 2020 }] });
    let mut tx = db.tx(&ctx).await;
    for (filter, count) in [(&filter, 2), (&newer, 1)] {
        let near =
            search::semantic(&mut tx, &base, &[1.0, 25.0, 0.5], &Question::plain(""), Some(filter), 10).await.unwrap();
        let worded = search::keyword(&mut tx, &base, &Question::parse("text"), false, Some(filter), 10).await.unwrap();
        assert_eq!((near.len(), worded.len()), (count, count), "{filter}");
    }
    let hits = search::keyword(&mut tx, &base, &Question::parse("text"), false, Some(&newer), 10).await.unwrap();
    let metadata: Value = serde_json::from_str(&hits[0].metadata_json).unwrap();
    assert_eq!(metadata, json!({ "lang": "de", "year": 2024 }));

    assert_eq!(search::find_unknown_key(&mut tx, &base, &["year", "lang"]).await.unwrap(), None);
    let unknown = search::find_unknown_key(&mut tx, &base, &["lang", "jahr", "other"]).await.unwrap();
    let known = vec!["lang".to_owned(), "year".to_owned()];
    assert_eq!(unknown, Some(search::UnknownKey { key: "jahr".into(), known }));
    let empty = knowledge_bases::insert(&mut tx, "empty", Analyzer::English, "test-3", 3).await.unwrap();
    assert_eq!(search::find_unknown_key(&mut tx, &empty, &["jahr"]).await.unwrap(), None);
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn measures_are_those_of_the_lists() {
    let db = TestDatabase::create().await;
    let (ctx, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let base = db.base(&ctx, "docs").await;
    db.put(&ctx, &base, "a", 10).await;
    put(&db, &ctx, &base, &document("x"), &[chunk(0, "replication and vacuum")]).await;
    let (embedding, question) = ([1.0, 4.2, 0.5], Question::plain("vacuum of text"));
    let mut tx = db.tx(&ctx).await;
    let near = search::semantic(&mut tx, &base, &embedding, &question, None, 20).await.unwrap();
    let worded = search::keyword(&mut tx, &base, &question, false, None, 20).await.unwrap();
    let ids: Vec<_> = near.iter().map(|hit| hit.chunk_id).collect();
    assert_eq!((ids.len(), worded.len()), (11, 11));
    for with_embeddings in [false, true] {
        let measures =
            search::measures(&mut tx, &base, &ids, Some(&embedding), &question, false, with_embeddings).await.unwrap();
        assert_eq!(measures.len(), 11);
        for found in measures {
            let in_list = |list: &[FallbackHit]| list.iter().find(|hit| hit.chunk_id == found.chunk_id).unwrap().score;
            assert!((in_list(&near) - found.similarity).abs() < 1e-6);
            assert_eq!(in_list(&worded), found.rank);
            assert_eq!(found.embedding.map(|embedding| embedding.len()), with_embeddings.then_some(3));
        }
    }
    let wordless =
        search::measures(&mut tx, &base, &ids[..1], None, &Question::plain("the"), false, false).await.unwrap();
    assert_eq!((wordless[0].similarity, wordless[0].rank), (0.0, 0.0));
    tx.commit().await.unwrap();
    let mut tx = db.tx(&rival).await;
    assert!(search::measures(&mut tx, &base, &ids, Some(&embedding), &question, false, true).await.unwrap().is_empty());
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_of_the_same_document_and_pass_the_filter() {
    let db = TestDatabase::create().await;
    let (ctx, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let base = db.base(&ctx, "docs").await;
    let chunks: Vec<_> = (0..6_u32)
        .map(|at| NewChunk { metadata: object(json!({ "at": at })), ..chunk(at, &format!("text {at}")) })
        .collect();
    put(&db, &ctx, &base, &document("a"), &chunks).await;
    put(&db, &ctx, &base, &document("b"), &chunks[..2]).await;
    let mut tx = db.tx(&ctx).await;
    let hits = search::keyword(&mut tx, &base, &Question::plain("text"), false, None, 20).await.unwrap();
    let hit = |external_id: &str, ordinal| {
        hits.iter().find(|hit| hit.external_id == external_id && hit.ordinal == ordinal).unwrap()
    };
    let asked = [hit("a", 3), hit("b", 0), hit("a", 0)];
    let filter = json!({ "type": "ne", "key": "at", "value": 2 });
    for (filter, distance, expected) in [
        (None, 1, [vec![2, 4], vec![1], vec![1]]),
        (None, 3, [vec![0, 1, 2, 4, 5], vec![1], vec![1, 2, 3]]),
        (Some(&filter), 2, [vec![1, 4, 5], vec![1], vec![1]]),
    ] {
        let found = search::neighbours(&mut tx, &base, &asked, filter, distance).await.unwrap();
        let ordinals: Vec<Vec<u32>> =
            found.iter().map(|of_hit| of_hit.iter().map(|neighbour| neighbour.ordinal).collect()).collect();
        assert_eq!(ordinals, expected, "{filter:?}");
        assert!(found[0].iter().all(|neighbour| neighbour.content == format!("text {}", neighbour.ordinal)));
    }
    tx.commit().await.unwrap();
    let mut tx = db.tx(&rival).await;
    let foreign = search::neighbours(&mut tx, &base, &asked, None, 3).await.unwrap();
    assert!(foreign.iter().all(Vec::is_empty), "another tenant's");
    tx.commit().await.unwrap();
}

/// With the count of a large knowledge base and an index that was built on nothing, which is the worst that can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_knowledge_base_gets_as_many_hits_as_match() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let mut tx = db.tx(&ctx).await;
    let base = knowledge_bases::insert(&mut tx, "large", Analyzer::English, "test-256", 256).await.unwrap();
    tx.commit().await.unwrap();
    let embedding =
        |ordinal: u32| (0..256).map(|at| ((ordinal * 31 + at * 17) % 101) as f32 - 50.0).collect::<Vec<_>>();
    let chunks: Vec<_> = (0..400)
        .map(|ordinal| NewChunk {
            embedding: embedding(ordinal),
            metadata: if ordinal % 200 == 7 { object(json!({ "rare": true })) } else { Map::new() },
            ..chunk(ordinal, &format!("text {ordinal}"))
        })
        .collect();
    put(&db, &ctx, &base, &document("a"), &chunks).await;
    let superuser = db.superuser().await;
    superuser.batch_execute("UPDATE embedding_generations SET chunk_count = 1000000").await.unwrap();
    let mut tx = db.tx(&ctx).await;
    let hits = search::semantic(&mut tx, &base, &embedding(42), &Question::plain(""), None, 10).await.unwrap();
    assert_eq!((hits.len(), hits[0].content.as_str()), (10, "text 42"));
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    let rare = json!({ "type": "eq", "key": "rare", "value": true });
    let hits = search::semantic(&mut tx, &base, &embedding(42), &Question::plain(""), Some(&rare), 10).await.unwrap();
    assert_eq!(hits.len(), 2);
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_looked_up_in_their_index_with_the_rights_of_the_function() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document = db.put(&ctx, &base, "a", 1).await;
    let superuser = db.superuser().await;
    superuser.batch_execute(&insert_chunks(&ctx, &base, document.id, "1, 3000")).await.unwrap();
    superuser.batch_execute("ANALYZE knowledge_chunks").await.unwrap();
    let explain = format!(
        "EXPLAIN SELECT id FROM knowledge_chunks
         WHERE tenant_id = '{}' AND knowledge_base_id = '{}' AND words @@ '1234 | 777'",
        ctx.tenant_id, base.id
    );
    let index_cond = async |client: &tokio_postgres::Client| {
        let rows = client.query(&explain, &[]).await.unwrap();
        let plan: String = rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
        plan.contains("Bitmap Index Scan on knowledge_chunks_words") && plan.contains("words @@")
    };
    assert!(index_cond(&db.connect("tertulia_owner").await).await, "whose rights the function has");
    let definer = "SELECT bool_and(prosecdef AND proowner = 'tertulia_owner'::regrole) FROM pg_proc WHERE proname = 'tertulia_keyword_hits'";
    assert!(value::<bool>(&superuser, definer).await);
    assert_eq!(contents(&keyword(&db, &ctx, &base, "777").await), ["text 777"]);
}
