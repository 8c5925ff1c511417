//! One machine: everything meets in memory and in one folder.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use model::{ArtifactKey, Catalog, CatalogHead, Delta, Generation, Owner, Signed, limits};
use tokio::sync::{mpsc, oneshot, watch};

use crate::folder::Folder;
use crate::rings::Rings;
use crate::{
    Changed, Distribution, DistributionError, Kept, LogTail, Mend, NodeReport, Publication,
};

/// The distribution of a platform that is one process tree on one machine.
pub struct Embedded {
    folder: Arc<Folder>,
    /// Replaced whole, under the watch's own lock.
    published: watch::Sender<Published>,
    reports: watch::Sender<BTreeMap<String, NodeReport>>,
    rings: Mutex<Rings>,
    /// To who mends, if anybody does.
    mends: Mutex<Option<mpsc::Sender<Mend>>>,
}

/// What was published last, and the steps that led there.
#[derive(Default)]
struct Published {
    newest: Option<(Signed<CatalogHead>, Catalog)>,
    /// The last of them leads to the newest generation, each other one to its successor's parent.
    deltas: VecDeque<Signed<Delta>>,
}

impl Embedded {
    /// Artifacts are kept in `folder`, which is made if it is missing. One process writes to a folder at a time.
    pub fn new(folder: PathBuf) -> Result<Self, DistributionError> {
        Ok(Self {
            folder: Arc::new(Folder::open(folder)?),
            published: watch::Sender::default(),
            reports: watch::Sender::default(),
            rings: Mutex::default(),
            mends: Mutex::default(),
        })
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Folder) -> Result<T, DistributionError> + Send + 'static,
    ) -> Result<T, DistributionError> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || act(&folder))
            .await
            .map_err(|_| DistributionError::Closed)?
    }

    fn mender(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Mend>>> {
        self.mends
            .lock()
            .expect("nothing panics while the way to who mends is locked")
    }

    fn rings(&self) -> std::sync::MutexGuard<'_, Rings> {
        self.rings
            .lock()
            .expect("nothing panics while the rings are locked")
    }
}

#[async_trait]
impl Distribution for Embedded {
    async fn publish(&self, publication: Publication) -> Result<(), DistributionError> {
        self.published
            .send_if_modified(|published| published.take(publication));
        Ok(())
    }

    async fn changed(&self, known: Generation) -> Result<Changed, DistributionError> {
        let mut published = self.published.subscribe();
        let published = published
            .wait_for(|published| published.generation() > known)
            .await
            .map_err(|_| DistributionError::Closed)?;
        Ok(published.since(known))
    }

    async fn put(&self, key: &ArtifactKey, from: &Path) -> Result<(), DistributionError> {
        let (key, from) = (key.clone(), from.to_owned());
        self.on_disk(move |folder| folder.put(&key, &from)).await
    }

    async fn fetch(&self, key: &ArtifactKey) -> Result<PathBuf, DistributionError> {
        let key = key.clone();
        self.on_disk(move |folder| folder.find(&key)).await
    }

    async fn mend(&self, key: &ArtifactKey) -> Result<(), DistributionError> {
        let refused = |why: &str| DistributionError::NotMended(why.to_owned());
        let mender = self.mender().clone();
        let mender = mender.ok_or_else(|| refused("nobody does it"))?;
        let (done, mended) = oneshot::channel();
        let mend = Mend {
            key: key.clone(),
            done,
        };
        mender
            .try_send(mend)
            .map_err(|_| refused("too many are waiting"))?;
        match mended.await {
            Ok(mended) => mended.map_err(DistributionError::NotMended),
            Err(_) => Err(refused("the platform is stopping")),
        }
    }

    fn mends(&self) -> mpsc::Receiver<Mend> {
        let (mender, mends) = mpsc::channel(limits::MENDS.default as usize);
        *self.mender() = Some(mender);
        mends
    }

    async fn list(&self) -> Result<Vec<Kept>, DistributionError> {
        self.on_disk(Folder::list).await
    }

    async fn remove(&self, key: &ArtifactKey) -> Result<(), DistributionError> {
        let key = key.clone();
        self.on_disk(move |folder| folder.remove(&key)).await
    }

    fn report(&self, report: NodeReport) {
        self.reports.send_modify(|reports| {
            reports.insert(report.status.name.clone(), report);
        });
    }

    fn forget(&self, node: &str) {
        self.reports
            .send_if_modified(|reports| reports.remove(node).is_some());
    }

    fn reports(&self) -> watch::Receiver<BTreeMap<String, NodeReport>> {
        self.reports.subscribe()
    }

    fn log(&self, owner: &Owner, line: Bytes) {
        self.rings().push(owner, &line);
    }

    fn logs(&self, owner: &Owner) -> LogTail {
        self.rings().follow(owner)
    }
}

impl Published {
    fn generation(&self) -> Generation {
        self.newest
            .as_ref()
            .map_or(0, |(_, catalog)| catalog.generation())
    }

    /// Whether `publication` was news.
    fn take(&mut self, publication: Publication) -> bool {
        let Publication {
            delta,
            head,
            catalog,
        } = publication;
        let (held, offered) = (self.generation(), catalog.generation());
        if offered <= held {
            return false;
        }
        match delta {
            Some(delta) if self.newest.is_some() && offered == held + 1 => {
                self.deltas.push_back(delta);
                if self.deltas.len() > DELTAS_KEPT {
                    self.deltas.pop_front();
                }
            }
            // Steps were missed, or never made: there is no way but the whole.
            _ => self.deltas.clear(),
        }
        self.newest = Some((head, catalog));
        true
    }

    /// The way from `known`, which is older than the newest generation.
    fn since(&self, known: Generation) -> Changed {
        let steps = usize::try_from(self.generation() - known).unwrap_or(usize::MAX);
        if known > 0 && steps <= self.deltas.len() {
            let first = self.deltas.len() - steps;
            return Changed::Deltas(self.deltas.range(first..).cloned().collect());
        }
        let (head, catalog) = self
            .newest
            .as_ref()
            .expect("a generation above another one was published");
        Changed::Whole {
            head: head.clone(),
            entries: catalog.entries().cloned().collect(),
        }
    }
}

const DELTAS_KEPT: usize = limits::DELTAS_KEPT.default as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> (Embedded, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::new(folder.path().join("artifacts")).unwrap();
        (embedded, folder)
    }

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_distribution() {
        let (embedded, _folder) = embedded();
        crate::contract::holds(embedded).await;
    }

    #[tokio::test]
    async fn artifacts_outlive_it_and_half_written_ones_do_not() {
        let (embedded, folder) = embedded();
        let key = ArtifactKey::Wasm(model::Digest::of(b"abc"));
        let upload = folder.path().join("upload");
        std::fs::write(&upload, b"abc").unwrap();
        embedded.put(&key, &upload).await.unwrap();
        drop(embedded);

        let artifacts = folder.path().join("artifacts");
        std::fs::write(artifacts.join(".put-7"), b"ab").unwrap();
        let embedded = Embedded::new(artifacts.clone()).unwrap();
        let path = embedded.fetch(&key).await.unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"abc");
        assert_eq!(std::fs::read_dir(artifacts).unwrap().count(), 1);
    }
}
