//! The agent: follows the catalog. Each generation that is found good goes to the workers and to the disk at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distribution::{Changed, Distribution, DistributionError};
use model::{Catalog, Generation, PublicKey};
use tokio::sync::watch;

use super::Notice;
use super::last_good::{Damage, Found, LastGood};
use super::plan::{self, Refusal, Taken};
use super::report::Standing;

/// How long a start waits for what the distribution has already.
const CATCH_UP: Duration = Duration::from_millis(50);
/// How long the whole catalog may take to come after a step was refused.
const WHOLE_WAIT: Duration = Duration::from_secs(10);
/// The pauses between attempts, which double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often what could not be put on disk is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(2);

/// Follows the catalog for one node.
pub struct Agent {
    distribution: Arc<dyn Distribution>,
    key: PublicKey,
    /// Locked on blocking threads only.
    last_good: Arc<Mutex<LastGood>>,
    /// Where that lies.
    path: PathBuf,
    catalogs: watch::Sender<Arc<Catalog>>,
    /// The newest generation, if it is not on disk.
    unkept: Option<Taken>,
    standing: watch::Sender<Standing>,
    notice: Notice,
}

/// Why there is no newer generation.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error(transparent)]
    Refused(Refusal),
    #[error("{step}; nor could the whole catalog be taken: {whole}")]
    NeitherWay { step: Refusal, whole: String },
    #[error("the next generation cannot be had: {0}")]
    Distribution(#[from] DistributionError),
}

impl Agent {
    /// The agent of a node that begins with what is on disk.
    pub fn new(
        distribution: Arc<dyn Distribution>,
        key: PublicKey,
        found: Found,
        standing: watch::Sender<Standing>,
        notice: Notice,
    ) -> Self {
        let path = found.last_good.path();
        if let Some(damage) = &found.damage {
            notice(&damaged(&path, damage));
        }
        standing.send_modify(|standing| standing.kept = found.catalog.generation());
        Self {
            distribution,
            key,
            last_good: Arc::new(Mutex::new(found.last_good)),
            path,
            catalogs: watch::Sender::new(Arc::new(found.catalog)),
            unkept: None,
            standing,
            notice,
        }
    }

    /// The newest good catalog, at any time.
    pub fn catalogs(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalogs.subscribe()
    }

    /// Takes what the distribution has now, if it answers at once.
    pub async fn catch_up(&mut self) {
        let Ok(Ok(changed)) = tokio::time::timeout(CATCH_UP, self.distribution.changed(0)).await
        else {
            return;
        };
        match self.same(&changed) {
            // One copy of every entry in memory instead of two.
            Some(catalog) => drop(self.catalogs.send_replace(Arc::new(catalog))),
            None => self.take_or_refuse(changed).await,
        }
    }

