//! `/v1/knowledge-bases/{id}/documents`: put, list, read, delete, and the chunks of one.
//!
//! A document is put in one of two ways: as it is (`Content-Type: text/html`, `application/pdf`, …; title, address and
//! metadata in the query string), or inside JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{knowledge_bases::knowledge_base_id, lists};
use crate::{
    app::App,
    ctx::Ctx,
    error::Error,
    http::{Request, Response, request::is_json, respond},
    knowledge::{
        ChunkRow, DocumentRow,
        documents::{DocumentDraft, EXTERNAL_ID_BYTES_MAX, Receipt},
        extract::MediaType,
    },
    metadata,
};

/// Longest title, in characters.
const TITLE_CHARS_MAX: usize = 1_000;
/// Longest source address, in bytes.
const SOURCE_URL_BYTES_MAX: usize = 4_096;

/// A document inside JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentJson {
    /// The text.
    content: String,
    /// What the text is: `text/plain`, `text/markdown` or `text/html`; plain text if nothing is said.
    #[serde(default)]
    content_type: Option<String>,
    /// Shown with hits and searched. If nothing is said, or it is blank: the document's own, or the present one if the
    /// content is unchanged.
    #[schema(max_length = 1_000)]
    title: Option<String>,
    /// Where people can read it.
    #[schema(max_length = 4_096)]
    source_url: Option<String>,
    /// What filters can ask about.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// What became of a document that was put.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReceiptView {
    id: Uuid,
    external_id: String,
    /// `indexed`, or `unchanged` if the very same was there already.
    status: &'static str,
    chunks: usize,
    /// Search with this as `min_version` to see it.
    version: u64,
    content_sha256: String,
}

/// A document.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentView {
    id: Uuid,
    external_id: String,
    title: String,
    source_url: Option<String>,
    mime_type: String,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    content_sha256: String,
    chunks: usize,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// A chunk of a document.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkView {
    id: Uuid,
    ordinal: u32,
    heading: String,
    content: String,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    version: u64,
}

/// What a deletion led to.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletionView {
    /// From this version on no search finds it.
    version: u64,
}

