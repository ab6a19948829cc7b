//! `/v1/knowledge-bases/{id}/generations`: another encoder, built beside the present one.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::knowledge_bases::knowledge_base_id;
use crate::{
    app::App,
    ctx::Ctx,
    error::Error,
    http::{Request, Response, respond},
    knowledge::GenerationRow,
};

/// A generation to build.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationDraft {
    /// What is to encode the chunks: `static`, or the model of `encoder.model`.
    encoder: String,
}

/// The chunks of a knowledge base as one encoder encodes them.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerationView {
    id: Uuid,
    /// Fingerprint of the encoder.
    encoder: String,
    dimensions: usize,
    /// `active` (searches ask it), `building`, or `retired` (its chunks are being deleted).
    state: &'static str,
    /// Chunks that it has.
    encoded: u64,
    /// Chunks that the active one has.
    total: u64,
    /// What keeps it from being built, if something does; it is tried again all the time.
    problem: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

/// Every generation of a knowledge base.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerationsView {
    /// Newest first.
    items: Vec<GenerationView>,
}

impl From<GenerationRow> for GenerationView {
    fn from(generation: GenerationRow) -> Self {
        Self {
            id: generation.id,
            encoder: generation.encoder,
            dimensions: generation.dimensions,
            state: generation.state.as_str(),
            encoded: generation.chunk_count,
            total: generation.total,
            problem: generation.problem,
            created_at: generation.created_at,
        }
    }
}

/// `POST /v1/knowledge-bases/{knowledge_base_id}/generations`
pub async fn create_generation(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = knowledge_base_id(&req)?;
    let draft: GenerationDraft = req.json(&app.compute).await?;
    let generation = app.knowledge.start_generation(ctx, id, &draft.encoder).await?;
    respond::created(&GenerationView::from(generation))
}

/// `GET /v1/knowledge-bases/{knowledge_base_id}/generations`
pub async fn list_generations(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let all = app.knowledge.list_generations(ctx, knowledge_base_id(&req)?).await?;
    respond::ok(&GenerationsView { items: all.into_iter().map(GenerationView::from).collect() })
}

/// `DELETE /v1/knowledge-bases/{knowledge_base_id}/generations/{generation_id}`
pub async fn delete_generation(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = knowledge_base_id(&req)?;
    let generation_id = req.path_uuid("generation_id").ok_or(Error::NotFound { what: "generation" })?;
    app.knowledge.cancel_generation(ctx, id, generation_id).await?;
    Ok(respond::no_content())
}

pub(super) mod docs_of {
    use super::{
        super::openapi::{Docs, Gives},
        GenerationDraft, GenerationView, GenerationsView,
    };
    use crate::error::Error;

    pub(in crate::api) fn create_generation() -> Docs {
        let about = "Encodes the stored chunks with another encoder in the background. Searches and writes go on with the \
                     present one; when everything is encoded, the knowledge base is switched over at once.";
        Docs::new("Change the encoder of a knowledge base", Gives::json::<GenerationView>(201, "It is being built."))
            .about(about)
            .takes_json::<GenerationDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn list_generations() -> Docs {
        Docs::new("List the generations of a knowledge base", Gives::json::<GenerationsView>(200, "All of them."))
    }

    pub(in crate::api) fn delete_generation() -> Docs {
        Docs::new("Give up a generation that is being built", Gives::nothing(204, "It is given up."))
            .fails(Error::Conflict { detail: String::new() })
    }
}
