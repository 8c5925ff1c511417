//! The writer: one thread that commits whatever waits together, and clears away what is over.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use heed::types::Bytes as Raw;
use heed::{CommitOrAbort, CompactionOption, Env, EnvFlags, MdbError, RwTxn};
use model::{
    KvChange, KvDone, KvError, Owner, Size, StoreId, StoreName, StoreUsage, TenantName, limits,
};
use tokio::sync::{oneshot, watch};

use super::apply::{Applier, Refused};
use super::{Changes, Clock, Lent, Reader, Table, open, record};
use crate::kv::Keeper;

/// How often values whose time is over are cleared away.
const SWEEP: Duration = Duration::from_secs(1);

/// Why stores could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    #[error(transparent)]
    Engine(#[from] heed::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("this process has them open already")]
    InUse,
    #[error("there are no stores there yet")]
    Empty,
    #[error("they were written by another release, in format {}; this one knows {}", .0, record::FORMAT_NUMBER)]
    Format(u32),
    #[error("{0}")]
    Damaged(KvError),
}

/// The stores of a node, for the process that keeps them. Cheap to clone; their writer ends with the last clone, after
/// everything that was handed to it.
pub type Stores = Lent<Jobs>;

/// What each store of a tenant may hold. Asked for every change, so that a new answer counts from the next one on.
pub type LimitOf = Arc<dyn Fn(&TenantName) -> Size + Send + Sync>;

/// The way to the writer.
#[derive(Clone)]
pub struct Jobs {
    jobs: SyncSender<Job>,
    /// Why nothing is written any longer, if so.
    failure: watch::Receiver<Option<String>>,
}

enum Job {
    Change {
        store: StoreId,
        changes: Vec<KvChange>,
        done: oneshot::Sender<Result<Vec<KvDone>, KvError>>,
    },
    Forget {
        owner: Owner,
        done: Forgotten,
    },
}

impl Lent<Jobs> {
    /// Opens the stores in `folder`, or makes them; each may hold `limit`.
    pub fn open(folder: &Path, limit: Size, clock: Clock) -> Result<Self, StoresError> {
        Self::open_limited(folder, Arc::new(move |_| limit), clock)
    }

    /// As [`Self::open`], where tenants may have limits of their own.
    pub fn open_limited(folder: &Path, limit: LimitOf, clock: Clock) -> Result<Self, StoresError> {
        std::fs::create_dir_all(folder)?;
        let env = open(folder, EnvFlags::empty())?;
        env.clear_stale_readers()?;
        let table = prepare(&env)?;
        sync_names(folder)?;
        let (fail, failure) = watch::channel(None);
        let (jobs, waiting) = sync_channel(limits::KV_QUEUE.default as usize);
        let writer = Writer {
            env: env.clone(),
            table,
            limit,
            clock: clock.clone(),
            fail,
            forgetting: Vec::new(),
        };
        std::thread::Builder::new()
            .name("stores".to_owned())
            .spawn(move || writer.run(&waiting))?;
        let reader = Reader { env, table, clock };
        Ok(Self::new(reader, Jobs { jobs, failure }))
    }

    /// Lets go of what processes that are gone were reading; else what they read would be kept for them for ever.
    pub fn clear_stale_readers(&self) -> Result<usize, StoresError> {
        Ok(self.reader.env.clear_stale_readers()?)
    }

    /// Whether the disk has failed, so that nothing is written any longer.
    pub fn have_failed(&self) -> bool {
        self.changes.failure.borrow().is_some()
    }

    /// Waits until [`Self::have_failed`], and says why. Does not return if the stores are closed before, and does not keep
    /// them open.
    pub fn failed(&self) -> impl Future<Output = String> + use<> {
        let mut failure = self.changes.failure.clone();
        async move {
            let failed = failure.wait_for(Option::is_some).await;
            let why = failed.ok().and_then(|why| why.clone());
            match why {
                Some(why) => why,
                None => std::future::pending().await,
            }
        }
    }
}

impl Jobs {
    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, KvError>>) -> Job,
    ) -> Result<T, KvError> {
        let (done, result) = oneshot::channel();
        match self.jobs.try_send(job(done)) {
            Ok(()) => result.await.unwrap_or_else(|_| Err(self.ended())),
            Err(TrySendError::Full(_)) => Err(KvError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(self.ended()),
        }
    }

    fn ended(&self) -> KvError {
        let why = self.failure.borrow().clone();
        KvError::Failed(why.unwrap_or_else(|| "their writer has ended".to_owned()))
    }
}

