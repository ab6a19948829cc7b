//! What benches search: the pages in `demo/` (`make bench` fetches some), as chunks, and questions about them.

mod pages;

use std::{path::Path, time::Instant};

use serde_json::Map;
use tertulia::knowledge::{encoders::text_of, extract::MediaType};
use tertulia_index::{Chunk, Encoder};
use uuid::Uuid;

pub(crate) use pages::passages;

const QUESTIONS: &str = include_str!("../../loadtest/questions/postgresql.txt");
/// How often each question is asked.
const ROUNDS: usize = 50;

/// The encoder that `scripts/setup.sh` fetches.
pub(crate) fn encoder() -> Encoder {
    Encoder::load(Path::new("weights")).expect("weights (scripts/setup.sh)")
}

/// What the questions are, one after the other.
pub(crate) fn questions() -> Vec<&'static str> {
    QUESTIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Asks each question many times and says how long the middle one and the slowest in a hundred take, of each the median:
/// what else the machine does shall not count.
pub(crate) fn percentiles(name: &str, questions: &[&str], mut ask: impl FnMut(&str)) {
    let mut times = vec![Vec::with_capacity(ROUNDS); questions.len()];
    for _ in 0..ROUNDS {
        for (question, times) in questions.iter().zip(&mut times) {
            let started = Instant::now();
            ask(question);
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let at = |times: &mut Vec<f64>, share: usize| {
        times.sort_by(f64::total_cmp);
        times[times.len() * share / 100]
    };
    let mut medians: Vec<f64> = times.iter_mut().map(|times| at(times, 50)).collect();
    let [p50, p99] = [50, 99].map(|share| at(&mut medians, share));
    println!("{name}: p50 {p50:.3} ms, p99 {p99:.3} ms over {} questions, each {ROUNDS} times", questions.len());
}

/// Every page below `demo/`, in the order of its path.
pub(crate) fn pages() -> Vec<Vec<u8>> {
    let pages: Vec<_> = pages::paths().iter().filter_map(|path| std::fs::read(path).ok()).collect();
    assert!(!pages.is_empty(), "no pages in demo/: run `make bench`");
    pages
}

/// The chunks of every page.
pub(crate) fn chunks(encoder: &Encoder, html: &MediaType) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (number, page) in pages().iter().enumerate() {
        let (title, passages) = passages(encoder, page, html);
        let texts: Vec<_> = passages.iter().map(|passage| text_of(&passage.heading, &passage.content)).collect();
        let document_id = Uuid::from_u128(number as u128);
        for (passage, embedding) in passages.into_iter().zip(encoder.encode_documents(&texts)) {
            chunks.push(Chunk {
                id: Uuid::from_u128((number as u128) << 64 | u128::from(passage.ordinal)),
                document_id,
                external_id: number.to_string(),
                title: title.clone(),
                source_url: None,
                heading: passage.heading,
                ordinal: passage.ordinal,
                content: passage.content,
                embedding,
                metadata: Map::new(),
            });
        }
    }
    chunks
}
