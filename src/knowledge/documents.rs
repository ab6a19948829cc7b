//! Documents: extracted, split, encoded on compute threads, and replaced in one transaction.
//!
//! Invariant: what [`Knowledge::put_document`] answered for is committed. The old chunks go and the new ones come in the
//! same transaction and under one version, so that no search sees half of a document.

use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    BaseKey, Knowledge, chunking,
    encoders::{self, Encoder, Urgency},
    extract,
};
use crate::{
    ctx::{Ctx, DocumentId, KnowledgeBaseId},
    error::Error,
    store::{
        self, StoreError, TenantTx,
        documents::DocumentRow,
        page::{Page, PageRequest},
    },
};

/// Longest external id, in bytes.
pub const EXTERNAL_ID_BYTES_MAX: usize = 1_024;

/// How often a document is encoded for a knowledge base that keeps getting other encoders.
const ENCODED_MAX: usize = 3;

/// A document as a caller hands it in.
#[derive(Debug, Clone)]
pub struct DocumentDraft {
    /// The caller's own name for it, such as a path: unique in the knowledge base.
    pub external_id: String,
    /// The document's bytes, as `media_type` says.
    pub content: Bytes,
    /// What the bytes are.
    pub media_type: extract::MediaType,
    /// Shown with hits and searched, not blank; without one the document's own title, else its external id. What is
    /// unchanged but for the lack of one keeps the title that it has.
    pub title: Option<String>,
    /// Where people can read it.
    pub source_url: Option<String>,
    /// What filters can ask about.
    pub metadata: Map<String, Value>,
}

/// What became of a draft.
#[derive(Debug)]
pub struct Receipt {
    /// The document's id.
    pub id: DocumentId,
    /// False if the same content, title (where one was given), address and metadata were there already, so that nothing
    /// was written.
    pub written: bool,
    /// Chunks that it has now.
    pub chunks: usize,
    /// Search with this as `min_version` to see it.
    pub version: u64,
    /// SHA-256 of the bytes.
    pub content_sha256: [u8; 32],
}

impl Knowledge {
    /// Makes `draft` the document of its external id: atomically, and not at all if it is there already.
    ///
    /// # Errors
    /// `NotFound` for a knowledge base that the tenant does not have; `Invalid` for a document that cannot be read;
    /// `Conflict` if the knowledge base is encoded by an encoder that this server has not; `Unavailable` if that is a service
    /// which is away.
    ///
    /// # Cancel safety
    /// Dropping the future before the commit leaves the old document as it was.
    pub async fn put_document(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        draft: DocumentDraft,
    ) -> Result<Receipt, Error> {
        for _ in 0..ENCODED_MAX {
            if let Some(receipt) = self.try_put_document(ctx, knowledge_base_id, draft.clone()).await? {
                return Ok(receipt);
            }
        }
        Err(StoreError::GenerationSwitched.into())
    }

    /// None if the knowledge base got another encoder meanwhile, so that nothing was written.
    async fn try_put_document(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        draft: DocumentDraft,
    ) -> Result<Option<Receipt>, Error> {
        let content_sha256: [u8; 32] = Sha256::digest(&draft.content).into();
        let mut tx = self.store.tenant_read(ctx).await?;
        let base = store::knowledge_bases::find(&mut tx, knowledge_base_id)
            .await?
            .ok_or(Error::NotFound { what: "knowledge base" })?;
        let present = store::documents::find_by_external_id(&mut tx, knowledge_base_id, &draft.external_id).await?;
        // Reading and encoding a document must not hold a connection.
        drop(tx);
        let encoder = self.encoders.of(&base.encoder)?;
        if let Some(present) = present.filter(|present| is_unchanged(present, &draft, &content_sha256)) {
            return Ok(Some(Receipt {
                id: present.id,
                written: false,
                chunks: present.chunk_count,
                version: base.version,
                content_sha256,
            }));
        }
        let external_id = draft.external_id.clone();
        // The bytes count towards the documents that are held at once; so do, with them, the chunks made of them.
        let _held = draft.content.clone();
        let (document, chunks) = self.prepare(draft, content_sha256, &encoder).await?;
        let loaded = self.sync.ensure(BaseKey::of(ctx, knowledge_base_id), base.version);
        let turn = loaded.turn_to_write().await;
        let mut tx = self.store.tenant_tx(ctx).await?;
        let replaced =
            match store::documents::replace(&mut tx, knowledge_base_id, base.generation_id, &document, &chunks).await {
                Err(StoreError::GenerationSwitched) => return Ok(None),
                replaced => replaced?,
            };
        tx.commit().await?;
        drop(turn);
        tracing::debug!(%external_id, chunks = chunks.len(), version = replaced.version, "document written");
        loaded.wake(replaced.version);
        let (id, version) = (replaced.id, replaced.version);
        Ok(Some(Receipt { id, written: true, chunks: chunks.len(), version, content_sha256 }))
    }

