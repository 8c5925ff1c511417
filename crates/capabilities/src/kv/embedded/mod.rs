//! Stores of one machine: an LMDB environment that every worker reads in place, and one writer that commits whatever
//! waits together.

mod apply;
mod record;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use heed::types::Bytes as Raw;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn};
use model::{Item, KeyPage, KvChange, KvDone, KvError, Size, StoreId, StoreUsage, limits};

use super::{KeyValue, check_changes, check_key};
use record::Record;
pub use writer::{Jobs, LimitOf, Stores, StoresError};

/// The time, in milliseconds since 1970-01-01T00:00:00Z.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Keys and values as bytes; what they mean is [`record`]'s.
type Table = Database<'static, Raw, Raw>;

/// Reads the stores of a node. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    env: Env,
    table: Table,
    clock: Clock,
}

/// What comes of a read here and now.
enum Read {
    Item(Option<Item>),
    Larger,
}

impl Reader {
    /// Opens what [`Stores::open`] of another process keeps in `folder`, for reading alone. Its lock file is written to:
    /// that is how the writer knows what is still being read.
    pub fn open(folder: &Path, clock: Clock) -> Result<Self, StoresError> {
        let env = open(folder, EnvFlags::READ_ONLY)?;
        let opened = env.open_databases_and_commit(env.read_txn()?, |opener, txn| {
            let table = opener.open_database::<Raw, Raw>(txn, None)?;
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(table))
        })?;
        let table = opened.unwrap_commit().ok_or(StoresError::Empty)?;
        Ok(Self { env, table, clock })
    }

    /// What the key holds, unless that has more bytes than may be read here and now.
    fn read(&self, store: &StoreId, key: &str, most: Size) -> Result<Read, KvError> {
        check_key(key)?;
        let key = record::store_key(record::DATA, store, key);
        let txn = self.env.read_txn().map_err(failed)?;
        let Some(bytes) = self.table.get(&txn, &key).map_err(failed)? else {
            return Ok(Read::Item(None));
        };
        if bytes.len() as u64 > most.bytes() {
            return Ok(Read::Larger);
        }
        let record = Record::read(&key, bytes).ok_or_else(damaged)?;
        if record.is_over((self.clock)()) {
            return Ok(Read::Item(None));
        }
        Ok(Read::Item(Some(Item {
            value: Bytes::copy_from_slice(record.value),
            revision: record.revision,
            expires_ms: (record.expires_ms != 0).then_some(record.expires_ms),
        })))
    }

    fn keys(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        most: u64,
    ) -> Result<KeyPage, KvError> {
        let begin = record::store_key(record::DATA, store, "");
        let prefix = record::store_key(record::DATA, store, prefix);
        let after = after.map(|after| record::store_key(record::DATA, store, after));
        let from = match &after {
            Some(after) if *after >= prefix => Bound::Excluded(after.as_slice()),
            _ => Bound::Included(prefix.as_slice()),
        };
        let now = (self.clock)();
        let txn = self.env.read_txn().map_err(failed)?;
        let range = (from, Bound::Unbounded);
        let mut page = KeyPage::default();
        for entry in self.table.range(&txn, &range).map_err(failed)? {
            let (key, bytes) = entry.map_err(failed)?;
            if !key.starts_with(&prefix) {
                break;
            }
            if Record::is_over_at(bytes, now) {
                continue;
            }
            if page.keys.len() as u64 == most {
                page.more = true;
                break;
            }
            let key = str::from_utf8(&key[begin.len()..]).map_err(|_| damaged())?;
            page.keys.push(key.to_owned());
        }
        Ok(page)
    }

    fn holds(&self, store: &StoreId, key: &str) -> Result<bool, KvError> {
        check_key(key)?;
        let key = record::store_key(record::DATA, store, key);
        let txn = self.env.read_txn().map_err(failed)?;
        let found = self.table.get(&txn, &key).map_err(failed)?;
        Ok(found.is_some_and(|bytes| !Record::is_over_at(bytes, (self.clock)())))
    }

    fn used(&self, store: &StoreId) -> Result<StoreUsage, KvError> {
        let key = record::store_key(record::USAGE, store, "");
        let txn = self.env.read_txn().map_err(failed)?;
        usage(&txn, self.table, &key)
    }

    /// Every store that holds anything whose key begins with `begin`.
    fn stores(&self, begin: &[u8]) -> Result<Vec<(StoreId, StoreUsage)>, KvError> {
        let txn = self.env.read_txn().map_err(failed)?;
        let mut stores = Vec::new();
        for entry in self.table.prefix_iter(&txn, begin).map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let store = record::read_store(key).ok_or_else(damaged)?;
            stores.push((store, record::read_usage(value).ok_or_else(damaged)?));
        }
        Ok(stores)
    }
}

