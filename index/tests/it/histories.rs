//! Whatever happened to an index, it answers as the plain implementation does over the chunks that are left.

use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use tertulia_index::{Batch, Chunk, Index, verify_snapshot};
use uuid::Uuid;

use crate::{
    assert_same, draw,
    plain::{Plain, Question},
    settings,
};

#[derive(Debug, Clone)]
enum Step {
    Apply { upserts: Vec<Chunk>, deletions: Vec<Uuid> },
    Maintain,
    Compact,
    Purge,
    Snapshot,
    Restore,
    Ask(Question),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (vec(draw::chunk(), 0..6), vec(draw::id(), 0..4))
            .prop_map(|(upserts, deletions)| Step::Apply { upserts, deletions }),
        1 => vec(draw::id(), 10..40).prop_map(|deletions| Step::Apply { upserts: Vec::new(), deletions }),
        1 => vec(draw::chunk(), 20..40).prop_map(|upserts| Step::Apply { upserts, deletions: Vec::new() }),
        1 => Just(Step::Maintain),
        1 => Just(Step::Compact),
        1 => Just(Step::Purge),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Restore),
        6 => draw::question().prop_map(Step::Ask),
    ]
}

/// So many histories, unless `PROPTEST_CASES` says how many.
fn config() -> ProptestConfig {
    let cases = option_env!("PROPTEST_CASES").and_then(|cases| cases.parse().ok()).unwrap_or(96);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn answers_are_those_of_the_plain_implementation(steps in vec(step(), 1..40), last in vec(draw::question(), 3)) {
        let folder = TempDir::new().expect("a folder");
        let mut index = Index::new(settings());
        let mut plain = Plain::default();
        let mut version = 0;
        for step in steps {
            match step {
                Step::Apply { upserts, deletions } => {
                    version += 1;
                    let batch = Batch { version, upserts, deletions };
                    plain.apply(&batch);
                    index.apply(batch).expect("a sound batch");
                }
                Step::Maintain => while index.maintain() {},
                Step::Compact => {
                    index.compact();
                    assert!(!index.is_scattered());
                }
                Step::Purge => index.purge(),
                Step::Snapshot => index.snapshot(folder.path()).expect("a snapshot"),
                Step::Restore => {
                    index.snapshot(folder.path()).expect("a snapshot");
                    verify_snapshot(folder.path()).expect("a sound snapshot");
                    index = Index::restore(folder.path(), &settings()).expect("a sound snapshot");
                }
                Step::Ask(question) => assert_same(&index, &plain, &question),
            }
        }
        last.iter().for_each(|question| assert_same(&index, &plain, question));
    }
}
