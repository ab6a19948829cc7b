//! What searches over segments share: a plain bitset over a segment's documents, and the best `k` candidates.
//!
//! Invariant of the bitset: bits past `len` in the last word are zero, so counting and iterating need no mask.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A document that a list offers, named by its segment's place in the list searched and its number in the segment.
///
/// Ordered best first: higher scores, then lower chunk ids, so that ties depend neither on chance nor on how chunks
/// came to be spread over segments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) segment: u32,
    pub(crate) doc: u32,
    /// Higher is better; of the scale of the list.
    pub(crate) score: f32,
    /// The chunk's id, big-endian; 0 where ties do not matter.
    pub(crate) id: u128,
}

impl Candidate {
    /// A document whose id stands in `ids`, those of its segment.
    #[inline]
    pub(crate) fn new(segment: u32, doc: u32, score: f32, ids: &[[u8; 16]]) -> Self {
        Self { segment, doc, score, id: u128::from_be_bytes(ids[doc as usize]) }
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_place = (self.segment, self.doc).cmp(&(other.segment, other.doc));
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id)).then(by_place)
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Keeps the best `k` of the candidates that it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Best {
    k: usize,
    /// The worst of the kept on top.
    kept: BinaryHeap<Candidate>,
}

impl Best {
    /// Keeps up to `k`. Allocates as candidates come, so a huge `k` costs nothing by itself.
    pub(crate) fn new(k: usize) -> Self {
        Self { k, kept: BinaryHeap::with_capacity(k.min(1_024)) }
    }

    /// How many are kept at most.
    pub(crate) fn limit(&self) -> usize {
        self.k
    }

    /// Offers a candidate.
    #[inline]
    pub(crate) fn offer(&mut self, candidate: Candidate) {
        if self.kept.len() < self.k {
            self.kept.push(candidate);
        } else if let Some(mut worst) = self.kept.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    /// The score that a candidate must at least have to enter; negative infinity until `k` are kept.
    #[inline]
    pub(crate) fn threshold(&self) -> f32 {
        match self.kept.peek() {
            Some(worst) if self.kept.len() == self.k => worst.score,
            _ if self.k == 0 => f32::INFINITY,
            _ => f32::NEG_INFINITY,
        }
    }

    /// Best first.
    pub(crate) fn into_sorted(self) -> Vec<Candidate> {
        self.kept.into_sorted_vec()
    }
}

/// `len` bits, all of them addressable by a document's number in its segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    /// `len` bits, none set.
    pub(crate) fn zeros(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// `len` bits, all set.
    pub(crate) fn ones(len: usize) -> Self {
        let mut bits = Self { words: vec![u64::MAX; len.div_ceil(64)], len };
        bits.clear_tail();
        bits
    }

    /// The words, lowest bit first.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Bytes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// Whether bit `at` is set; one past the end is not.
    #[inline]
    pub(crate) fn get(&self, at: u32) -> bool {
        self.words.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Sets or clears bit `at` and returns what it was. Panics past the end: whoever holds a document's number has it
    /// from the same segment.
    pub(crate) fn set(&mut self, at: u32, value: bool) -> bool {
        assert!((at as usize) < self.len, "bit {at} of {}", self.len);
        let word = &mut self.words[at as usize / 64];
        let mask = 1_u64 << (at % 64);
        let before = *word & mask != 0;
        if value {
            *word |= mask;
        } else {
            *word &= !mask;
        }
        before
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The set bits, ascending.
    pub(crate) fn iter_ones(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    index as u32 * 64 + bit
                })
            })
        })
    }

    /// Keeps the bits that `other` has too. Both have the same length.
    pub(crate) fn and(&mut self, other: &Self) {
        assert_eq!(self.len, other.len);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
    }

    /// Adds the bits that `other` has. Both have the same length.
    pub(crate) fn or(&mut self, other: &Self) {
        assert_eq!(self.len, other.len);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// Turns every bit over.
    pub(crate) fn not(&mut self) {
        for word in &mut self.words {
            *word = !*word;
        }
        self.clear_tail();
    }

    fn clear_tail(&mut self) {
        let used = self.len % 64;
        if used > 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_counts_and_iterates_across_words() {
        let mut bits = Bits::zeros(130);
        for at in [0, 63, 64, 129] {
            assert!(!bits.set(at, true));
        }
        assert!(bits.set(64, false));
        assert_eq!(bits.iter_ones().collect::<Vec<_>>(), [0, 63, 129]);
        assert_eq!(bits.count(), 3);
        assert!(bits.get(129) && !bits.get(128) && !bits.get(130) && !bits.get(4_000));
    }

    #[test]
    fn no_bit_past_the_end_is_ever_set() {
        for len in [0, 1, 63, 64, 65, 128] {
            assert_eq!(Bits::ones(len).count(), len);
            let mut bits = Bits::zeros(len);
            bits.not();
            assert_eq!(bits, Bits::ones(len));
            bits.not();
            assert_eq!(bits, Bits::zeros(len));
        }
    }

    #[test]
    fn combines_as_sets_do() {
        let set = |ones: &[u32]| {
            let mut bits = Bits::zeros(70);
            ones.iter().for_each(|&at| _ = bits.set(at, true));
            bits
        };
        let (left, right) = (set(&[1, 2, 69]), set(&[2, 3, 69]));
        let combine = |with: fn(&mut Bits, &Bits)| {
            let mut bits = left.clone();
            with(&mut bits, &right);
            bits
        };
        assert_eq!(combine(Bits::and), set(&[2, 69]));
        assert_eq!(combine(Bits::or), set(&[1, 2, 3, 69]));
    }

    #[test]
    fn keeps_the_best_and_breaks_ties_by_id() {
        let candidate = |segment, doc, score| Candidate { segment, doc, score, id: u128::from(100 - doc) };
        let mut best = Best::new(3);
        assert_eq!(best.threshold(), f32::NEG_INFINITY);
        for (segment, doc, score) in [(1, 0, 0.5), (0, 9, 0.5), (0, 1, 0.1), (0, 3, 0.5), (0, 2, 0.9), (2, 2, 0.2)] {
            best.offer(candidate(segment, doc, score));
        }
        assert_eq!(best.threshold(), 0.5);
        assert_eq!(best.into_sorted(), [candidate(0, 2, 0.9), candidate(0, 9, 0.5), candidate(0, 3, 0.5)]);
        let mut none = Best::new(0);
        none.offer(candidate(0, 0, 1.0));
        assert!(none.threshold() > 1.0 && none.into_sorted().is_empty());
    }

    #[test]
    #[should_panic(expected = "bit 70 of 70")]
    fn setting_past_the_end_is_a_mistake_of_ours() {
        Bits::zeros(70).set(70, true);
    }
}