    /// Follows the catalog until nothing more will be published.
    pub async fn follow(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.step().await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(NotTaken::Distribution(DistributionError::Closed)) => return,
                Err(not_taken) => {
                    self.refuse(&not_taken);
                    tokio::time::sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// What is held already, if that is what came.
    fn same(&self, changed: &Changed) -> Option<Catalog> {
        let Changed::Whole { head, entries } = changed else {
            return None;
        };
        let head = head.verify(&self.key).ok()?;
        let held = self.held().head() == head;
        held.then(|| Catalog::from_entries(&head, entries.iter().cloned()).ok())?
    }

    async fn take_or_refuse(&mut self, changed: Changed) {
        if let Err(not_taken) = self.take(changed).await {
            self.refuse(&not_taken);
        }
    }

    async fn step(&mut self) -> Result<(), NotTaken> {
        let generation = self.held().generation();
        let changed = loop {
            tokio::select! {
                changed = self.distribution.changed(generation) => break changed?,
                () = tokio::time::sleep(KEEP_AGAIN), if self.unkept.is_some() => self.keep_again().await,
            }
        };
        self.take(changed).await
    }

    /// Takes a generation the way it came, or else whole.
    async fn take(&mut self, changed: Changed) -> Result<(), NotTaken> {
        let by_steps = matches!(changed, Changed::Deltas(_));
        let taken = match self.check(changed).await {
            Err(step) if by_steps => self.whole(step).await?,
            checked => checked.map_err(NotTaken::Refused)?,
        };
        self.serve(taken).await;
        Ok(())
    }

    /// The newest generation whole, since a step towards it was refused.
    async fn whole(&self, step: Refusal) -> Result<Taken, NotTaken> {
        let whole = tokio::time::timeout(WHOLE_WAIT, self.distribution.changed(0)).await;
        let whole = match whole {
            Ok(Ok(whole)) => self
                .check(whole)
                .await
                .map_err(|refusal| refusal.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not come within {WHOLE_WAIT:?}")),
        };
        whole.map_err(|whole| NotTaken::NeitherWay { step, whole })
    }

    async fn check(&self, changed: Changed) -> Result<Taken, Refusal> {
        let (held, key) = (self.held(), self.key.clone());
        let check = move || plan::take(&held, changed, &key);
        // Hashing a large catalog would hold up everyone on this thread.
        tokio::task::spawn_blocking(check)
            .await
            .expect("a check neither panics nor is cancelled")
    }

    /// Hands a good generation to the workers, and keeps it. Workers do not wait for the disk; the report does.
    async fn serve(&mut self, taken: Taken) {
        let catalog = Arc::new(taken.catalog.clone());
        self.catalogs.send_replace(catalog.clone());
        self.standing
            .send_modify(|standing| standing.refused = None);
        self.keep(taken).await;
        self.compact(catalog).await;
    }

    async fn keep_again(&mut self) {
        if let Some(unkept) = self.unkept.take() {
            self.keep(unkept).await;
        }
    }

    async fn keep(&mut self, taken: Taken) {
        let generation = taken.catalog.generation();
        let keeping = taken.clone();
        let kept = self
            .on_disk(move |last_good| last_good.keep(&keeping.catalog, &keeping.proof))
            .await;
        self.unkept = kept.is_err().then_some(taken);
        self.tell_kept(generation, kept);
    }

    async fn compact(&self, catalog: Arc<Catalog>) {
        let compacted = self.on_disk(move |last_good| last_good.compact(&catalog));
        if let Err(error) = compacted.await {
            let path = &self.path;
            (self.notice)(&format!(
                "while writing `{}` anew: {error}; it goes on growing",
                path.display()
            ));
        }
    }

    async fn on_disk(
        &self,
        act: impl FnOnce(&mut LastGood) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let last_good = self.last_good.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut last_good = last_good.lock().expect("writing does not panic");
            act(&mut last_good)
        });
        done.await
            .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
    }

    fn tell_kept(&self, generation: Generation, kept: io::Result<()>) {
        let not_kept = kept.err().map(|error| {
            let path = &self.path;
            format!(
                "generation {generation} is served but not kept: while writing `{}`: {error}; until it can be, a restart begins with an older one",
                path.display()
            )
        });
        let told = self.standing.borrow().not_kept.clone();
        match &not_kept {
            Some(text) if not_kept != told => (self.notice)(text),
            None if told.is_some() => (self.notice)(&format!("generation {generation} is kept")),
            _ => {}
        }
        self.standing.send_modify(|standing| {
            standing.kept = generation;
            standing.not_kept = not_kept;
        });
    }

    fn refuse(&self, not_taken: &NotTaken) {
        let text = not_taken.to_string();
        let news = self.standing.send_if_modified(|standing| {
            let news = standing.refused.as_ref() != Some(&text);
            standing.refused = Some(text.clone());
            news
        });
        if news {
            (self.notice)(&text);
        }
    }

    fn held(&self) -> Arc<Catalog> {
        self.catalogs.borrow().clone()
    }
}

fn damaged(path: &Path, damage: &Damage) -> String {
    format!(
        "the catalog kept in `{}` is damaged: {damage}; it was set aside as `last-good.damaged`, and the catalog is fetched anew",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use distribution::Publication;
    use distribution::embedded::Embedded;
    use model::{Delta, SecretKey, Signed};

    use super::*;
    use crate::supervisor::example;

    struct Node {
        distribution: Arc<Embedded>,
        catalogs: watch::Receiver<Arc<Catalog>>,
        standing: watch::Receiver<Standing>,
        following: tokio::task::JoinHandle<()>,
    }

    impl Node {
        async fn start(folder: &Path, published: Option<&Catalog>) -> Self {
            let distribution = Arc::new(Embedded::new(folder.join("artifacts")).unwrap());
            if let Some(catalog) = published {
                publish(&distribution, catalog, None).await;
            }
            let key = example::key(7).public();
            let found = LastGood::open(folder.join("catalog"), &key).unwrap();
            let standing = watch::Sender::new(Standing::new(0));
            let seen = standing.subscribe();
            let notice: Notice = Arc::new(|_| {});
            let mut agent = Agent::new(distribution.clone(), key, found, standing, notice);
            agent.catch_up().await;
            Self {
                distribution,
                catalogs: agent.catalogs(),
                standing: seen,
                following: tokio::spawn(agent.follow()),
            }
        }

        async fn reaches(&mut self, catalog: &Catalog) {
            let generation = catalog.generation();
            let kept = self
                .standing
                .wait_for(|standing| standing.kept == generation);
            tokio::time::timeout(Duration::from_secs(10), kept)
                .await
                .expect("it is taken in time")
                .unwrap();
            assert_eq!(self.catalogs.borrow().head(), catalog.head());
        }

        async fn refuses(&mut self, part: &str) {
            let text = |standing: &Standing| standing.refused.clone().unwrap_or_default();
            let refused = self
                .standing
                .wait_for(|standing| text(standing).contains(part));
            tokio::time::timeout(Duration::from_secs(10), refused)
                .await
                .expect("it is refused in time")
                .unwrap();
        }
    }

    async fn publish(distribution: &Embedded, catalog: &Catalog, delta: Option<Signed<Delta>>) {
        let publication = Publication {
            delta,
            head: Signed::sign(&catalog.head(), &example::key(7)),
            catalog: catalog.clone(),
        };
        distribution.publish(publication).await.unwrap();
    }

    fn step(from: &Catalog, to: &Catalog, key: &SecretKey) -> Option<Signed<Delta>> {
        Some(Signed::sign(&example::delta(from, to), key))
    }

    #[tokio::test]
    async fn a_node_follows_from_what_it_has_through_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (all, key) = (example::catalogs(5), example::key(7));
        let mut node = Node::start(folder.path(), Some(&all[1])).await;
        node.reaches(&all[1]).await;
        publish(&node.distribution, &all[2], step(&all[1], &all[2], &key)).await;
        node.reaches(&all[2]).await;
        node.following.abort();

        // Nothing is published: what is on disk is served.
        let mut node = Node::start(folder.path(), None).await;
        node.reaches(&all[2]).await;
        publish(&node.distribution, &all[3], None).await;
        node.reaches(&all[3]).await;
        node.following.abort();

        // What was published meanwhile is served from the start.
        let mut node = Node::start(folder.path(), Some(&all[4])).await;
        assert_eq!(node.catalogs.borrow().head(), all[4].head());
        node.reaches(&all[4]).await;
        node.following.abort();
    }

    #[tokio::test]
    async fn a_bad_step_is_refused_and_the_whole_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (all, stranger) = (example::catalogs(4), example::key(8));
        let mut node = Node::start(folder.path(), Some(&all[1])).await;
        publish(
            &node.distribution,
            &all[2],
            step(&all[1], &all[2], &stranger),
        )
        .await;
        node.reaches(&all[2]).await;
        assert_eq!(node.standing.borrow().refused, None);
        node.following.abort();
    }

