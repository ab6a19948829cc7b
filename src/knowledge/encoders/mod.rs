//! Encoders: text to vectors of unit length, by the static table in this process or by a [`service`] over HTTP.
//!
//! Invariant: vectors are compared only where one encoder made them. A generation of a knowledge base bears the fingerprint
//! of its encoder, and [`Encoders::of`] finds that very one, or none.

pub mod service;

use std::sync::Arc;

use anyhow::Context as _;
use tertulia_index::Encoder as Table;

use self::service::Service;
use super::endpoint::ServiceError;
use crate::{
    compute::Compute,
    config::{EncoderConfig, STATIC_ENCODER},
    error::Error,
    tasks::Tasks,
};

/// What turns text into vectors.
#[derive(Clone)]
pub enum Encoder {
    /// A table in this process: microseconds for a question.
    Static(Arc<Table>),
    /// A model behind an address.
    Service(Arc<Service>),
}

/// Who waits for documents to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A request, which is refused if too many wait already.
    Request,
    /// Nobody.
    Background,
}

/// Every encoder of this server.
pub struct Encoders {
    table: Arc<Table>,
    service: Option<Arc<Service>>,
    compute: Arc<Compute>,
}

impl Encoders {
    /// The table, and the service that `config` names, if it names one.
    ///
    /// # Errors
    /// If the service's key cannot be read, or no certificate authority is there for an https address.
    pub fn new(table: Table, config: &EncoderConfig, compute: Arc<Compute>, tasks: &Tasks) -> anyhow::Result<Self> {
        let service = match &config.url {
            Some(url) => Some(Arc::new(Service::new(url, config, tasks.runtime().clone()).context("encoder.url")?)),
            None => None,
        };
        Ok(Self { table: Arc::new(table), service, compute })
    }

    /// The one that new knowledge bases get.
    pub fn standard(&self) -> Encoder {
        Encoder::Static(self.table.clone())
    }

    /// The one that callers call `name`: `static`, or the service's model.
    ///
    /// # Errors
    /// `Invalid` if there is none, with the names that there are.
    pub fn named(&self, name: &str) -> Result<Encoder, Error> {
        self.all().find(|encoder| encoder.name() == name).ok_or_else(|| {
            let names: Vec<String> = self.all().map(|encoder| format!("`{}`", encoder.name())).collect();
            Error::invalid_field("encoder", format!("is none of this server's, which are {}", names.join(" and ")))
        })
    }

    /// The one of that fingerprint.
    ///
    /// # Errors
    /// `Conflict` if this server has it not.
    pub fn of(&self, fingerprint: &str) -> Result<Encoder, Error> {
        self.all().find(|encoder| encoder.fingerprint() == fingerprint).ok_or_else(|| Error::Conflict {
            detail: format!(
                "The knowledge base is encoded by {fingerprint}, which this server has not ({} is what it has): start it \
                 with that encoder (retrieval.weights_dir or encoder.*), encode the knowledge base anew \
                 (POST …/generations), or search with mode `keyword`.",
                self.fingerprints().join(" and ")
            ),
        })
    }

    /// The fingerprints of all of them.
    pub fn fingerprints(&self) -> Vec<String> {
        self.all().map(|encoder| encoder.fingerprint().to_owned()).collect()
    }

    /// Tokens of the table's tokenizer in `text`, whatever encoder it is for: what chunks are measured in.
    pub fn count_tokens(&self, text: &str) -> usize {
        self.table.count_tokens(text)
    }

    /// A vector of unit length for each of `texts`, in order, made on compute threads or by the service.
    ///
    /// # Errors
    /// `Unavailable` if the service does not answer as it should after several tries, or too many jobs wait.
    ///
    /// # Cancel safety
    /// Dropping the future gives up what is under way.
    pub async fn encode_documents(
        &self,
        encoder: &Encoder,
        texts: Vec<String>,
        urgency: Urgency,
    ) -> Result<Vec<Vec<f32>>, Error> {
        match encoder {
            Encoder::Static(table) => {
                let table = table.clone();
                let encode = move || table.encode_documents(&texts);
                match urgency {
                    Urgency::Request => self.compute.run(encode).await,
                    Urgency::Background => self.compute.run_in_background(encode).await,
                }
            }
            Encoder::Service(service) => Ok(service.encode_documents(texts).await?),
        }
    }

    fn all(&self) -> impl Iterator<Item = Encoder> {
        [Some(self.standard()), self.service.clone().map(Encoder::Service)].into_iter().flatten()
    }
}

impl Encoder {
    /// What callers call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Static(_) => STATIC_ENCODER,
            Self::Service(service) => service.model(),
        }
    }

    /// Names the space that its vectors are in.
    pub fn fingerprint(&self) -> &str {
        match self {
            Self::Static(table) => table.fingerprint(),
            Self::Service(service) => service.fingerprint(),
        }
    }

    /// Numbers in each vector.
    pub fn dimensions(&self) -> usize {
        match self {
            Self::Static(table) => table.dimensions(),
            Self::Service(service) => service.dimensions(),
        }
    }

    /// The vector of a question; at once by the table, within `encoder.query_timeout` by a service.
    ///
    /// # Errors
    /// If the service does not answer in time or as it should.
    pub async fn encode_query(&self, text: &str) -> Result<Vec<f32>, ServiceError> {
        match self {
            Self::Static(table) => Ok(table.encode_query(text)),
            Self::Service(service) => service.encode_query(text).await,
        }
    }
}

/// What a chunk is encoded as. The path of headings is part of what it means, and often has the words that a question uses.
pub fn text_of(heading: &str, content: &str) -> String {
    format!("{heading}\n{content}")
}
