//! `/v1/knowledge-bases/{id}/delete-documents` and `/patch-documents`: many documents at once, picked by a filter.
//!
//! They do not stand under `/documents/`, where each name is a document's: one may be called `delete`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::knowledge_bases::{knowledge_base_id, read_filter};
use crate::{
    app::App,
    ctx::Ctx,
    error::Error,
    http::{Request, Response, respond},
    knowledge::by_filter::{Deed, Outcome},
    metadata,
};

/// Which documents to delete.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeletionDraft {
    /// Over the documents' own metadata, in the form that searches take; it cannot be left out.
    #[schema(value_type = Object)]
    filter: Value,
    /// Whether to count only.
    #[serde(default)]
    dry_run: bool,
}

/// Which documents to patch, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchDraft {
    /// Over the documents' own metadata, in the form that searches take; it cannot be left out.
    #[schema(value_type = Object)]
    filter: Value,
    /// Merged into each document's metadata as RFC 7396 says: a null removes its key, an object is merged, anything else
    /// replaces. At least one key.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// Whether to count only.
    #[serde(default)]
    dry_run: bool,
}

/// What was done, or with `dry_run` would be.
#[derive(Debug, Serialize, ToSchema)]
pub struct ByFilterView {
    dry_run: bool,
    /// Documents that match the filter.
    matched: u64,
    /// Documents of these that were changed: a patch leaves alone what is as it says already.
    documents: u64,
    /// Chunks of the changed documents.
    chunks: u64,
    /// Search with this as `min_version` to see all of it.
    version: u64,
    /// False if time ran out: what was done is done, and the same request goes on with the rest.
    complete: bool,
}

/// `POST /v1/knowledge-bases/{knowledge_base_id}/delete-documents`
pub async fn delete_documents(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = knowledge_base_id(&req)?;
    let draft: DeletionDraft = req.json(&app.compute).await?;
    let filter = read_filter(&draft.filter)?;
    let outcome = app.knowledge.change_documents(ctx, id, &filter, &Deed::Delete, draft.dry_run).await?;
    respond::ok(&view(outcome, draft.dry_run))
}

/// `POST /v1/knowledge-bases/{knowledge_base_id}/patch-documents`
pub async fn patch_documents(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = knowledge_base_id(&req)?;
    let draft: PatchDraft = req.json(&app.compute).await?;
    let filter = read_filter(&draft.filter)?;
    if draft.metadata.is_empty() {
        return Err(Error::invalid_field("metadata", "must have at least one key"));
    }
    metadata::check("metadata", &draft.metadata)?;
    let outcome = app.knowledge.change_documents(ctx, id, &filter, &Deed::Patch(draft.metadata), draft.dry_run).await?;
    respond::ok(&view(outcome, draft.dry_run))
}

fn view(outcome: Outcome, dry_run: bool) -> ByFilterView {
    ByFilterView {
        dry_run,
        matched: outcome.matched,
        documents: outcome.documents,
        chunks: outcome.chunks,
        version: outcome.version,
        complete: outcome.is_complete,
    }
}

pub(super) mod docs_of {
    use super::{
        super::openapi::{Docs, Gives},
        ByFilterView, DeletionDraft, PatchDraft,
    };

    const ABOUT: &str = "Some hundred documents at a time, each time in one transaction and under one version. With \
                         `dry_run` nothing is changed. A key of the filter that no document has is refused.";

    pub(in crate::api) fn delete_documents() -> Docs {
        let gives = Gives::json::<ByFilterView>(200, "They are gone, and so are their chunks.");
        Docs::new("Delete the documents that match a filter", gives).about(ABOUT).takes_json::<DeletionDraft>()
    }

    pub(in crate::api) fn patch_documents() -> Docs {
        let gives = Gives::json::<ByFilterView>(200, "Their metadata are changed.");
        Docs::new("Change the metadata of the documents that match a filter", gives)
            .about(ABOUT)
            .takes_json::<PatchDraft>()
    }
}