/// Where changes of stores go to be made.
#[async_trait]
pub trait Changes: Send + Sync + 'static {
    /// As [`KeyValue::change`], of changes that are within bounds.
    async fn make(&self, store: &StoreId, changes: Vec<KvChange>) -> Result<Vec<KvDone>, KvError>;
}

/// Stores that are read in place and changed by way of `C`.
#[derive(Clone)]
pub struct Lent<C> {
    reader: Reader,
    changes: C,
}

impl<C> Lent<C> {
    pub fn new(reader: Reader, changes: C) -> Self {
        Self { reader, changes }
    }
}

#[async_trait]
impl<C: Changes> KeyValue for Lent<C> {
    async fn get(&self, store: &StoreId, key: &str) -> Result<Option<Item>, KvError> {
        if let Read::Item(item) = self.reader.read(store, key, limits::KV_HERE.default)? {
            return Ok(item);
        }
        let (reader, store, key) = (self.reader.clone(), store.clone(), key.to_owned());
        match elsewhere(move || reader.read(&store, &key, Size(u64::MAX))).await? {
            Read::Item(item) => Ok(item),
            Read::Larger => Err(damaged()),
        }
    }

    async fn exists(&self, store: &StoreId, key: &str) -> Result<bool, KvError> {
        self.reader.holds(store, key)
    }

    async fn list(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        most: u64,
    ) -> Result<KeyPage, KvError> {
        let (reader, store, prefix) = (self.reader.clone(), store.clone(), prefix.to_owned());
        let after = after.map(str::to_owned);
        elsewhere(move || reader.keys(&store, &prefix, after.as_deref(), most)).await
    }

    async fn usage(&self, store: &StoreId) -> Result<StoreUsage, KvError> {
        self.reader.used(store)
    }

    async fn change(
        &self,
        store: &StoreId,
        changes: Vec<KvChange>,
    ) -> Result<Vec<KvDone>, KvError> {
        check_changes(&changes)?;
        self.changes.make(store, changes).await
    }
}

/// On a thread that may wait for the disk.
async fn elsewhere<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, KvError> + Send + 'static,
) -> Result<T, KvError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|panic| Err(KvError::Failed(panic.to_string())))
}

fn usage(txn: &RoTxn<'_>, table: Table, key: &[u8]) -> Result<StoreUsage, KvError> {
    match table.get(txn, key).map_err(failed)? {
        Some(value) => record::read_usage(value).ok_or_else(damaged),
        None => Ok(StoreUsage::default()),
    }
}

fn open(folder: &Path, flags: EnvFlags) -> Result<Env, StoresError> {
    let mut options = EnvOpenOptions::new();
    options
        .map_size(limits::KV_NODE.default.as_usize())
        .max_readers(limits::KV_READERS.default as u32);
    // SAFETY: the folder is the platform's own, and nobody else writes to it; every process maps as much of it.
    unsafe {
        options.flags(flags);
        options.open(folder).map_err(|error| match error {
            heed::Error::EnvAlreadyOpened => StoresError::InUse,
            error => error.into(),
        })
    }
}

fn failed(error: heed::Error) -> KvError {
    KvError::Failed(error.to_string())
}

fn damaged() -> KvError {
    KvError::Failed("what lies there is not what was written".to_owned())
}
