//! The embedded stores: what every backend keeps, and what is theirs alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use model::Owner;

use super::*;
use crate::kv::KeyValue;
use crate::kv::contract::{self, set, store};

const LIMIT: Size = Size::mib(1);

/// A clock that stands still until it is told to go on.
fn clock() -> (Clock, impl Fn(u64) -> u64) {
    let now = Arc::new(AtomicU64::new(1_000_000));
    let reading = now.clone();
    let pass = move |ms| now.fetch_add(ms, Ordering::Relaxed) + ms;
    (Arc::new(move || reading.load(Ordering::Relaxed)), pass)
}

fn stores(folder: &tempfile::TempDir) -> (Stores, impl Fn(u64) -> u64) {
    let (clock, pass) = clock();
    (Stores::open(folder.path(), LIMIT, clock).unwrap(), pass)
}

/// Opens a folder anew, once whoever had it open has let go of it.
fn again(path: PathBuf) -> Stores {
    loop {
        match Stores::open(&path, LIMIT, clock().0) {
            Ok(stores) => return stores,
            Err(StoresError::InUse) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn the_contract_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (stores, pass) = stores(&folder);
    contract::holds(&stores, LIMIT, &pass).await;
}

#[tokio::test]
async fn a_tenants_own_limit_counts_from_the_next_change_on_and_for_its_stores_alone() {
    let folder = tempfile::tempdir().unwrap();
    let hers = Arc::new(AtomicU64::new(4));
    let asked = hers.clone();
    let limit: LimitOf = Arc::new(move |tenant| match tenant.as_str() {
        "alice" => Size(asked.load(Ordering::Relaxed)),
        _ => LIMIT,
    });
    let stores = Stores::open_limited(folder.path(), limit, clock().0).unwrap();
    let (alices, bobs) = (store("alice/a", "s"), store("bob/a", "s"));
    let change = async |store: &StoreId, key: &str, value: &str| {
        let done = stores.change(store, vec![set(key, value)]).await;
        done.map(drop)
    };
    let full = |wanted, limit| {
        Err(KvError::StoreFull {
            wanted: Size(wanted),
            limit: Size(limit),
        })
    };
    assert_eq!(change(&alices, "k", "123").await, Ok(()));
    assert_eq!(change(&alices, "k", "1234").await, full(5, 4));
    assert_eq!(change(&bobs, "k", "1234").await, Ok(()));
    // Another store of hers has as much again.
    assert_eq!(change(&store("alice/a", "t"), "k", "123").await, Ok(()));

    hers.store(5, Ordering::Relaxed);
    assert_eq!(change(&alices, "k", "1234").await, Ok(()));
    // Over a limit that was lowered, a store keeps what it has and may only shrink.
    hers.store(0, Ordering::Relaxed);
    assert_eq!(change(&alices, "l", "").await, full(6, 0));
    assert_eq!(change(&alices, "k", "4321").await, Ok(()));
    assert_eq!(change(&alices, "k", "1").await, Ok(()));
    assert_eq!(change(&alices, "k", "12").await, full(3, 0));
    assert_eq!(change(&store("alice/b", "s"), "k", "").await, full(1, 0));
}

/// Stores whose keys nothing frames: tenant, app, store and key one after the other.
struct Unframed(Stores);

impl Unframed {
    fn one() -> StoreId {
        store("everyone/everything", "one")
    }

    fn key(store: &StoreId, key: &str) -> String {
        let StoreId { owner, store } = store;
        let Owner { app, incarnation } = owner;
        format!("{}{}{incarnation}{store}{key}", app.tenant, app.app)
    }
}

#[async_trait]
impl KeyValue for Unframed {
    async fn get(&self, store: &StoreId, key: &str) -> Result<Option<Item>, KvError> {
        self.0.get(&Self::one(), &Self::key(store, key)).await
    }

    async fn exists(&self, store: &StoreId, key: &str) -> Result<bool, KvError> {
        self.0.exists(&Self::one(), &Self::key(store, key)).await
    }

    async fn list(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        most: u64,
    ) -> Result<KeyPage, KvError> {
        let begin = Self::key(store, "").len();
        let (prefix, after) = (
            Self::key(store, prefix),
            after.map(|after| Self::key(store, after)),
        );
        let mut page = self
            .0
            .list(&Self::one(), &prefix, after.as_deref(), most)
            .await?;
        for key in &mut page.keys {
            key.drain(..begin);
        }
        Ok(page)
    }

    async fn usage(&self, _: &StoreId) -> Result<StoreUsage, KvError> {
        self.0.usage(&Self::one()).await
    }

    async fn change(
        &self,
        store: &StoreId,
        mut changes: Vec<KvChange>,
    ) -> Result<Vec<KvDone>, KvError> {
        for change in &mut changes {
            let (KvChange::Set { key, .. }
            | KvChange::Delete { key, .. }
            | KvChange::Increment { key, .. }) = change;
            *key = Self::key(store, key);
        }
        self.0.change(&Self::one(), changes).await
    }
}

#[tokio::test]
async fn the_contract_finds_stores_whose_keys_nothing_frames() {
    let folder = tempfile::tempdir().unwrap();
    let (stores, _) = stores(&folder);
    let found = contract::breaches(&Unframed(stores)).await;
    assert!(found.len() >= 8, "{found:?}");
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (before, _) = stores(&folder);
    let id = store("a/b", "c");
    before.change(&id, vec![set("k", "v")]).await.unwrap();
    let revision = before.get(&id, "k").await.unwrap().unwrap().revision;
    drop(before);
    let after = again(folder.path().to_owned());
    let item = after.get(&id, "k").await.unwrap().unwrap();
    assert_eq!((&item.value[..], item.revision), (&b"v"[..], revision));
    after.change(&id, vec![set("k", "w")]).await.unwrap();
    assert!(after.get(&id, "k").await.unwrap().unwrap().revision > revision);
}

#[tokio::test]
async fn an_app_that_was_being_forgotten_is_forgotten_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (before, _) = stores(&folder);
    let id = store("a/b", "c");
    before.change(&id, vec![set("k", "v")]).await.unwrap();
    let mut txn = before.reader.env.write_txn().unwrap();
    let doomed = record::owner_key(record::FORGET, &id.owner);
    before.reader.table.put(&mut txn, &doomed, &[]).unwrap();
    txn.commit().unwrap();
    drop(before);
    let after = again(folder.path().to_owned());
    for _ in 0..2_000 {
        if after.get(&id, "k").await.unwrap().is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it is still there");
}

#[tokio::test]
async fn a_changed_byte_is_never_read_as_a_value() {
    let folder = tempfile::tempdir().unwrap();
    let (stores, _) = stores(&folder);
    let id = store("a/b", "c");
    stores.change(&id, vec![set("k", "value")]).await.unwrap();
    let key = record::store_key(record::DATA, &id, "k");
    let mut txn = stores.reader.env.write_txn().unwrap();
    let mut bytes = stores
        .reader
        .table
        .get(&txn, &key)
        .unwrap()
        .unwrap()
        .to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    stores.reader.table.put(&mut txn, &key, &bytes).unwrap();
    txn.commit().unwrap();
    let error = stores.get(&id, "k").await.unwrap_err();
    assert!(
        error.to_string().contains("not what was written"),
        "{error}"
    );
    // Others are served, and written.
    stores.change(&id, vec![set("l", "value")]).await.unwrap();
    let refused = stores.change(&id, vec![set("k", "new")]).await.unwrap_err();
    assert!(refused.to_string().contains("not what was written"));
}

#[tokio::test]
async fn another_releases_stores_are_refused_by_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let (before, _) = stores(&folder);
    let mut txn = before.reader.env.write_txn().unwrap();
    before
        .reader
        .table
        .put(&mut txn, record::FORMAT, &2u32.to_le_bytes())
        .unwrap();
    txn.commit().unwrap();
    drop(before);
    loop {
        match Stores::open(folder.path(), LIMIT, clock().0) {
            Err(StoresError::InUse) => std::thread::yield_now(),
            Err(StoresError::Format(2)) => return,
            other => panic!("{:?}", other.err()),
        }
    }
}
