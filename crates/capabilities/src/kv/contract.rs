//! What every backend keeps: run over each of them.

use bytes::Bytes;
use model::{
    Expect, Incarnation, KvChange, KvDone, KvError, Owner, Size, StoreId, StoreUsage, limits,
};

use super::{Keeper, KeyValue};

pub fn store(app: &str, store: &str) -> StoreId {
    store_of(app, 0, store)
}

/// A store of the app that comes after so many of its name.
pub fn store_of(app: &str, incarnation: Incarnation, store: &str) -> StoreId {
    StoreId {
        owner: Owner {
            app: app.parse().unwrap(),
            incarnation,
        },
        store: store.parse().unwrap(),
    }
}

pub fn set(key: &str, value: &str) -> KvChange {
    KvChange::Set {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        expires_ms: None,
        expect: Expect::Anything,
    }
}

fn set_if(key: &str, value: &str, expect: Expect) -> KvChange {
    KvChange::Set {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        expires_ms: None,
        expect,
    }
}

fn delete(key: &str) -> KvChange {
    KvChange::Delete {
        key: key.to_owned(),
        expect: Expect::Anything,
    }
}

fn add(key: &str, by: i64) -> KvChange {
    KvChange::Increment {
        key: key.to_owned(),
        by,
    }
}

async fn text(kv: &dyn KeyValue, store: &StoreId, key: &str) -> Option<String> {
    let item = kv.get(store, key).await.unwrap()?;
    Some(String::from_utf8(item.value.to_vec()).unwrap())
}

/// Everything, over stores that hold nothing. `limit` is what one may hold, and `pass` lets time pass.
pub async fn holds(kv: &dyn Keeper, limit: Size, pass: &dyn Fn(u64) -> u64) {
    values(kv).await;
    walls(kv).await;
    listings(kv).await;
    expectations(kv).await;
    numbers(kv).await;
    batches(kv).await;
    bounds(kv, limit).await;
    time(kv, pass).await;
    forgetting(kv).await;
}

async fn values(kv: &dyn Keeper) {
    let id = store("a/values", "default");
    assert_eq!(kv.get(&id, "k").await.unwrap(), None);
    assert!(!kv.exists(&id, "k").await.unwrap());
    let done = kv.change(&id, vec![set("k", "one")]).await.unwrap();
    let [KvDone::Set { revision }] = done[..] else {
        panic!("{done:?}")
    };
    let item = kv.get(&id, "k").await.unwrap().unwrap();
    assert_eq!((&item.value[..], item.revision), (&b"one"[..], revision));
    assert_eq!(item.expires_ms, None);
    kv.change(&id, vec![set("k", "")]).await.unwrap();
    let item = kv.get(&id, "k").await.unwrap().unwrap();
    assert!(item.value.is_empty() && item.revision > revision);
    for (existed, left) in [(true, 0), (false, 0)] {
        let done = kv.change(&id, vec![delete("k")]).await.unwrap();
        assert_eq!(done, [KvDone::Deleted { existed }]);
        assert_eq!(kv.usage(&id).await.unwrap().keys, left);
    }
    // Beyond what is read in place.
    let large = "x".repeat(limits::KV_HERE.default.as_usize() + 1);
    kv.change(&id, vec![set("large", &large)]).await.unwrap();
    assert_eq!(text(kv, &id, "large").await.unwrap(), large);
    let bytes = (large.len() + "large".len()) as u64;
    let usage = StoreUsage { keys: 1, bytes };
    assert_eq!(kv.usage(&id).await.unwrap(), usage);
}

async fn walls(kv: &dyn Keeper) {
    assert_eq!(breaches(kv).await, Vec::<String>::new());
}

