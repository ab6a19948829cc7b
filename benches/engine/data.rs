//! Real chunks and questions, and files of vectors: little-endian f32, row after row, without a header.

#[path = "../corpus/pages.rs"]
mod pages;

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use tertulia::knowledge::{encoders::text_of, extract::MediaType};
use tertulia_index::Encoder;

const QUESTIONS: [&str; 2] =
    [include_str!("../../loadtest/questions/postgresql.txt"), include_str!("../quality/questions.tsv")];

/// A chunk's text.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) title: String,
    pub(crate) heading: String,
    pub(crate) content: String,
}

/// The encoder whose weights `make setup` fetches.
///
/// # Errors
/// If they are not there.
pub(crate) fn encoder() -> anyhow::Result<Encoder> {
    Encoder::load(Path::new("weights")).context("no weights: run `make setup`")
}

/// Chunks of the pages below `demo/`, each path's after the other, with their vectors; `limit` at most.
///
/// # Errors
/// If there are no pages.
pub(crate) fn chunks(encoder: &Encoder, limit: usize) -> anyhow::Result<(Vec<Text>, Vec<Vec<f32>>)> {
    let html = MediaType::parse("text/html").context("a known media type")?;
    let mut texts = Vec::new();
    for page in pages::paths() {
        if texts.len() >= limit {
            break;
        }
        let (title, passages) = pages::passages(encoder, &fs::read(page)?, &html);
        texts.extend(passages.into_iter().map(|passage| Text {
            title: title.clone(),
            heading: passage.heading,
            content: passage.content,
        }));
    }
    texts.truncate(limit);
    ensure!(!texts.is_empty(), "no pages in demo/");
    let joined: Vec<String> = texts.iter().map(|text| text_of(&text.heading, &text.content)).collect();
    let vectors = encoder.encode_documents(&joined);
    Ok((texts, vectors))
}

/// Every question of the benchmarks.
pub(crate) fn questions() -> Vec<&'static str> {
    let lines = QUESTIONS.iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split('\t').next()).collect()
}

/// Runs `export`.
///
/// # Errors
/// If there are no pages or no weights, or a file cannot be written.
pub(crate) fn export(folder: &Path, rows: usize) -> anyhow::Result<()> {
    let encoder = encoder()?;
    let (_, vectors) = chunks(&encoder, rows)?;
    let questions: Vec<Vec<f32>> = questions().iter().map(|question| encoder.encode_query(question)).collect();
    fs::create_dir_all(folder)?;
    write(&folder.join("rows.f32"), &vectors)?;
    write(&folder.join("questions.f32"), &questions)?;
    let about = serde_json::json!({
        "dimensions": encoder.dimensions(),
        "rows": vectors.len(),
        "questions": questions.len(),
        "encoder": encoder.fingerprint(),
    });
    fs::write(folder.join("about.json"), about.to_string())?;
    println!("{about}");
    Ok(())
}

fn write(file: &Path, vectors: &[Vec<f32>]) -> anyhow::Result<()> {
    let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|component| component.to_le_bytes()).collect();
    fs::write(file, bytes).with_context(|| format!("{} cannot be written", file.display()))
}

/// The vectors of a file.
///
/// # Errors
/// If it cannot be read, or is not of whole vectors.
pub(crate) fn read(file: &Path, dimensions: usize) -> anyhow::Result<Vec<Vec<f32>>> {
    let bytes = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    ensure!(dimensions > 0 && bytes.len().is_multiple_of(dimensions * 4), "{} is cut off", file.display());
    let components: Vec<f32> =
        bytes.as_chunks().0.iter().map(|component: &[u8; 4]| f32::from_le_bytes(*component)).collect();
    Ok(components.chunks_exact(dimensions).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("rows.f32");
        let vectors = vec![vec![1.0, -2.5], vec![f32::MIN_POSITIVE, 0.0]];
        write(&file, &vectors).expect("it is written");
        assert_eq!(read(&file, 2).expect("it is whole"), vectors);
        assert!(read(&file, 3).is_err() && read(&file, 0).is_err());
        assert!(read(&folder.path().join("none"), 2).is_err());
    }

    #[test]
    fn questions_have_no_answers_in_them() {
        let questions = questions();
        assert!(questions.len() > 500);
        assert!(questions.iter().all(|question| !question.contains('\t') && !question.contains(".html")));
    }
}
