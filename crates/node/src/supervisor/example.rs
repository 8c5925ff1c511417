//! Keys, entries and catalogs for this crate's tests.

use std::sync::Arc;

use model::{
    AppLimits, Catalog, Change, Delta, Digest, Entry, GuestKind, Replies, Route, SecretKey,
    VersionNumber,
};

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// One of 100 uploads, at a route of its own.
pub fn entry(app: u64, version: u32) -> Arc<Entry> {
    Arc::new(Entry {
        id: format!("alice/app-{app}").parse().unwrap(),
        incarnations: Default::default(),
        version: VersionNumber::new(version).unwrap(),
        revision: 1,
        kind: GuestKind::HttpComponent,
        wasm: Digest::of(&(app % 100).to_le_bytes()),
        routes: vec![Route {
            host: format!("app-{app}.localhost").parse().unwrap(),
            path: Default::default(),
        }],
        grant: Default::default(),
        limits: AppLimits::default(),
        reply: Replies::default(),
        reuse: None,
    })
}

/// The empty catalog and those that follow it, each with another version of one app.
pub fn catalogs(count: usize) -> Vec<Catalog> {
    let mut catalogs = vec![Catalog::default()];
    for version in 1..count {
        let (next, _) = catalogs[version - 1].change(vec![Change::Put(entry(0, version as u32))]);
        catalogs.push(next);
    }
    catalogs
}

/// The step between two of [`catalogs`].
pub fn delta(from: &Catalog, to: &Catalog) -> Delta {
    Delta {
        parent: from.generation(),
        head: to.head(),
        changes: to.since(from),
    }
}
