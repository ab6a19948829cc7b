//! Many documents at once, picked by a filter over their own metadata: deleted, or their metadata patched.
//!
//! What matches is found first, all of it, and then changed some documents at a time, each time in one transaction and
//! under one version. So the work of a million documents holds no lock for long; what is done stays done when the
//! request ends early, and the same request goes on where the last one stopped.

use serde_json::{Map, Value};
use tertulia_index::{Filter, SearchError};
use tokio::time::Instant;

use super::{Base, BaseKey, Knowledge};
use crate::{
    ctx::{Ctx, DocumentId, KnowledgeBaseId},
    error::Error,
    metadata::{self, merged},
    store::{
        self, TenantTx,
        documents_by_filter::{self, Matching},
        knowledge_bases::KnowledgeBaseRow,
    },
    watch,
};

/// Most documents of one transaction.
const DOCUMENTS_MAX: usize = 256;
/// A transaction takes no further document once it has so many chunks: some tenths of a second, for which the knowledge
/// base's other writers wait.
const CHUNKS_MAX: u64 = 2_048;

/// What to do with each document that matches.
#[derive(Debug)]
pub enum Deed {
    /// Delete it with its chunks.
    Delete,
    /// Merge this into its metadata, as RFC 7396 says.
    Patch(Map<String, Value>),
}

/// What was done, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Documents that match.
    pub matched: u64,
    /// Documents of these that were changed, or would be.
    pub documents: u64,
    /// Chunks of the changed ones.
    pub chunks: u64,
    /// The version from which searches find all of it.
    pub version: u64,
    /// False if time ran out before all was done.
    pub is_complete: bool,
}

impl Knowledge {
    /// Does `deed` to each document whose metadata match `filter`; with `is_dry_run` only counts them. Documents that are
    /// written meanwhile may be left out.
    ///
    /// # Errors
    /// `NotFound` for a knowledge base that the tenant does not have; `Invalid` for a filter key that no document has, or
    /// if a document would get too much metadata, in which case nothing is changed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some of the documents changed, each of them whole.
    pub async fn change_documents(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        filter: &Filter,
        deed: &Deed,
        is_dry_run: bool,
    ) -> Result<Outcome, Error> {
        let started = Instant::now();
        let stop_at = started + ctx.deadline.saturating_duration_since(started).mul_f64(0.75);
        let filter_json = filter.to_json();
        let mut tx = self.store.tenant_snapshot(ctx).await?;
        let base = store::knowledge_bases::find(&mut tx, knowledge_base_id)
            .await?
            .ok_or(Error::NotFound { what: "knowledge base" })?;
        if let Some(unknown) = documents_by_filter::find_unknown_key(&mut tx, knowledge_base_id, &filter.keys()).await?
        {
            let error = SearchError::UnknownKey { key: unknown.key, known: unknown.known };
            return Err(Error::invalid_field("filter", error.to_string().replace("no chunk", "no document")));
        }
        let found = find(&mut tx, &base, &filter_json, deed).await?;
        tx.commit().await?;

        let mut outcome =
            Outcome { matched: found.matched, documents: 0, chunks: 0, version: base.version, is_complete: true };
        if is_dry_run {
            outcome.documents = found.due.len() as u64;
            outcome.chunks = found.due.iter().map(|(_, chunks)| chunks).sum();
            return Ok(outcome);
        }
        if found.due.is_empty() {
            return Ok(outcome);
        }
        let loaded = self.sync.ensure(BaseKey::of(ctx, knowledge_base_id), 0);
        for ids in batches(&found.due) {
            if outcome.documents > 0 && Instant::now() >= stop_at {
                outcome.is_complete = false;
                break;
            }
            let change = self.change_batch(ctx, &loaded, &base, &filter_json, deed, &ids);
            let (changed, version) = watch::batch(change).await?;
            outcome.documents += changed.len() as u64;
            outcome.chunks += changed.iter().map(|document| document.chunk_count).sum::<u64>();
            outcome.version = version;
        }
        Ok(outcome)
    }

    /// One transaction: does `deed` to those of `ids` that still match and that it changes.
    async fn change_batch(
        &self,
        ctx: &Ctx,
        loaded: &Base,
        base: &KnowledgeBaseRow,
        filter: &Value,
        deed: &Deed,
        ids: &[DocumentId],
    ) -> Result<(Vec<Matching>, u64), Error> {
        let turn = loaded.turn_to_write().await;
        let mut tx = self.store.tenant_tx(ctx).await?;
        let (version, locked) = documents_by_filter::lock(&mut tx, base, filter, ids).await?;
        let changed = match deed {
            Deed::Delete => {
                documents_by_filter::delete(&mut tx, base.id, &locked).await?;
                locked
            }
            Deed::Patch(patch) => {
                let patched = locked.into_iter().map(|document| patched(document, patch));
                let changed: Vec<_> = patched.filter_map(Result::transpose).collect::<Result<_, _>>()?;
                documents_by_filter::update_metadata(&mut tx, base.id, &changed).await?;
                changed
            }
        };
        tx.commit().await?;
        drop(turn);
        if matches!(deed, Deed::Delete) {
            loaded.purge(version);
        }
        loaded.wake(version);
        Ok((changed, version))
    }
}