impl From<DocumentRow> for DocumentView {
    fn from(row: DocumentRow) -> Self {
        Self {
            id: row.id.0,
            external_id: row.external_id,
            title: row.title,
            source_url: row.source_url,
            mime_type: row.mime_type,
            metadata: row.metadata,
            content_sha256: hex::encode(row.content_sha256),
            chunks: row.chunk_count,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl From<ChunkRow> for ChunkView {
    fn from(row: ChunkRow) -> Self {
        Self {
            id: row.id,
            ordinal: row.ordinal,
            heading: row.heading,
            content: row.content,
            metadata: row.metadata,
            version: row.version,
        }
    }
}

/// `PUT /v1/knowledge-bases/{knowledge_base_id}/documents/{document}`
pub async fn put_document(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let knowledge_base_id = knowledge_base_id(&req)?;
    let draft = read_draft(app, req).await?;
    let external_id = draft.external_id.clone();
    let receipt = app.knowledge.put_document(ctx, knowledge_base_id, draft).await?;
    respond::ok(&receipt_view(external_id, &receipt))
}

/// `GET /v1/knowledge-bases/{knowledge_base_id}/documents`
pub async fn list_documents(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let documents = app.knowledge.list_documents(ctx, knowledge_base_id(&req)?, &page).await?;
    lists::respond(&page, documents.map(DocumentView::from))
}

/// `GET /v1/knowledge-bases/{knowledge_base_id}/documents/{document}`
pub async fn get_document(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let document = app.knowledge.find_document(ctx, knowledge_base_id(&req)?, req.path("document")).await?;
    respond::ok(&DocumentView::from(document))
}

/// `DELETE /v1/knowledge-bases/{knowledge_base_id}/documents/{document}`
pub async fn delete_document(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let version = app.knowledge.delete_document(ctx, knowledge_base_id(&req)?, req.path("document")).await?;
    respond::ok(&DeletionView { version })
}

/// `GET /v1/knowledge-bases/{knowledge_base_id}/documents/{document}/chunks`
pub async fn list_chunks(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let chunks = app.knowledge.list_chunks(ctx, knowledge_base_id(&req)?, req.path("document"), &page).await?;
    lists::respond(&page, chunks.map(ChunkView::from))
}

async fn read_draft(app: &App, req: Request) -> Result<DocumentDraft, Error> {
    let external_id = req.path("document").to_owned();
    if external_id.is_empty() || external_id.len() > EXTERNAL_ID_BYTES_MAX {
        return Err(Error::invalid_field("document", format!("must have 1 to {EXTERNAL_ID_BYTES_MAX} bytes")));
    }
    let content_type = req.content_type().map(str::to_owned);
    let draft = if content_type.as_deref().is_none_or(is_json) {
        let (json, place): (DocumentJson, _) = req.json_in_place(&app.compute).await?;
        DocumentDraft {
            external_id,
            media_type: media_type(json.content_type.as_deref().unwrap_or("text/plain"), "content_type")?,
            content: place.keep(json.content),
            title: json.title,
            source_url: json.source_url,
            metadata: json.metadata,
        }
    } else {
        let metadata = match req.query("metadata") {
            None => Map::new(),
            Some(text) => serde_json::from_str(text)
                .map_err(|error| Error::invalid_field("metadata", format!("must be a JSON object: {error}")))?,
        };
        DocumentDraft {
            external_id,
            media_type: media_type(content_type.as_deref().unwrap_or_default(), "Content-Type")?,
            title: req.query("title").map(str::to_owned),
            source_url: req.query("source_url").map(str::to_owned),
            metadata,
            content: req.bytes().await?,
        }
    };
    check(&draft)?;
    // A blank title is none.
    Ok(DocumentDraft { title: draft.title.filter(|title| !title.trim().is_empty()), ..draft })
}

fn check(draft: &DocumentDraft) -> Result<(), Error> {
    if draft.title.as_ref().is_some_and(|title| title.chars().count() > TITLE_CHARS_MAX) {
        return Err(Error::invalid_field("title", format!("may have at most {TITLE_CHARS_MAX} characters")));
    }
    if draft.source_url.as_ref().is_some_and(|url| url.len() > SOURCE_URL_BYTES_MAX) {
        return Err(Error::invalid_field("source_url", format!("may have at most {SOURCE_URL_BYTES_MAX} bytes")));
    }
    metadata::check("metadata", &draft.metadata)
}

fn media_type(text: &str, field: &str) -> Result<MediaType, Error> {
    MediaType::parse(text).ok_or_else(|| Error::UnsupportedMediaType {
        detail: format!(
            "{field} is `{text}`; a document may be text/html, text/markdown, text/plain or application/pdf, as it is \
             or (text only) inside application/json."
        ),
    })
}

fn receipt_view(external_id: String, receipt: &Receipt) -> ReceiptView {
    ReceiptView {
        id: receipt.id.0,
        external_id,
        status: if receipt.written { "indexed" } else { "unchanged" },
        chunks: receipt.chunks,
        version: receipt.version,
        content_sha256: hex::encode(receipt.content_sha256),
    }
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists,
            openapi::{Docs, Gives, QueryKind, QueryParameter},
        },
        ChunkView, DeletionView, DocumentJson, DocumentView, ReceiptView,
    };
    use crate::error::Error;

    const fn text(name: &'static str, about: &'static str) -> QueryParameter {
        QueryParameter { name, about, kind: QueryKind::Text }
    }

    const PUT_QUERY: &[QueryParameter] = &[
        text("title", "Title, if the body is the document as it is; the document's own if it is left out or blank."),
        text("source_url", "Where people can read it, if the body is the document as it is."),
        text("metadata", "A JSON object that filters can ask about, if the body is the document as it is."),
    ];

    pub(in crate::api) fn put_document() -> Docs {
        let about = "The body is the document as it is, or JSON that has its text. Putting the very same again changes \
                     nothing, and a title that is left out keeps the present one then; anything else replaces all its \
                     chunks at once.";
        Docs::new("Put a document", Gives::json::<ReceiptView>(200, "What became of it; it is committed."))
            .about(about)
            .query(PUT_QUERY)
            .takes_json::<DocumentJson>()
            .takes("text/html")
            .takes("text/markdown")
            .takes("text/plain")
            .takes("application/pdf")
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn list_documents() -> Docs {
        let gives = Gives::page::<DocumentView>("A page, by external id.");
        Docs::new("List documents", gives).query(lists::QUERY)
    }

    pub(in crate::api) fn get_document() -> Docs {
        Docs::new("Read a document", Gives::json::<DocumentView>(200, "The document, without its text."))
    }

    pub(in crate::api) fn delete_document() -> Docs {
        let gives = Gives::json::<DeletionView>(200, "It is gone, and so are its chunks.");
        Docs::new("Delete a document", gives)
    }

    pub(in crate::api) fn list_chunks() -> Docs {
        let gives = Gives::page::<ChunkView>("A page, in the document's order.");
        Docs::new("List the chunks of a document", gives).query(lists::QUERY)
    }
}
