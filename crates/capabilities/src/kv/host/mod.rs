//! Key-value interfaces for guests. What they ask is the same in every version; each has a file of its own for how it
//! says so.

mod spin2;
mod spin3;
mod wasi;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use model::{Entry, Expect, Item, KeyPage, KvChange, KvDone, KvError, Size, StoreId, limits};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use super::KeyValue;
use crate::calls::{CallSink, Called};

/// The store that guests mean by an empty name.
const DEFAULT: &str = "default";

/// What an invocation has of key-value stores.
pub struct KvContext {
    stores: Arc<dyn KeyValue>,
    calls_left: u64,
}

impl KvContext {
    /// `requests` are those that one instance may answer.
    pub fn new(stores: Arc<dyn KeyValue>, requests: u64) -> Self {
        Self {
            stores,
            calls_left: limits::KV_CALLS.default.saturating_mul(requests),
        }
    }
}

/// Access to a store's key-value stores.
pub struct KvView<'a> {
    pub context: &'a mut KvContext,
    pub table: &'a mut ResourceTable,
    /// Whose stores it may open, those that it was granted.
    pub app: &'a Entry,
    /// Who hears of calls, if anyone.
    pub calls: Option<&'a dyn CallSink>,
}

/// A store's data that has key-value stores.
pub trait KvData: Send + 'static {
    fn kv(&mut self) -> KvView<'_>;
}

/// What all versions are linked over.
struct Kv;

impl HasData for Kv {
    type Data<'a> = KvView<'a>;
}

/// Lends every version that needs no more than plain calls.
pub fn add_to_linker<T: KvData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasi::add_to_linker(linker)?;
    spin2::add_to_linker(linker)
}

/// Lends the version whose calls are asynchronous; the engine must have component-async.
pub fn add_async_to_linker<T: KvData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    spin3::add_to_linker(linker)
}

/// A store that a guest has opened.
pub struct Bucket {
    store: Arc<StoreId>,
    /// The last keys of the pages that were listed, for the interface that knows numbers instead: the cursor is the number of
    /// those that were let go, and the place among these.
    cursors: Vec<String>,
    cursors_gone: u64,
}

/// How many listings of one bucket may go on at once where cursors are numbers.
const CURSORS: usize = 16;

impl Bucket {
    fn cursor(&mut self, last: String) -> u64 {
        if self.cursors.len() == CURSORS {
            self.cursors.remove(0);
            self.cursors_gone += 1;
        }
        self.cursors.push(last);
        self.cursors_gone + self.cursors.len() as u64
    }

    fn key_of(&self, cursor: u64) -> Option<&str> {
        let place = cursor.checked_sub(self.cursors_gone + 1)?;
        let key = self.cursors.get(usize::try_from(place).ok()?)?;
        Some(key)
    }
}

/// Why a guest's call does nothing.
enum Refused {
    /// The manifest grants no store of that name.
    NotGranted,
    Error(KvError),
    /// In words, where there is no error of ours.
    Text(String),
}

impl Refused {
    /// Why, in words; none where no grant covers it, for which every version has a case of its own.
    fn words(self) -> Option<String> {
        match self {
            Self::NotGranted => None,
            Self::Error(error) => Some(error.to_string()),
            Self::Text(text) => Some(text),
        }
    }
}

impl From<KvError> for Refused {
    fn from(error: KvError) -> Self {
        Self::Error(error)
    }
}

/// A call on its way: what is needed of the guest's store is taken from it first, so that nothing of it is held meanwhile.
struct Call {
    stores: Arc<dyn KeyValue>,
    store: Arc<StoreId>,
    told: Told,
}

/// What is told of a call once it is over.
#[derive(Clone, Copy)]
struct Told {
    name: &'static str,
    /// None if nobody hears of it: then not even the clock is read.
    began: Option<Instant>,
}