/// Where one store meets another's keys: names that could be read as one another's, and keys that could be.
pub async fn breaches(kv: &dyn KeyValue) -> Vec<String> {
    let names = [
        "a/b c", "a/bc d", "ab/c d", "a/b cd", "a/b cde", "abc/d e", "b/a c", "a/c b", "z/b c",
        "a/z c", "a/b/1 c", "a/b/12 c", "a/bc/1 d", "a/b/2 c",
    ];
    let keys = [
        "k", "c/k", "ck", "dk", "cdk", "\0k", "../k", "K", "k\u{301}", "%6b", "k\0", "\u{1}bk",
    ];
    // `TENANT/APP STORE`, or `TENANT/APP/INCARNATION STORE`.
    let ids = names.map(|name| {
        let (app, name) = name.split_once(' ').unwrap();
        match app.match_indices('/').nth(1) {
            Some((end, _)) => store_of(&app[..end], app[end + 1..].parse().unwrap(), name),
            None => store(app, name),
        }
    });
    for (i, id) in ids.iter().enumerate() {
        let changes = keys.iter().map(|key| set(key, &format!("{i} {key}")));
        kv.change(id, changes.collect()).await.unwrap();
    }
    let mut sorted = keys.map(str::to_owned).to_vec();
    sorted.sort();
    let mut found = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        for key in keys {
            let held = text(kv, id, key).await;
            if held != Some(format!("{i} {key}")) {
                found.push(format!("{} holds {held:?} under {key:?}", names[i]));
            }
        }
        let page = kv.list(id, "", None, 100).await.unwrap();
        if (&page.keys, page.more) != (&sorted, false) {
            found.push(format!("{} lists {:?}", names[i], page.keys));
        }
        kv.change(id, vec![delete("k")]).await.unwrap();
        if !kv.exists(id, "K").await.unwrap() {
            found.push(format!("{} lost another key than it deleted", names[i]));
        }
    }
    found
}

async fn listings(kv: &dyn Keeper) {
    let id = store("a/listings", "default");
    let keys: Vec<String> = (0..25).map(|i| format!("p/{i:02}")).collect();
    let all = keys
        .iter()
        .map(|key| set(key, ""))
        .chain([set("o", ""), set("q", "")]);
    kv.change(&id, all.collect()).await.unwrap();
    let mut found = Vec::new();
    let mut after = None;
    for pages in 1.. {
        let page = kv.list(&id, "p/", after.as_deref(), 10).await.unwrap();
        found.extend(page.keys);
        after = found.last().cloned();
        if !page.more {
            assert_eq!(pages, 3);
            break;
        }
    }
    assert_eq!(found, keys);
    let page = kv.list(&id, "p/", Some("a"), 1).await.unwrap();
    assert_eq!(page.keys, ["p/00"]);
    let page = kv.list(&id, "p/", Some("p/24"), 1).await.unwrap();
    assert_eq!((page.keys.len(), page.more), (0, false));
    // Exactly as many as there are.
    let page = kv.list(&id, "p/", None, 25).await.unwrap();
    assert_eq!((page.keys.len(), page.more), (25, false));
}

async fn expectations(kv: &dyn Keeper) {
    let id = store("a/expectations", "default");
    let changed = |result: Result<Vec<KvDone>, KvError>| {
        assert_eq!(result.unwrap_err(), KvError::Changed);
    };
    changed(
        kv.change(&id, vec![set_if("k", "x", Expect::Revision(1))])
            .await,
    );
    kv.change(&id, vec![set_if("k", "1", Expect::Absent)])
        .await
        .unwrap();
    changed(kv.change(&id, vec![set_if("k", "x", Expect::Absent)]).await);
    let first = kv.get(&id, "k").await.unwrap().unwrap().revision;
    kv.change(&id, vec![set_if("k", "2", Expect::Revision(first))])
        .await
        .unwrap();
    changed(
        kv.change(&id, vec![set_if("k", "x", Expect::Revision(first))])
            .await,
    );
    changed(
        kv.change(
            &id,
            vec![KvChange::Delete {
                key: "k".to_owned(),
                expect: Expect::Revision(first),
            }],
        )
        .await,
    );
    assert_eq!(text(kv, &id, "k").await.unwrap(), "2");
    // Of many who saw the same, one wins.
    let seen = kv.get(&id, "k").await.unwrap().unwrap().revision;
    let tries = (0..20).map(|i| {
        kv.change(
            &id,
            vec![set_if("k", &i.to_string(), Expect::Revision(seen))],
        )
    });
    let results = futures_util::future::join_all(tries).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}