    #[tokio::test]
    async fn a_bad_generation_is_refused_and_the_last_good_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (all, key) = (example::catalogs(4), example::key(7));
        let mut node = Node::start(folder.path(), Some(&all[1])).await;
        let forged = Publication {
            delta: step(&all[1], &all[2], &example::key(8)),
            head: Signed::sign(&all[2].head(), &example::key(8)),
            catalog: all[2].clone(),
        };
        node.distribution.publish(forged).await.unwrap();
        node.refuses("nor could the whole catalog be taken").await;
        assert_eq!(node.catalogs.borrow().head(), all[1].head());

        publish(&node.distribution, &all[3], step(&all[2], &all[3], &key)).await;
        node.reaches(&all[3]).await;
        assert_eq!(node.standing.borrow().refused, None);
        node.following.abort();
    }

    #[tokio::test]
    async fn an_older_catalog_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let all = example::catalogs(4);
        let mut node = Node::start(folder.path(), Some(&all[3])).await;
        node.reaches(&all[3]).await;
        node.following.abort();
        let mut node = Node::start(folder.path(), Some(&all[2])).await;
        node.refuses("generation 2 is not newer than generation 3")
            .await;
        assert_eq!(node.catalogs.borrow().head(), all[3].head());
        node.following.abort();
    }

    #[tokio::test]
    async fn a_disk_that_keeps_nothing_stops_no_deployment() {
        let folder = tempfile::tempdir().unwrap();
        let (all, key) = (example::catalogs(4), example::key(7));
        let mut node = Node::start(folder.path(), Some(&all[1])).await;
        node.reaches(&all[1]).await;
        // A folder in the file's place: even a privileged process cannot write to it.
        let path = folder.path().join("catalog");
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        publish(&node.distribution, &all[3], None).await;
        node.reaches(&all[3]).await;
        let not_kept = node.standing.borrow().not_kept.clone().unwrap();
        assert!(
            not_kept.starts_with("generation 3 is served but not kept"),
            "{not_kept}"
        );

        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let (next, delta) = all[3].change(Vec::new());
        publish(&node.distribution, &next, Some(Signed::sign(&delta, &key))).await;
        node.reaches(&next).await;
        assert_eq!(node.standing.borrow().not_kept, None);
        node.following.abort();
    }
}