    /// A page of the knowledge base's documents, by external id.
    ///
    /// # Errors
    /// `NotFound` for a knowledge base that the tenant does not have.
    pub async fn list_documents(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        page: &PageRequest,
    ) -> Result<Page<DocumentRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        find_base(&mut tx, knowledge_base_id).await?;
        let documents = store::documents::list(&mut tx, knowledge_base_id, page).await?;
        Ok(documents)
    }

    /// The document that `name` names: its external id, else its id.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such knowledge base or document.
    pub async fn find_document(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        name: &str,
    ) -> Result<DocumentRow, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        find_base(&mut tx, knowledge_base_id).await?;
        let document = find(&mut tx, knowledge_base_id, name).await?;
        Ok(document)
    }

    /// The chunks of a document, in its order.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such knowledge base or document.
    pub async fn list_chunks(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        name: &str,
        page: &PageRequest,
    ) -> Result<Page<store::chunks::ChunkRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        find_base(&mut tx, knowledge_base_id).await?;
        let document = find(&mut tx, knowledge_base_id, name).await?;
        let chunks = store::chunks::list(&mut tx, document.id, page).await?;
        Ok(chunks)
    }

    /// Deletes the document and its chunks; gives the version from which no search finds them.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such knowledge base or document.
    pub async fn delete_document(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        name: &str,
    ) -> Result<u64, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        find_base(&mut tx, knowledge_base_id).await?;
        let document = find(&mut tx, knowledge_base_id, name).await?;
        let loaded = self.sync.ensure(BaseKey::of(ctx, knowledge_base_id), 0);
        let turn = loaded.turn_to_write().await;
        let mut tx = self.store.tenant_tx(ctx).await?;
        let version = store::documents::delete(&mut tx, knowledge_base_id, document.id).await?;
        tx.commit().await?;
        drop(turn);
        loaded.purge(version);
        loaded.wake(version);
        Ok(version)
    }

    /// Extracts and splits on a compute thread, then has the passages encoded.
    async fn prepare(
        &self,
        draft: DocumentDraft,
        content_sha256: [u8; 32],
        encoder: &Encoder,
    ) -> Result<(store::documents::NewDocument, Vec<store::chunks::NewChunk>), Error> {
        let encoders = self.encoders.clone();
        let limits = chunking::Limits {
            tokens_max: self.config.chunk_tokens_max,
            overlap_tokens: self.config.chunk_overlap_tokens,
        };
        let split = move || {
            let extracted = extract::extract(&draft.content, &draft.media_type)
                .map_err(|error| Error::invalid_field("body", error.to_string()))?;
            let passages = chunking::split(&extracted, &limits, &|text| encoders.count_tokens(text));
            let title = draft.title.or(extracted.title.filter(|title| !title.trim().is_empty()));
            let document = store::documents::NewDocument {
                title: title.unwrap_or_else(|| draft.external_id.clone()),
                external_id: draft.external_id,
                source_url: draft.source_url,
                mime_type: draft.media_type.as_str().to_owned(),
                metadata: draft.metadata,
                content_sha256,
            };
            Ok::<_, Error>((document, passages))
        };
        let (document, passages) = self.compute.run(split).await??;
        let texts = passages.iter().map(|passage| encoders::text_of(&passage.heading, &passage.content)).collect();
        let embeddings = self.encoders.encode_documents(encoder, texts, Urgency::Request).await?;
        let chunks = passages
            .into_iter()
            .zip(embeddings)
            .map(|(passage, embedding)| store::chunks::NewChunk {
                ordinal: passage.ordinal,
                heading: passage.heading,
                content: passage.content,
                embedding,
                metadata: Map::new(),
            })
            .collect();
        Ok((document, chunks))
    }
}

/// Whether writing `draft` would change nothing that its caller speaks of.
fn is_unchanged(present: &DocumentRow, draft: &DocumentDraft, content_sha256: &[u8; 32]) -> bool {
    present.content_sha256 == *content_sha256
        && present.mime_type == draft.media_type.as_str()
        && present.source_url == draft.source_url
        && present.metadata == draft.metadata
        && draft.title.as_ref().is_none_or(|title| *title == present.title)
}

/// Sees that the knowledge base is there.
async fn find_base(tx: &mut TenantTx, id: KnowledgeBaseId) -> Result<(), Error> {
    store::knowledge_bases::find(tx, id).await?.map(|_| ()).ok_or(Error::NotFound { what: "knowledge base" })
}

async fn find(tx: &mut TenantTx, knowledge_base_id: KnowledgeBaseId, name: &str) -> Result<DocumentRow, Error> {
    if let Some(document) = store::documents::find_by_external_id(tx, knowledge_base_id, name).await? {
        return Ok(document);
    }
    let by_id = match uuid::Uuid::parse_str(name) {
        Ok(id) => store::documents::find(tx, knowledge_base_id, DocumentId(id)).await?,
        Err(_) => None,
    };
    by_id.ok_or(Error::NotFound { what: "document" })
}
