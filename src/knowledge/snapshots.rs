//! Snapshots of indexes in the data directory, so that a restart does not read everything from Postgres again.
//!
//! `snapshots/<tenant>/<knowledge base>/<generation>/`. A snapshot is a cache: one that is damaged, of another encoder or
//! of another format is removed and the index built from Postgres.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tertulia_index::{Index, RestoreError, Settings, SnapshotError};
use uuid::Uuid;

use super::BaseKey;
use crate::ctx::{KnowledgeBaseId, TenantId};

/// The folder of all snapshots.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
}

impl Snapshots {
    /// Snapshots under `data_dir`.
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self { root: data_dir.join("snapshots") }
    }

    /// The folder of one knowledge base's generation.
    pub fn folder(&self, key: BaseKey, generation_id: Uuid) -> PathBuf {
        self.folder_of_base(key).join(generation_id.to_string())
    }

    /// Every knowledge base and generation that has a snapshot.
    ///
    /// # Errors
    /// If the folder is there but cannot be read.
    pub fn list(&self) -> io::Result<Vec<(BaseKey, Uuid)>> {
        let mut found = Vec::new();
        for (tenant_id, tenant_folder) in folders_with_ids(&self.root)? {
            for (base_id, base_folder) in folders_with_ids(&tenant_folder)? {
                let key = BaseKey { tenant_id: TenantId(tenant_id), knowledge_base_id: KnowledgeBaseId(base_id) };
                found
                    .extend(folders_with_ids(&base_folder)?.into_iter().map(|(generation_id, _)| (key, generation_id)));
            }
        }
        Ok(found)
    }

    /// The index as it was saved, if there is a sound snapshot; one that is not sound is removed.
    pub fn restore(&self, key: BaseKey, generation_id: Uuid, settings: &Settings) -> Option<Index> {
        let folder = self.folder(key, generation_id);
        match Index::restore(&folder, settings) {
            Ok(index) => Some(index),
            Err(RestoreError::Missing) => None,
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(folder = %folder.display(), error = format!("{error:#}"), "snapshot ignored and removed; building from postgres");
                remove_folder(&folder);
                None
            }
        }
    }

    /// Saves `index`, replacing what was saved before.
    ///
    /// # Errors
    /// If a file cannot be written; what was saved before stays.
    pub fn save(&self, key: BaseKey, generation_id: Uuid, index: &Index) -> Result<(), SnapshotError> {
        index.snapshot(&self.folder(key, generation_id))
    }

    /// Removes every generation but `kept` of a knowledge base; all of them if there is none to keep.
    pub fn remove_others(&self, key: BaseKey, kept: Option<Uuid>) {
        let folder = self.folder_of_base(key);
        match kept {
            None => remove_folder(&folder),
            Some(kept) => folders_with_ids(&folder)
                .unwrap_or_default()
                .into_iter()
                .filter(|(generation_id, _)| *generation_id != kept)
                .for_each(|(_, folder)| remove_folder(&folder)),
        }
    }

    fn folder_of_base(&self, key: BaseKey) -> PathBuf {
        self.root.join(key.tenant_id.to_string()).join(key.knowledge_base_id.to_string())
    }
}

/// The sub-folders of `folder` that are named by an id; none if `folder` is not there.
fn folders_with_ids(folder: &Path) -> io::Result<Vec<(Uuid, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok()) {
            found.push((id, entry.path()));
        }
    }
    Ok(found)
}

fn remove_folder(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "old snapshot could not be removed"),
    }
}
