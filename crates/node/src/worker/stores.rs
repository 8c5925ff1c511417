//! Key-value stores as a worker has them: reads in place, changes by way of its supervisor.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use capabilities::kv::embedded::{Clock, Reader, StoresError};
use capabilities::kv::{KeyValue, check_changes};
use model::pipe::{StoreAnswer, StoreAsk};
use model::{AppId, Item, KeyPage, KvChange, KvDone, KvError, StoreId, StoreUsage, limits};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::store_pipe;

/// The stores of this worker's node. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    reader: Reader,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that may be on their way to the supervisor.
    room: Arc<Semaphore>,
    asked: Arc<Mutex<Asked>>,
}

#[derive(Default)]
struct Asked {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Vec<KvDone>, KvError>>>,
    /// How many of each app's are under way.
    of_app: HashMap<AppId, u64>,
}

impl Stores {
    /// Opens the stores in `folder` for reading, and speaks to their keeper over `socket`. Must be called within a
    /// `tokio::task::LocalSet`.
    pub fn open(folder: &Path, socket: OwnedFd) -> Result<Self, StoresError> {
        let clock: Clock = Arc::new(now_ms);
        let reader = Reader::open(folder, clock)?;
        let socket = StdStream::from(socket);
        socket.set_nonblocking(true)?;
        let (mut from, mut to) = UnixStream::from_std(socket)?.into_split();
        let (frames, waiting) = mpsc::unbounded_channel();
        let asked = Arc::new(Mutex::new(Asked::default()));
        tokio::task::spawn_local(async move {
            // An end here is the supervisor's end, which ends the worker too.
            let _ = store_pipe::send(&mut to, waiting).await;
        });
        let answered = asked.clone();
        tokio::task::spawn_local(async move {
            while let Ok(Some(StoreAnswer { id, result })) = store_pipe::receive(&mut from).await {
                if let Some(done) = lock(&answered).waiting.remove(&id) {
                    // Who went away does not want to know.
                    let _ = done.send(result);
                }
            }
            lock(&answered).waiting.clear();
        });
        Ok(Self {
            reader,
            frames,
            room: Arc::new(Semaphore::new(limits::KV_SENDING.default.as_usize())),
            asked,
        })
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        lock(&self.asked)
    }
}

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One change under way of an app's; counted for as long as it lives.
struct Pending<'a> {
    stores: &'a Stores,
    app: &'a AppId,
    id: Option<u64>,
}

impl<'a> Pending<'a> {
    fn begin(stores: &'a Stores, app: &'a AppId) -> Result<Self, KvError> {
        let mut asked = stores.asked();
        let count = asked.of_app.entry(app.clone()).or_default();
        if *count >= limits::KV_PENDING.default {
            return Err(KvError::Busy);
        }
        *count += 1;
        Ok(Self {
            stores,
            app,
            id: None,
        })
    }

    fn wait(&mut self) -> (u64, oneshot::Receiver<Result<Vec<KvDone>, KvError>>) {
        let (done, result) = oneshot::channel();
        let mut asked = self.stores.asked();
        asked.last += 1;
        let id = asked.last;
        asked.waiting.insert(id, done);
        self.id = Some(id);
        (id, result)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut asked = self.stores.asked();
        if let Some(id) = self.id {
            asked.waiting.remove(&id);
        }
        if let Some(count) = asked.of_app.get_mut(self.app) {
            *count -= 1;
            if *count == 0 {
                asked.of_app.remove(self.app);
            }
        }
    }
}

#[async_trait]
impl KeyValue for Stores {
    async fn get(&self, store: &StoreId, key: &str) -> Result<Option<Item>, KvError> {
        self.reader.get(store, key).await
    }

    async fn exists(&self, store: &StoreId, key: &str) -> Result<bool, KvError> {
        self.reader.exists(store, key).await
    }

    async fn list(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        most: u64,
    ) -> Result<KeyPage, KvError> {
        self.reader.list(store, prefix, after, most).await
    }

    async fn usage(&self, store: &StoreId) -> Result<StoreUsage, KvError> {
        self.reader.usage(store).await
    }

    async fn change(
        &self,
        store: &StoreId,
        changes: Vec<KvChange>,
    ) -> Result<Vec<KvDone>, KvError> {
        check_changes(&changes)?;
        let mut pending = Pending::begin(self, &store.app)?;
        let bytes: usize = changes.iter().map(KvChange::bytes).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Held until it is answered: so much of it may lie in the supervisor, too.
        let room = self.room.acquire_many(bytes).await;
        let _room = room.map_err(|error| KvError::Failed(error.to_string()))?;
        let (id, result) = pending.wait();
        let ask = StoreAsk {
            id,
            store: store.clone(),
            changes,
        };
        let frame = store_pipe::frame(&ask).map_err(|error| KvError::Failed(error.to_string()))?;
        drop(ask);
        let gone = || KvError::Failed("their keeper is gone".to_owned());
        self.frames.send(frame).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