#[async_trait]
impl Changes for Jobs {
    async fn make(&self, store: &StoreId, changes: Vec<KvChange>) -> Result<Vec<KvDone>, KvError> {
        let store = store.clone();
        self.ask(|done| Job::Change {
            store,
            changes,
            done,
        })
        .await
    }
}

#[async_trait]
impl Keeper for Stores {
    async fn stores_of(&self, owner: &Owner) -> Result<Vec<(StoreName, StoreUsage)>, KvError> {
        let stores = self
            .reader
            .stores(&record::owner_key(record::USAGE, owner))?;
        let named = |(id, usage): (StoreId, _)| (id.store, usage);
        Ok(stores.into_iter().map(named).collect())
    }

    async fn owners(&self) -> Result<Vec<Owner>, KvError> {
        let stores = self.reader.stores(&[record::USAGE])?;
        let mut owners: Vec<_> = stores.into_iter().map(|(id, _)| id.owner).collect();
        // Those of one lie together.
        owners.dedup();
        Ok(owners)
    }

    fn copy_to(&self, file: &mut File) -> Result<(), KvError> {
        let copied = self
            .reader
            .env
            .copy_to_file(file, CompactionOption::Enabled);
        copied.map_err(super::failed)
    }

    async fn forget(&self, owner: &Owner) -> Result<(), KvError> {
        let owner = owner.clone();
        self.changes.ask(|done| Job::Forget { owner, done }).await
    }
}

/// Writes what a new environment begins with, and makes sure that another's can be read.
fn prepare(env: &Env) -> Result<Table, StoresError> {
    let made = env.create_databases_and_commit(env.write_txn()?, |opener, txn| {
        let table = opener.create_database::<Raw, Raw>(txn, None)?;
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(table))
    })?;
    let table = made.unwrap_commit();
    let mut txn = env.write_txn()?;
    match table.get(&txn, record::FORMAT)? {
        None => table.put(
            &mut txn,
            record::FORMAT,
            &record::FORMAT_NUMBER.to_le_bytes(),
        )?,
        Some(bytes) => {
            let found = bytes.try_into().map_or(u32::MAX, u32::from_le_bytes);
            if found != record::FORMAT_NUMBER {
                return Err(StoresError::Format(found));
            }
        }
    }
    txn.commit()?;
    Ok(table)
}

