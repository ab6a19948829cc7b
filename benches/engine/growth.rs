//! `growth`: time and memory of one index from a thousand chunks to a million.
//!
//! The first chunks are the real ones in `demo/`, in an order that mixes the manuals. Those past them are made: the vector
//! of a real one with noise, and the first half of one real text with the second half of another, so that words are as
//! frequent as they are, and no two texts the same.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::ensure;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::json;
use tertulia_index::{Batch, Chunk, Index, Mode};

use crate::{
    chunk,
    data::{self, Text},
    index, quantile_us, query,
};

const TOP_K: usize = 10;
/// Where the index is measured, and at its end.
const SIZES: [usize; 10] = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];
const LOAD_CHUNKS: usize = 1_000;
/// How often each question is asked; its best time counts, since what else the machine does is not the index's.
const ROUNDS: usize = 4;
/// Questions whose answers are compared with those of an exact scan.
const CHECKED: usize = 100;
/// Length of the noise on a vector of unit length: the cosine between the two is then about 0.9.
const NOISE: f32 = 0.5;
/// A score that is less than this below the tenth best is as good: the engine adds up in another order.
const TIE: f32 = 1e-5;
const SEED: u64 = 1;

/// Runs `growth`.
///
/// # Errors
/// If there are no pages or no weights.
pub(crate) fn run(rows: usize) -> anyhow::Result<()> {
    ensure!(rows >= TOP_K, "{rows} rows are too few");
    let encoder = data::encoder()?;
    let (texts, vectors) = data::chunks(&encoder, rows)?;
    let questions: Vec<_> = data::questions().into_iter().map(|text| (text, encoder.encode_query(text))).collect();
    let mut source = Source::new(texts, vectors);
    let index = index(encoder.dimensions());
    // A copy to compare with, all in one piece.
    let mut plain: Vec<f32> = Vec::with_capacity(rows * encoder.dimensions());
    let mut build = Duration::ZERO;
    let mut content_bytes = 0;

    let sizes = SIZES.into_iter().filter(|size| *size < rows).chain([rows]);
    for size in sizes {
        while index.len() < size {
            let numbers = index.len()..size.min(index.len() + LOAD_CHUNKS);
            let upserts: Vec<Chunk> = numbers.map(|number| source.chunk(number)).collect();
            plain.extend(upserts.iter().flat_map(|chunk| &chunk.embedding));
            content_bytes += upserts.iter().map(|chunk| chunk.content.len()).sum::<usize>();
            let begun = Instant::now();
            index.apply(Batch { version: index.version() + 1, upserts, deletions: Vec::new() })?;
            build += begun.elapsed();
        }
        let begun = Instant::now();
        while index.maintain() {}
        index.compact();
        build += begun.elapsed();

        let mut row = json!({
            "chunks": size,
            "real": size.min(source.texts.len()),
            "build_s": build.as_secs_f64(),
            "bytes_per_chunk": index.memory_bytes() as f64 / size as f64,
            "content_bytes_per_chunk": content_bytes as f64 / size as f64,
        });
        for (name, mode) in [("semantic", Mode::Semantic), ("keyword", Mode::Keyword), ("hybrid", Mode::Hybrid)] {
            let mut times = vec![Duration::MAX; questions.len()];
            for _ in 0..ROUNDS {
                for ((text, embedding), best) in questions.iter().zip(&mut times) {
                    let begun = Instant::now();
                    let answer = index.search(&query(mode, text, embedding, TOP_K))?;
                    *best = begun.elapsed().min(*best);
                    drop(answer);
                }
            }
            row[format!("{name}_p50_us")] = quantile_us(&mut times, 0.5).into();
            row[format!("{name}_p99_us")] = quantile_us(&mut times, 0.99).into();
        }
        let mut right = 0;
        for (_, embedding) in questions.iter().take(CHECKED) {
            let hits = index.search(&query(Mode::Semantic, "", embedding, TOP_K))?.hits;
            let found = hits.iter().map(|hit| hit.row().id.as_u128() as usize);
            right += count_right(&plain, embedding, &found.collect::<Vec<_>>());
        }
        row["semantic_recall_at_10"] = (right as f64 / (CHECKED.min(questions.len()) * TOP_K) as f64).into();
        let folder = tempfile::tempdir()?;
        index.snapshot(folder.path())?;
        let begun = Instant::now();
        let restored = Index::restore(folder.path(), index.settings())?;
        row["restore_ms"] = (begun.elapsed().as_secs_f64() * 1e3).into();
        ensure!(restored.len() == size, "{} of {size} chunks came back", restored.len());
        println!("{row}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// How many of `found` are among the [`TOP_K`] nearest of all.
fn count_right(plain: &[f32], embedding: &[f32], found: &[usize]) -> usize {
    let dot = |row: &[f32]| row.iter().zip(embedding).map(|(left, right)| left * right).sum::<f32>();
    let mut scores: Vec<f32> = plain.chunks_exact(embedding.len()).map(dot).collect();
    let found: Vec<f32> = found.iter().map(|number| scores[*number]).collect();
    let place = TOP_K.min(scores.len()) - 1;
    let (_, last, _) = scores.select_nth_unstable_by(place, |left, right| right.total_cmp(left));
    found.iter().filter(|score| **score >= *last - TIE).count()
}

/// Chunks by number, each asked for once, in order.
pub(crate) struct Source {
    texts: Vec<Text>,
    vectors: Vec<Vec<f32>>,
    /// Number of a chunk to its place in the manuals.
    order: Vec<usize>,
    random: StdRng,
}

impl Source {
    /// Of real texts and their vectors.
    pub(crate) fn new(texts: Vec<Text>, vectors: Vec<Vec<f32>>) -> Self {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.shuffle(&mut random);
        Self { texts, vectors, order, random }
    }

    /// The vector of a chunk.
    pub(crate) fn embedding(&mut self, number: usize) -> Vec<f32> {
        let vector = &self.vectors[self.order[number % self.order.len()]];
        if number < self.order.len() { vector.clone() } else { noisy(vector, &mut self.random) }
    }

    fn chunk(&mut self, number: usize) -> Chunk {
        if let Some(&place) = self.order.get(number) {
            let Text { title, heading, content } = &self.texts[place];
            return chunk(number, title, heading, content.clone(), self.vectors[place].clone());
        }
        let [head, tail] = [0; 2].map(|_| self.random.random_range(0..self.texts.len()));
        let embedding = self.embedding(number);
        let (head, tail) = (&self.texts[head], &self.texts[tail]);
        let content = format!("{}{}", halves(&head.content).0, halves(&tail.content).1);
        chunk(number, &head.title, &head.heading, content, embedding)
    }
}

/// `text` up to the space in its middle, and from there.
fn halves(text: &str) -> (&str, &str) {
    let middle = text.char_indices().map(|(place, _)| place).find(|place| *place >= text.len() / 2).unwrap_or(0);
    text.split_at(text[middle..].find(' ').map_or(middle, |space| middle + space))
}

/// A vector of unit length near `vector`.
fn noisy(vector: &[f32], random: &mut StdRng) -> Vec<f32> {
    // The sum of a few uniform numbers is as good as normal in so many dimensions. Their variance is 1.
    let mut normal = || (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0;
    let share = NOISE / (vector.len() as f32).sqrt();
    let moved: Vec<f32> = vector.iter().map(|component| component + share * normal()).collect();
    let length = moved.iter().map(|component| component * component).sum::<f32>().sqrt();
    moved.iter().map(|component| component / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_leaves_a_vector_near_and_of_unit_length() {
        let vector: Vec<f32> = (0..256).map(|axis| if axis == 7 { 1.0 } else { 0.0 }).collect();
        let near = noisy(&vector, &mut StdRng::seed_from_u64(3));
        let length: f32 = near.iter().map(|component| component * component).sum();
        assert!((length - 1.0).abs() < 1e-5 && (0.85..0.95).contains(&near[7]), "{length} {}", near[7]);
    }

    #[test]
    fn halves_make_the_whole() {
        for text in ["", "a", "some words in a row", "äöüäöü", "ä ö"] {
            let (head, tail) = halves(text);
            assert_eq!(format!("{head}{tail}"), text);
        }
        assert_eq!(halves("one two three"), ("one two", " three"));
    }

    #[test]
    fn right_are_those_among_the_nearest() {
        let plain: Vec<f32> = (0..20).flat_map(|number| [number as f32, 0.0]).collect();
        assert_eq!(count_right(&plain, &[1.0, 0.0], &[19, 10, 9, 0]), 2);
        assert_eq!(count_right(&plain[..4], &[1.0, 0.0], &[1, 0]), 2);
    }
}
