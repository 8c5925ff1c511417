//! How the control plane and the nodes meet: catalogs and artifacts one way, reports and logs the other.
//!
//! Neither side knows the other. One machine uses [`embedded`].

pub mod embedded;

#[cfg(test)]
mod contract;
mod folder;
mod rings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{ArtifactKey, Catalog, CatalogHead, Delta, Entry, Generation, Owner, Signed};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Everything that passes between the control plane and its nodes.
#[async_trait]
pub trait Distribution: Send + Sync + 'static {
    /// Makes a generation known to every node. The artifacts it names are there already.
    ///
    /// # Errors
    /// Nothing was published; the caller's records still hold it, and it may be published again.
    async fn publish(&self, publication: Publication) -> Result<(), DistributionError>;

    /// Waits until there is a generation newer than `known` and says how to get there: by steps if they are kept,
    /// else whole. Who says 0 holds nothing and is always told the whole.
    async fn changed(&self, known: Generation) -> Result<Changed, DistributionError>;

    /// Keeps the file at `from` under `key`: moved into place after it is on disk, whole or not at all. The file at
    /// `from` is used up. A second `put` of the same key replaces the first.
    async fn put(&self, key: &ArtifactKey, from: &Path) -> Result<(), DistributionError>;

    /// A local, read-only file that holds the artifact and stays until [`Self::remove`].
    /// Its bytes are not verified here.
    async fn fetch(&self, key: &ArtifactKey) -> Result<PathBuf, DistributionError>;

    /// Asks the control plane for an artifact that is not here or not what it should be. Returns when a good one is
    /// kept.
    ///
    /// # Errors
    /// It cannot be had now; asking again at once will not help.
    async fn mend(&self, key: &ArtifactKey) -> Result<(), DistributionError>;

    /// What nodes want mended; for the control plane. Who takes it later takes it from who took it before.
    fn mends(&self) -> mpsc::Receiver<Mend>;

    /// Every artifact that is kept, with its age; for the garbage collector.
    async fn list(&self) -> Result<Vec<Kept>, DistributionError>;

    /// Forgets an artifact. One that is not kept is not an error.
    async fn remove(&self, key: &ArtifactKey) -> Result<(), DistributionError>;

    /// A node's word about itself; the newest counts.
    fn report(&self, report: NodeReport);

    /// A node is gone for good: nobody waits for it any longer.
    fn forget(&self, node: &str);

    /// The newest report of each node, by its name.
    fn reports(&self) -> watch::Receiver<BTreeMap<String, NodeReport>>;

    /// A line of an app's log: one JSON [`model::LogRecord`], without the line end.
    fn log(&self, owner: &Owner, line: Bytes);

    /// The newest lines of an app's log, oldest first, and those that follow.
    fn logs(&self, owner: &Owner) -> LogTail;
}

/// A generation: as a step for who has the one before, and whole for who joins.
#[derive(Clone)]
pub struct Publication {
    /// None for the first publication after a start.
    pub delta: Option<Signed<Delta>>,
    pub head: Signed<CatalogHead>,
    pub catalog: Catalog,
}

/// The way to a newer generation.
#[derive(Debug, Clone)]
pub enum Changed {
    /// Steps in order, each on the one before.
    Deltas(Vec<Signed<Delta>>),
    /// Everything; the entries are believed only if they hash to the head's root.
    Whole {
        head: Signed<CatalogHead>,
        entries: Vec<Arc<Entry>>,
    },
}

/// An artifact in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub key: ArtifactKey,
    pub bytes: u64,
    /// When it was put, in milliseconds since 1970-01-01T00:00:00Z.
    pub put_ms: u64,
}

/// A node's wish for an artifact. Dropping it says that it will not be fulfilled.
#[derive(Debug)]
pub struct Mend {
    pub key: ArtifactKey,
    /// Told when a good artifact is kept under the key, or why not.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    pub status: model::api::NodeStatus,
    /// Why the node did not take the newest generation, or cannot serve an app of it.
    pub refusals: Vec<String>,
}

/// An app's log, as far back as it is kept and on from there.
pub struct LogTail {
    pub recent: Vec<Bytes>,
    /// A receiver that lags misses lines and is told how many.
    pub live: broadcast::Receiver<Bytes>,
}

/// Why something could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum DistributionError {
    #[error("the artifact `{0}` is not kept")]
    NoArtifact(ArtifactKey),
    #[error("while {doing}: {error}")]
    Io {
        doing: String,
        error: std::io::Error,
    },
    #[error("it cannot be made anew now: {0}")]
    NotMended(String),
    #[error("nothing more will be published: the platform is stopping")]
    Closed,
}
