//! Two ranked lists into one, by ranks alone, since a cosine and a BM25 score do not compare.

use std::collections::HashMap;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

/// How much each list's ranks count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fusion {
    /// Added to each rank: the larger, the less the first places stand out.
    pub constant: f32,
    /// Share of the semantic list.
    pub semantic_weight: f32,
    /// Share of the keyword list.
    pub keyword_weight: f32,
}

impl Default for Fusion {
    /// For the static encoder, whose list is the weaker one: with an equal vote, questions about the documentation of
    /// PostgreSQL and Python were answered worse than by keywords alone.
    fn default() -> Self {
        Self { constant: 10.0, semantic_weight: 1.0, keyword_weight: 2.0 }
    }
}

/// Reciprocal rank fusion of two lists, each best first: an id's score is the sum of `weight / (constant + rank)`
/// over the lists it is in, ranks counted from 1, divided by what the first place of both gives: above 0, and 1 at
/// most. Best first, ties by id; a weight that is not above 0 leaves its list out, and of an id twice in a list the
/// first counts.
///
/// Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
/// Methods", SIGIR 2009.
pub fn reciprocal_rank<T: Copy + Eq + Hash + Ord>(semantic: &[T], keyword: &[T], fusion: &Fusion) -> Vec<(T, f32)> {
    let constant = f64::from(fusion.constant).max(0.0);
    let lists = [(semantic, f64::from(fusion.semantic_weight)), (keyword, f64::from(fusion.keyword_weight))];
    let lists = lists.into_iter().filter(|(_, weight)| *weight > 0.0);
    let most: f64 = lists.clone().map(|(_, weight)| weight / (constant + 1.0)).sum();

    // Score, and the list that was the last to add to it.
    let mut scores: HashMap<T, (f64, usize), foldhash::fast::FixedState> =
        HashMap::with_capacity_and_hasher(semantic.len() + keyword.len(), foldhash::fast::FixedState::default());
    for (list, (ids, weight)) in lists.enumerate() {
        for (rank, id) in (1_u32..).zip(ids) {
            let (score, last) = scores.entry(*id).or_insert((0.0, usize::MAX));
            if *last != list {
                *score += weight / (constant + f64::from(rank)) / most;
                *last = list;
            }
        }
    }
    let mut fused: Vec<(T, f32)> = scores.into_iter().map(|(id, (score, _))| (id, score.min(1.0) as f32)).collect();
    fused.sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    fused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(fused: &[(u32, f32)]) -> Vec<u32> {
        fused.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn the_first_of_both_lists_has_one() {
        let fused = reciprocal_rank(&[7, 8], &[7, 9], &Fusion::default());
        assert_eq!(fused[0], (7, 1.0));
        assert_eq!(ids(&fused), [7, 9, 8], "the keyword list counts twice");
        assert!((fused[1].1 - (2.0 / 12.0) / (3.0 / 11.0)).abs() < 1e-6, "{fused:?}");
        assert!((fused[2].1 - (1.0 / 12.0) / (3.0 / 11.0)).abs() < 1e-6, "{fused:?}");
    }

    #[test]
    fn to_be_in_both_lists_beats_the_top_of_one() {
        let equal = Fusion { constant: 60.0, semantic_weight: 1.0, keyword_weight: 1.0 };
        assert_eq!(ids(&reciprocal_rank(&[1, 2, 5], &[3, 4, 5], &equal)), [5, 1, 3, 2, 4]);
    }

    #[test]
    fn ties_go_by_id() {
        let equal = Fusion { constant: 10.0, semantic_weight: 1.0, keyword_weight: 1.0 };
        assert_eq!(ids(&reciprocal_rank(&[9, 4], &[3, 8], &equal)), [3, 9, 4, 8]);
    }

    #[test]
    fn a_list_may_be_empty_or_have_no_weight() {
        let keyword_only = Fusion { semantic_weight: 0.0, ..Fusion::default() };
        assert_eq!(reciprocal_rank(&[1, 2], &[3], &keyword_only), [(3, 1.0)]);
        assert_eq!(ids(&reciprocal_rank(&[2, 1], &[], &Fusion::default())), [2, 1]);
        assert_eq!(reciprocal_rank::<u32>(&[], &[], &Fusion::default()), []);
        let nothing = Fusion { constant: f32::NAN, semantic_weight: -1.0, keyword_weight: f32::NAN };
        assert_eq!(reciprocal_rank(&[1], &[2], &nothing), []);
    }

    #[test]
    fn of_an_id_twice_in_a_list_the_first_counts() {
        assert_eq!(
            reciprocal_rank(&[5, 5, 6], &[5, 5], &Fusion::default()),
            reciprocal_rank(&[5, 7, 6], &[5], &Fusion::default())
                .into_iter()
                .filter(|(id, _)| *id != 7)
                .collect::<Vec<_>>()
        );
    }
}