async fn numbers(kv: &dyn Keeper) {
    let id = store("a/numbers", "default");
    let adds = (0..50).map(|_| kv.change(&id, vec![add("n", 2)]));
    for result in futures_util::future::join_all(adds).await {
        result.unwrap();
    }
    let done = kv.change(&id, vec![add("n", -101)]).await.unwrap();
    assert!(matches!(done[..], [KvDone::Incremented { value: -1, .. }]));
    assert_eq!(text(kv, &id, "n").await.unwrap(), "-1");
    kv.change(&id, vec![set("n", "9223372036854775807")])
        .await
        .unwrap();
    let error = kv.change(&id, vec![add("n", 1)]).await.unwrap_err();
    assert_eq!(error, KvError::Overflow);
    for odd in ["", "1.5", " 1", "9223372036854775808", "x"] {
        kv.change(&id, vec![set("n", odd)]).await.unwrap();
        let error = kv.change(&id, vec![add("n", 1)]).await.unwrap_err();
        assert_eq!(error, KvError::NotANumber, "{odd:?}");
        assert_eq!(text(kv, &id, "n").await.unwrap(), odd);
    }
}

/// All or nothing.
async fn batches(kv: &dyn Keeper) {
    let id = store("a/batches", "default");
    kv.change(
        &id,
        vec![set("a", "1"), set("b", "2"), delete("a"), add("c", 3)],
    )
    .await
    .unwrap();
    let before = kv.usage(&id).await.unwrap();
    assert_eq!((before.keys, text(kv, &id, "a").await), (2, None));
    let changes = vec![set("a", "x"), delete("b"), set_if("c", "x", Expect::Absent)];
    assert_eq!(kv.change(&id, changes).await, Err(KvError::Changed));
    assert_eq!(kv.usage(&id).await.unwrap(), before);
    assert_eq!(text(kv, &id, "a").await, None);
    assert_eq!(text(kv, &id, "b").await.unwrap(), "2");
}

async fn bounds(kv: &dyn Keeper, limit: Size) {
    let id = store("a/bounds", "default");
    let most = limits::KV_KEY.default.as_usize();
    let (longest, longer) = ("k".repeat(most), "k".repeat(most + 1));
    kv.change(&id, vec![set(&longest, "x")]).await.unwrap();
    assert_eq!(text(kv, &id, &longest).await.unwrap(), "x");
    kv.change(&id, vec![delete(&longest)]).await.unwrap();
    for key in ["", &longer] {
        let refused = kv.change(&id, vec![set(key, "x")]).await.unwrap_err();
        assert_eq!(kv.get(&id, key).await.unwrap_err(), refused);
        assert_eq!(kv.exists(&id, key).await.unwrap_err(), refused);
    }
    let too_large = "x".repeat(limits::KV_VALUE.default.as_usize() + 1);
    let refused = kv.change(&id, vec![set("k", &too_large)]).await;
    assert!(matches!(refused, Err(KvError::ValueTooLarge(_))));
    let half = "x".repeat(limits::KV_BATCH.default.as_usize() / 2);
    let refused = kv.change(&id, vec![set("a", &half), set("b", &half)]).await;
    assert!(matches!(refused, Err(KvError::BatchTooLarge(_))));
    let many = (0..=limits::KV_BATCH_KEYS.default).map(|i| delete(&format!("k{i}")));
    let refused = kv.change(&id, many.collect()).await;
    assert!(matches!(refused, Err(KvError::TooManyKeys(_))));
    // A store that is full takes what makes it smaller.
    let fill = "x".repeat(limit.as_usize() - 1);
    kv.change(&id, vec![set("k", &fill)]).await.unwrap();
    let refused = kv.change(&id, vec![set("l", "")]).await;
    let (wanted, limit) = (Size(limit.0 + 1), limit);
    assert_eq!(refused, Err(KvError::StoreFull { wanted, limit }));
    let elsewhere = store("a/bounds", "other");
    kv.change(&elsewhere, vec![set("l", "x")]).await.unwrap();
    kv.change(&id, vec![set("k", "")]).await.unwrap();
    kv.change(&id, vec![set("l", "")]).await.unwrap();
    assert_eq!(
        kv.usage(&id).await.unwrap(),
        StoreUsage { keys: 2, bytes: 2 }
    );
}

