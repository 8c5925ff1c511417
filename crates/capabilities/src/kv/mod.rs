//! Key-value stores: small values by name, for the apps that were granted them.
//!
//! A store belongs to one app. Reads see the newest committed value on this node; a change is acknowledged once it
//! would survive a loss of power.

#[cfg(test)]
mod contract;
pub mod embedded;
pub mod host;

use std::fs::File;

use async_trait::async_trait;
use model::{
    Item, KeyPage, KvChange, KvDone, KvError, Owner, Size, StoreId, StoreName, StoreUsage, limits,
};

/// A node's key-value stores. Each exists as soon as it is named; whether an app may name it is its grants' matter.
#[async_trait]
pub trait KeyValue: Send + Sync + 'static {
    /// What the key holds; none too if its time is over.
    async fn get(&self, store: &StoreId, key: &str) -> Result<Option<Item>, KvError>;

    async fn exists(&self, store: &StoreId, key: &str) -> Result<bool, KvError>;

    /// Up to `most` keys that begin with `prefix`, those after `after`, in the order of their bytes.
    async fn list(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        most: u64,
    ) -> Result<KeyPage, KvError>;

    async fn usage(&self, store: &StoreId) -> Result<StoreUsage, KvError>;

    /// Makes all of the changes, in their order, or none of them. What it answers is durable.
    async fn change(&self, store: &StoreId, changes: Vec<KvChange>)
    -> Result<Vec<KvDone>, KvError>;
}

/// What only who keeps the stores may do.
#[async_trait]
pub trait Keeper: KeyValue {
    /// The stores of an owner that hold anything.
    async fn stores_of(&self, owner: &Owner) -> Result<Vec<(StoreName, StoreUsage)>, KvError>;

    /// Whose stores hold anything, each named once.
    async fn owners(&self) -> Result<Vec<Owner>, KvError>;

    /// Writes all that the stores hold now to `file`, as a file of its own that can be opened in their place. Blocks.
    fn copy_to(&self, file: &mut File) -> Result<(), KvError>;

    /// Removes every store of an owner. What it writes later is there again.
    async fn forget(&self, owner: &Owner) -> Result<(), KvError>;
}

/// Whether `key` may be one.
pub fn check_key(key: &str) -> Result<(), KvError> {
    let size = Size(key.len() as u64);
    if key.is_empty() {
        Err(KvError::KeyEmpty)
    } else if size > limits::KV_KEY.default {
        Err(KvError::KeyTooLong(size))
    } else {
        Ok(())
    }
}

/// Whether these may be changed together: bounds of each and of all.
pub fn check_changes(changes: &[KvChange]) -> Result<(), KvError> {
    if changes.len() as u64 > limits::KV_BATCH_KEYS.default {
        return Err(KvError::TooManyKeys(changes.len() as u64));
    }
    let mut sum = Size(0);
    for change in changes {
        check_key(change.key())?;
        if let KvChange::Set { value, .. } = change {
            let size = Size(value.len() as u64);
            if size > limits::KV_VALUE.default {
                return Err(KvError::ValueTooLarge(size));
            }
        }
        sum.0 += change.bytes() as u64;
    }
    if sum > limits::KV_BATCH.default {
        return Err(KvError::BatchTooLarge(sum));
    }
    Ok(())
}