/// Makes sure that the files' names survive a loss of power as their content does: the engine flushes that alone.
fn sync_names(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

struct Writer {
    env: Env,
    table: Table,
    limit: LimitOf,
    clock: Clock,
    /// Where it is told why nothing is written any longer.
    fail: watch::Sender<Option<String>>,
    /// Who waits for an owner to be forgotten, by how its keys begin.
    forgetting: Vec<(Vec<u8>, Forgotten)>,
}

/// Where it is told that an owner is forgotten.
type Forgotten = oneshot::Sender<Result<(), KvError>>;

/// What is made of a job once its transaction is committed.
type Outcomes = Vec<Result<Vec<KvDone>, KvError>>;

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut busy = true;
        loop {
            let wait = if busy { Duration::ZERO } else { SWEEP };
            let mut waiting = Vec::new();
            match jobs.recv_timeout(wait) {
                Ok(job) => waiting = gather(job, jobs),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match self.commit(waiting) {
                Ok(more) => busy = more,
                Err(error) => {
                    // Whoever waits, and whoever asks from now on, is told.
                    self.fail.send_replace(Some(error.to_string()));
                    return;
                }
            }
        }
    }

    /// Commits what waits, and some of what is to be cleared away; whether more of that is left.
    fn commit(&mut self, jobs: Vec<Job>) -> Result<bool, heed::Error> {
        let mut asked = Vec::new();
        let mut changes = Vec::new();
        let mut doomed = Vec::new();
        for job in jobs {
            match job {
                Job::Change {
                    store,
                    changes: wanted,
                    done,
                } => {
                    changes.push((store, wanted));
                    asked.push(done);
                }
                Job::Forget { owner, done } => doomed.push((owner, done)),
            }
        }
        let outcomes = self.change(&changes)?;
        for (done, outcome) in asked.into_iter().zip(outcomes) {
            // Who went away does not want to know.
            let _ = done.send(outcome);
        }
        self.clear(doomed)
    }

    /// All in one transaction; where the engine refuses that, each in its own, so that no one spoils it for others.
    fn change(&self, changes: &[(StoreId, Vec<KvChange>)]) -> Result<Outcomes, heed::Error> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        match self.together(changes) {
            Ok(outcomes) => Ok(outcomes),
            Err(error) if changes.len() > 1 && is_full(&error) => {
                let each = changes.iter().map(std::slice::from_ref);
                let outcomes = each.map(|one| match self.together(one) {
                    Ok(mut outcomes) => Ok(outcomes.remove(0)),
                    Err(error) if is_full(&error) => Ok(Err(full(&error))),
                    Err(error) => Err(error),
                });
                outcomes.collect()
            }
            Err(error) if is_full(&error) => Ok(vec![Err(full(&error))]),
            Err(error) => Err(error),
        }
    }

    fn together(&self, changes: &[(StoreId, Vec<KvChange>)]) -> Result<Outcomes, heed::Error> {
        let mut txn = self.env.write_txn()?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for (store, changes) in changes {
            let applier = self.applier((self.limit)(&store.owner.app.tenant));
            let applied = match changes.as_slice() {
                [_] => applier.apply(&mut txn, store, changes),
                several => {
                    let mut own = self.env.nested_write_txn(&mut txn)?;
                    let applied = applier.apply(&mut own, store, several);
                    match applied {
                        Ok(_) => own.commit()?,
                        Err(_) => own.abort(),
                    }
                    applied
                }
            };
            outcomes.push(match applied {
                Ok(done) => Ok(done),
                Err(Refused::Store(refusal)) => Err(refusal),
                Err(Refused::Engine(error)) => return Err(error),
            });
        }
        txn.commit()?;
        Ok(outcomes)
    }

    /// Clears away values that are over and stores of apps that are gone, some at a time.
    fn clear(&mut self, doomed: Vec<(Owner, Forgotten)>) -> Result<bool, heed::Error> {
        // No store grows by this.
        let applier = self.applier(Size(0));
        let most = limits::KV_EXPIRED.default;
        let cleared = self.in_one(|txn| {
            for (owner, _) in &doomed {
                applier.doom(txn, owner)?;
            }
            let expired = applier.expire(txn, most)?;
            let forgotten = match applier.doomed(txn)? {
                Some(owner) => applier.forget(txn, &owner, most)?.then_some(owner),
                None => None,
            };
            let more = expired == most || applier.doomed(txn)?.is_some();
            Ok((forgotten, more))
        });
        let waiting = doomed
            .into_iter()
            .map(|(owner, done)| (record::owner_key(record::FORGET, &owner), done));
        self.forgetting.extend(waiting);
        match cleared {
            Ok((forgotten, more)) => {
                if let Some(owner) = forgotten {
                    self.tell_forgotten(&owner);
                }
                Ok(more)
            }
            Err(Refused::Engine(error)) if is_full(&error) => {
                self.tell_all(&full(&error));
                Ok(false)
            }
            Err(Refused::Engine(error)) => Err(error),
            // Damage is told to who waits; what is damaged stays where it is.
            Err(Refused::Store(refusal)) => {
                self.tell_all(&refusal);
                Ok(false)
            }
        }
    }

    /// Commits only where something was changed: looking costs nothing.
    fn in_one<T>(
        &self,
        work: impl FnOnce(&mut RwTxn<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut txn = self.env.write_txn()?;
        let result = work(&mut txn)?;
        txn.commit()?;
        Ok(result)
    }

    fn tell_forgotten(&mut self, owner: &[u8]) {
        let forgetting = std::mem::take(&mut self.forgetting);
        for (doomed, done) in forgetting {
            if doomed == owner {
                let _ = done.send(Ok(()));
            } else {
                self.forgetting.push((doomed, done));
            }
        }
    }

    fn tell_all(&mut self, error: &KvError) {
        for (_, done) in self.forgetting.drain(..) {
            let _ = done.send(Err(error.clone()));
        }
    }

    fn applier(&self, limit: Size) -> Applier {
        Applier {
            table: self.table,
            limit,
            now_ms: (self.clock)(),
        }
    }
}

/// A job and those that wait behind it, as many as are committed together.
fn gather(first: Job, jobs: &Receiver<Job>) -> Vec<Job> {
    let bytes = |job: &Job| match job {
        Job::Change { changes, .. } => changes.iter().map(KvChange::bytes).sum(),
        Job::Forget { .. } => 0,
    };
    let mut sum = bytes(&first);
    let mut gathered = vec![first];
    while sum < limits::KV_COMMIT.default.as_usize()
        && let Ok(job) = jobs.try_recv()
    {
        sum += bytes(&job);
        gathered.push(job);
    }
    gathered
}

/// Whether there is no room, which passes; every other failure of a write leaves open what is on the disk.
fn is_full(error: &heed::Error) -> bool {
    match error {
        heed::Error::Mdb(MdbError::MapFull) => true,
        heed::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ),
        _ => false,
    }
}

fn full(error: &heed::Error) -> KvError {
    KvError::NodeFull(error.to_string())
}