impl KvView<'_> {
    fn open(&mut self, name: &str) -> Result<Bucket, Refused> {
        let name = if name.is_empty() { DEFAULT } else { name };
        let store = name.parse().map_err(|_| Refused::NotGranted)?;
        if !self.app.grant.kv.contains(&store) {
            return Err(Refused::NotGranted);
        }
        let owner = self.app.owner();
        Ok(Bucket {
            store: Arc::new(StoreId { owner, store }),
            cursors: Vec::new(),
            cursors_gone: 0,
        })
    }

    /// Makes a call on an open store. The outer error is a handle that is none.
    async fn on<R, E: From<Refused>, F: Future<Output = Result<R, Refused>>>(
        &mut self,
        bucket: &Resource<Bucket>,
        name: &'static str,
        ask: impl FnOnce(Call) -> F,
    ) -> wasmtime::Result<Result<R, E>> {
        let store = self.table.get(bucket)?.store.clone();
        let call = match self.begin(store, name) {
            Ok(call) => call,
            Err(refused) => return Ok(Err(refused.into())),
        };
        let told = call.told;
        let result = ask(call).await;
        self.tell(told);
        Ok(result.map_err(E::from))
    }

    fn begin(&mut self, store: Arc<StoreId>, name: &'static str) -> Result<Call, Refused> {
        let Some(left) = self.context.calls_left.checked_sub(1) else {
            return Err(Refused::Text(format!(
                "an invocation may make {} calls to key-value stores",
                limits::KV_CALLS.default
            )));
        };
        self.context.calls_left = left;
        let began = self.calls.map(|_| Instant::now());
        Ok(Call {
            stores: self.context.stores.clone(),
            store,
            told: Told { name, began },
        })
    }

    /// Tells of a call that is over.
    fn tell(&self, told: Told) {
        if let (Some(sink), Some(from)) = (self.calls, told.began) {
            let (name, to) = (told.name, Instant::now());
            sink.called(Called {
                name,
                from,
                to,
                span: None,
            });
        }
    }
}

impl Call {
    async fn get(&self, key: &str) -> Result<Option<Item>, Refused> {
        Ok(self.stores.get(&self.store, key).await?)
    }

    async fn exists(&self, key: &str) -> Result<bool, Refused> {
        Ok(self.stores.exists(&self.store, key).await?)
    }

    async fn set(&self, key: String, value: Vec<u8>) -> Result<(), Refused> {
        self.change(vec![set(key, value, Expect::Anything)]).await?;
        Ok(())
    }

    async fn delete(&self, key: String) -> Result<(), Refused> {
        self.change(vec![delete(key)]).await?;
        Ok(())
    }

    async fn increment(&self, key: String, by: i64) -> Result<i64, Refused> {
        let done = self.change(vec![KvChange::Increment { key, by }]).await?;
        match done[..] {
            [KvDone::Incremented { value, .. }] => Ok(value),
            _ => Err(Refused::Text("the store answered something else".into())),
        }
    }

    async fn change(&self, changes: Vec<KvChange>) -> Result<Vec<KvDone>, Refused> {
        Ok(self.stores.change(&self.store, changes).await?)
    }

    /// What each of `keys` holds, in their order.
    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, Refused> {
        if keys.len() as u64 > limits::KV_BATCH_KEYS.default {
            return Err(KvError::TooManyKeys(keys.len() as u64).into());
        }
        let mut sum = Size(0);
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.get(key).await?.map(|item| item.value);
            sum.0 += value.as_ref().map_or(0, |value| value.len() as u64);
            if sum > limits::KV_BATCH.default {
                return Err(Refused::Text(format!(
                    "these keys hold more than {} together; ask for fewer",
                    limits::KV_BATCH.default
                )));
            }
            values.push(value);
        }
        Ok(values)
    }

    async fn page(&self, after: Option<&str>) -> Result<KeyPage, Refused> {
        let most = limits::KV_PAGE.default;
        Ok(self.stores.list(&self.store, "", after, most).await?)
    }

    /// Every key, where the interface knows no pages.
    async fn keys(&self) -> Result<Vec<String>, Refused> {
        let mut keys: Vec<String> = Vec::new();
        let mut bytes = Size(0);
        loop {
            let page = self.page(keys.last().map(String::as_str)).await?;
            bytes.0 += page.keys.iter().map(|key| key.len() as u64).sum::<u64>();
            keys.extend(page.keys);
            let (most, most_bytes) = (limits::KV_LISTED.default, limits::HOST_MEMORY.default);
            if keys.len() as u64 > most || bytes > most_bytes {
                return Err(Refused::Text(format!(
                    "the store has more keys than are listed at once, {most} or {most_bytes} of them; list them in pages"
                )));
            }
            if !page.more {
                return Ok(keys);
            }
        }
    }
}

fn set(key: String, value: Vec<u8>, expect: Expect) -> KvChange {
    KvChange::Set {
        key,
        value: value.into(),
        expires_ms: None,
        expect,
    }
}

fn delete(key: String) -> KvChange {
    KvChange::Delete {
        key,
        expect: Expect::Anything,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_until_many_others_came() {
        let mut bucket = Bucket {
            store: Arc::new(crate::kv::contract::store("a/b", "c")),
            cursors: Vec::new(),
            cursors_gone: 0,
        };
        let numbers: Vec<u64> = (0..40).map(|i| bucket.cursor(format!("k{i}"))).collect();
        assert_eq!(bucket.key_of(numbers[39]), Some("k39"));
        assert_eq!(bucket.key_of(numbers[24]), Some("k24"));
        assert_eq!(bucket.key_of(numbers[23]), None);
        assert_eq!(bucket.key_of(0), None);
        assert_eq!(bucket.key_of(u64::MAX), None);
    }
}
