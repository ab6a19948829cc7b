//! A model behind an address that reads the question with each candidate and says how well they fit: `POST …/rerank` as
//! Cohere, Jina, vLLM and others have it. Better than ranks, and a thousand times slower, so it has a time to keep and a
//! search goes on without it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::endpoint::{Endpoint, ServiceError};
use crate::config::RerankConfig;

/// Bytes of an answer for each candidate, if the service sends its text back too, and for all around them.
const RESULT_BYTES_MAX: usize = 64 << 10;
const AROUND_BYTES_MAX: usize = 64 << 10;

/// The service.
pub struct Reranker {
    endpoint: Arc<Endpoint>,
    model: String,
    candidates: usize,
    timeout: Duration,
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    query: &'a str,
    documents: &'a [String],
    top_n: usize,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<AnswerItem>,
}

#[derive(Deserialize)]
struct AnswerItem {
    index: usize,
    relevance_score: f32,
}

impl Reranker {
    /// The service that `config` names, spoken to on `runtime`; none if it names none. Nothing is sent yet.
    ///
    /// # Errors
    /// If the key cannot be read, or no certificate authority is there for an https address.
    pub fn new(config: &RerankConfig, runtime: Handle) -> anyhow::Result<Option<Self>> {
        let Some(url) = &config.url else { return Ok(None) };
        let (key, key_file) = (config.api_key.as_ref(), config.api_key_file.as_deref());
        let endpoint = Arc::new(Endpoint::new(&format!("{url}/rerank"), key, key_file, runtime)?);
        let (model, candidates, timeout) = (config.model.clone(), config.candidates, config.timeout);
        Ok(Some(Self { endpoint, model, candidates, timeout }))
    }

    /// How many hits it is given, unless more are wanted.
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// How well each of `texts` answers `question`, in order: higher is better, on the model's own scale. One request within
    /// `rerank.timeout`.
    ///
    /// # Errors
    /// If it takes longer, or the answer is not whole.
    pub async fn scores(&self, question: &str, texts: &[String]) -> Result<Vec<f32>, ServiceError> {
        let asked = Question { model: &self.model, query: question, documents: texts, top_n: texts.len() };
        let body = serde_json::to_vec(&asked).map_err(|error| ServiceError::Unreachable(error.into()))?;
        let bytes_max = AROUND_BYTES_MAX + texts.len() * RESULT_BYTES_MAX;
        let body = self.endpoint.post(body, bytes_max, self.timeout).await?;
        read_scores(&body, texts.len()).map_err(ServiceError::Answer)
    }
}

/// The scores of an answer in the order of their texts.
fn read_scores(body: &[u8], count: usize) -> Result<Vec<f32>, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| format!("it is no list of scores (line {}, column {})", error.line(), error.column()))?;
    if answer.results.len() != count {
        return Err(format!("it has {} scores for {count} texts", answer.results.len()));
    }
    let mut scores = vec![f32::NAN; count];
    for AnswerItem { index, relevance_score } in answer.results {
        let slot = scores.get_mut(index).ok_or_else(|| format!("it has a score for text {index} of {count}"))?;
        if !slot.is_nan() {
            return Err(format!("it has two scores for text {index}"));
        }
        if !relevance_score.is_finite() {
            return Err(format!("the score of text {index} is not finite"));
        }
        *slot = relevance_score;
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_come_in_the_order_of_their_texts() {
        let body = br#"{"id":"x","results":[{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":-3}]}"#;
        assert_eq!(read_scores(body, 2), Ok(vec![-3.0, 0.9]));
        assert_eq!(read_scores(br#"{"results":[]}"#, 0), Ok(vec![]));
    }

    #[test]
    fn an_answer_that_is_not_whole_is_refused() {
        for (body, told) in [
            ("", "no list"),
            (r#"{"results":{}}"#, "no list"),
            (r#"{"results":[{"index":0}]}"#, "no list"),
            (r#"{"results":[{"index":0,"relevance_score":null}]}"#, "no list"),
            (r#"{"results":[{"index":-1,"relevance_score":1}]}"#, "no list"),
            (r#"{"results":[]}"#, "0 scores for 1"),
            (r#"{"results":[{"index":0,"relevance_score":1},{"index":0,"relevance_score":1}]}"#, "2 scores for 1"),
            (r#"{"results":[{"index":1,"relevance_score":1}]}"#, "for text 1 of 1"),
            (r#"{"results":[{"index":0,"relevance_score":1e39}]}"#, "not finite"),
        ] {
            let refused = read_scores(body.as_bytes(), 1).unwrap_err();
            assert!(refused.contains(told), "{body}: {refused}");
        }
        let twice = r#"{"results":[{"index":0,"relevance_score":1},{"index":0,"relevance_score":1}]}"#;
        assert!(read_scores(twice.as_bytes(), 2).unwrap_err().contains("two scores"));
    }
}
