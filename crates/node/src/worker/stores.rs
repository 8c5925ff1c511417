//! Key-value stores as a worker has them: reads in place, changes by way of its supervisor.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use capabilities::kv::embedded::{Changes, Lent, Reader, StoresError};
use model::pipe::{StoreAnswer, StoreAsk};
use model::{KvChange, KvDone, KvError, Owner, StoreId, limits};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::store_pipe;

/// The stores of this worker's node. Cheap to clone.
pub type Stores = Lent<Way>;

/// The way to their keeper.
#[derive(Clone)]
pub struct Way {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that may be on their way to the supervisor.
    room: Arc<Semaphore>,
    asked: Arc<Mutex<Asked>>,
}

#[derive(Default)]
struct Asked {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Vec<KvDone>, KvError>>>,
    /// How many of each owner's are under way.
    of_owner: HashMap<Owner, u64>,
}

/// Opens the stores in `folder` for reading, and speaks to their keeper over `socket`. Must be called within a
/// `tokio::task::LocalSet`.
pub fn open(folder: &Path, socket: OwnedFd) -> Result<Stores, StoresError> {
    let reader = Reader::open(folder, Arc::new(now_ms))?;
    Ok(Lent::new(reader, Way::over(socket)?))
}

impl Way {
    fn over(socket: OwnedFd) -> io::Result<Self> {
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

/// One change under way of an owner's; counted for as long as it lives.
struct Pending<'a> {
    way: &'a Way,
    owner: &'a Owner,
    id: Option<u64>,
}

impl<'a> Pending<'a> {
    fn begin(way: &'a Way, owner: &'a Owner) -> Result<Self, KvError> {
        let mut asked = way.asked();
        let count = asked.of_owner.entry(owner.clone()).or_default();
        if *count >= limits::KV_PENDING.default {
            return Err(KvError::Busy);
        }
        *count += 1;
        Ok(Self {
            way,
            owner,
            id: None,
        })
    }

    fn wait(&mut self) -> (u64, oneshot::Receiver<Result<Vec<KvDone>, KvError>>) {
        let (done, result) = oneshot::channel();
        let mut asked = self.way.asked();
        asked.last += 1;
        let id = asked.last;
        asked.waiting.insert(id, done);
        self.id = Some(id);
        (id, result)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut asked = self.way.asked();
        if let Some(id) = self.id {
            asked.waiting.remove(&id);
        }
        if let Some(count) = asked.of_owner.get_mut(self.owner) {
            *count -= 1;
            if *count == 0 {
                asked.of_owner.remove(self.owner);
            }
        }
    }
}

#[async_trait]
impl Changes for Way {
    async fn make(&self, store: &StoreId, changes: Vec<KvChange>) -> Result<Vec<KvDone>, KvError> {
        let mut pending = Pending::begin(self, &store.owner)?;
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