async fn time(kv: &dyn Keeper, pass: &dyn Fn(u64) -> u64) {
    let id = store("a/time", "default");
    let set_until = |key: &str, ms: u64| KvChange::Set {
        key: key.to_owned(),
        value: Bytes::from_static(b"5"),
        expires_ms: Some(ms),
        expect: Expect::Anything,
    };
    let now = pass(0);
    let changes = vec![
        set_until("soon", now + 10),
        set_until("later", now + 1_000),
        set_until("changed", now + 10),
        set_until("number", now + 10),
        set("stays", ""),
    ];
    kv.change(&id, changes).await.unwrap();
    let soon = kv.get(&id, "soon").await.unwrap().unwrap();
    assert_eq!(soon.expires_ms, Some(now + 10));
    kv.change(&id, vec![set("changed", "now it stays")])
        .await
        .unwrap();
    kv.change(&id, vec![add("number", 1)]).await.unwrap();
    pass(10);
    for gone in ["soon", "number"] {
        assert_eq!(kv.get(&id, gone).await.unwrap(), None);
        assert!(!kv.exists(&id, gone).await.unwrap());
    }
    let page = kv.list(&id, "", None, 10).await.unwrap();
    assert_eq!(page.keys, ["changed", "later", "stays"]);
    // What is over counts as nothing.
    let done = kv.change(&id, vec![add("number", 1)]).await.unwrap();
    assert!(matches!(done[..], [KvDone::Incremented { value: 1, .. }]));
    kv.change(&id, vec![set_if("soon", "again", Expect::Absent)])
        .await
        .unwrap();
    assert_eq!(text(kv, &id, "soon").await.unwrap(), "again");
    pass(10_000);
    // And is cleared away in the end.
    for tries in 0.. {
        if kv.usage(&id).await.unwrap().keys == 4 {
            break;
        }
        assert!(tries < 2_000, "what is over is never cleared away");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(text(kv, &id, "number").await.unwrap(), "1");
}

async fn forgetting(kv: &dyn Keeper) {
    let (gone, stays) = (store("a/gone", "x"), store("a/gone-not", "x"));
    let next = store_of("a/gone", 1, "x");
    for i in 0..3 {
        let changes = (0..1_000).map(|k| set(&format!("{i} {k}"), "v"));
        kv.change(&gone, changes.collect()).await.unwrap();
    }
    let other = store("a/gone", "y");
    kv.change(&other, vec![set("k", "v")]).await.unwrap();
    kv.change(&stays, vec![set("k", "v")]).await.unwrap();
    assert_eq!(kv.usage(&next).await.unwrap(), StoreUsage::default());
    kv.change(&next, vec![set("k", "next")]).await.unwrap();
    let of_gone = kv.stores_of(&gone.owner).await.unwrap();
    let names: Vec<_> = of_gone.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, of_gone[0].1.keys), (vec!["x", "y"], 3_000));
    kv.forget(&gone.owner).await.unwrap();
    for id in [&gone, &other] {
        assert_eq!(kv.usage(id).await.unwrap(), StoreUsage::default());
        assert!(kv.list(id, "", None, 10).await.unwrap().keys.is_empty());
    }
    assert_eq!(text(kv, &stays, "k").await.unwrap(), "v");
    // A name that holds nothing is forgotten as well.
    kv.forget(&gone.owner).await.unwrap();
    kv.change(&gone, vec![set("k", "new")]).await.unwrap();
    assert_eq!(text(kv, &gone, "k").await.unwrap(), "new");
    // The next app of the name has its own all along.
    assert_eq!(text(kv, &next, "k").await.unwrap(), "next");
    let owners = kv.owners().await.unwrap();
    for id in [&gone, &next, &stays] {
        let found = owners.iter().filter(|owner| **owner == id.owner);
        assert_eq!(found.count(), 1, "{id:?}");
    }
    kv.forget(&gone.owner).await.unwrap();
    assert!(!kv.owners().await.unwrap().contains(&gone.owner));
    assert_eq!(text(kv, &next, "k").await.unwrap(), "next");
}
