//! The pages in `demo/`, and what they are split into with the server's defaults.

use std::path::PathBuf;

use tertulia::knowledge::{
    chunking::{self, Limits},
    extract::{self, MediaType},
};
use tertulia_index::Encoder;

const LIMITS: Limits = Limits { tokens_max: 256, overlap_tokens: 32 };

/// Every page below `demo/`, in the order of its path.
pub(crate) fn paths() -> Vec<PathBuf> {
    let mut paths: Vec<_> = ignore::WalkBuilder::new("demo")
        .standard_filters(false)
        .follow_links(true)
        .build()
        .flatten()
        .map(ignore::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|extension| extension == "html"))
        .collect();
    paths.sort();
    paths
}

/// Title and chunks of a page.
pub(crate) fn passages(encoder: &Encoder, page: &[u8], html: &MediaType) -> (String, Vec<chunking::Passage>) {
    let extracted = extract::extract(page, html).unwrap_or_default();
    let passages = chunking::split(&extracted, &LIMITS, &|text| encoder.count_tokens(text));
    (extracted.title.unwrap_or_default(), passages)
}