/// What a filter finds.
struct Found {
    matched: u64,
    /// What the deed would change, and the chunks of each.
    due: Vec<(DocumentId, u64)>,
}

async fn find(tx: &mut TenantTx, base: &KnowledgeBaseRow, filter: &Value, deed: &Deed) -> Result<Found, Error> {
    let mut found = Found { matched: 0, due: Vec::new() };
    let mut after = String::new();
    loop {
        let page = watch::batch(documents_by_filter::list(tx, base, filter, &after)).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after.clone_from(&last.external_id);
        found.matched += page.len() as u64;
        for document in page {
            let due = (document.id, document.chunk_count);
            match deed {
                Deed::Delete => found.due.push(due),
                Deed::Patch(patch) => found.due.extend(patched(document, patch)?.map(|_| due)),
            }
        }
    }
}

/// The ids in groups of one transaction each.
fn batches(due: &[(DocumentId, u64)]) -> Vec<Vec<DocumentId>> {
    let mut batches: Vec<Vec<DocumentId>> = Vec::new();
    let mut chunks_held = 0;
    for (id, chunks) in due {
        match batches.last_mut() {
            Some(batch) if batch.len() < DOCUMENTS_MAX && chunks_held < CHUNKS_MAX => {
                batch.push(*id);
                chunks_held += chunks;
            }
            _ => {
                batches.push(vec![*id]);
                chunks_held = *chunks;
            }
        }
    }
    batches
}

/// The document with `patch` in its metadata; none if that changes nothing.
fn patched(document: Matching, patch: &Map<String, Value>) -> Result<Option<Matching>, Error> {
    let metadata = merged(&document.metadata, patch);
    if same_object(&metadata, &document.metadata) {
        return Ok(None);
    }
    if metadata::bytes(&metadata) > metadata::BYTES_MAX {
        let told =
            format!("would give the document `{}` more than {} bytes", document.external_id, metadata::BYTES_MAX);
        return Err(Error::invalid_field("metadata", told));
    }
    Ok(Some(Matching { metadata, ..document }))
}

/// Whether Postgres takes the two for equal: it writes `1e2` as `100`, which reads as another kind of number.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left == right || (left.is_f64() || right.is_f64()) && left.as_f64() == right.as_f64()
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => same_object(left, right),
        _ => left == right,
    }
}

fn same_object(left: &Map<String, Value>, right: &Map<String, Value>) -> bool {
    left.len() == right.len() && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same(value, other)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn document(metadata: Value) -> Matching {
        Matching { id: DocumentId::new(), external_id: "a".into(), metadata: object(metadata), chunk_count: 1 }
    }

    #[test]
    fn a_patch_that_changes_nothing_writes_nothing() {
        let present = json!({"n": 100, "s": "x", "list": [1, 2.0], "o": {"deep": 1}});
        for patch in
            [json!({"n": 1e2}), json!({"missing": null}), json!({"o": {"deep": 1.0}}), json!({"list": [1.0, 2]})]
        {
            assert_eq!(patched(document(present.clone()), &object(patch.clone())).unwrap(), None, "{patch}");
        }
        for patch in [json!({"n": 101}), json!({"s": null}), json!({"o": {"deep": "1"}}), json!({"list": [1]})] {
            assert!(patched(document(present.clone()), &object(patch.clone())).unwrap().is_some(), "{patch}");
        }
    }

    #[test]
    fn metadata_cannot_grow_beyond_the_limit_by_patches() {
        // `{"a":"…","b":""}`
        let fits = "x".repeat(metadata::BYTES_MAX - 15);
        let patch = object(json!({"b": ""}));
        assert!(patched(document(json!({ "a": fits })), &patch).unwrap().is_some());
        let error = patched(document(json!({ "a": format!("{fits}x") })), &patch).unwrap_err();
        assert_eq!(error.meaning().status, 400);
    }

    #[test]
    fn batches_are_bounded_and_hold_everything() {
        let due: Vec<_> = (0..1_000).map(|n| (DocumentId::new(), if n < 600 { 1 } else { 1_500 })).collect();
        let batches = batches(&due);
        assert_eq!(batches.concat(), due.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>()[..4], [256, 256, 90, 2]);
        assert!(super::batches(&[]).is_empty());
    }
}
