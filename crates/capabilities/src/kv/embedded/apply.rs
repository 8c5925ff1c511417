//! One write transaction: what changes do to the database, and what it refuses.

use heed::RwTxn;
use model::{Expect, KvChange, KvDone, KvError, KvRevision, Owner, Size, StoreId, StoreUsage};

use super::Table;
use super::record::{self, HEADER_BYTES, Record};

/// A refusal of the store's, or the engine's failure, after which the transaction is of no use.
pub enum Refused {
    Store(KvError),
    Engine(heed::Error),
}

impl From<heed::Error> for Refused {
    fn from(error: heed::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<KvError> for Refused {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}

/// Makes changes in a transaction.
pub struct Applier {
    pub table: Table,
    /// What one store may hold.
    pub limit: Size,
    pub now_ms: u64,
}

/// What a key held before a change.
#[derive(Clone, Copy, Default)]
struct Before {
    exists: bool,
    /// Bytes of the value.
    length: u64,
    expires_ms: u64,
    /// None if it holds nothing, or nothing any longer.
    revision: Option<KvRevision>,
}

impl Applier {
    /// One store's changes, in their order. On a refusal some may have been made: who makes several wants a transaction
    /// of their own for them.
    pub fn apply(
        &self,
        txn: &mut RwTxn<'_>,
        store: &StoreId,
        changes: &[KvChange],
    ) -> Result<Vec<KvDone>, Refused> {
        changes
            .iter()
            .map(|change| self.one(txn, store, change))
            .collect()
    }

    fn one(
        &self,
        txn: &mut RwTxn<'_>,
        store: &StoreId,
        change: &KvChange,
    ) -> Result<KvDone, Refused> {
        let key = record::store_key(record::DATA, store, change.key());
        match change {
            KvChange::Set {
                value,
                expires_ms,
                expect,
                ..
            } => {
                let before = self.before(txn, &key)?;
                expect_before(*expect, before)?;
                let expires_ms = expires_ms.unwrap_or(0);
                let revision = self.put(txn, &key, before, expires_ms, value)?;
                Ok(KvDone::Set { revision })
            }
            KvChange::Delete { expect, .. } => {
                let before = self.before(txn, &key)?;
                expect_before(*expect, before)?;
                if before.exists {
                    self.remove(txn, &key, before)?;
                }
                let existed = before.revision.is_some();
                Ok(KvDone::Deleted { existed })
            }
            KvChange::Increment { by, .. } => {
                let before = self.before(txn, &key)?;
                let (value, expires_ms) = match before.revision {
                    Some(_) => (self.number(txn, &key)?, before.expires_ms),
                    None => (0, 0),
                };
                let value = value.checked_add(*by).ok_or(KvError::Overflow)?;
                let text = value.to_string();
                let revision = self.put(txn, &key, before, expires_ms, text.as_bytes())?;
                Ok(KvDone::Incremented { value, revision })
            }
        }
    }

    fn before(&self, txn: &RwTxn<'_>, key: &[u8]) -> Result<Before, Refused> {
        let Some(bytes) = self.table.get(txn, key)? else {
            return Ok(Before::default());
        };
        let record = Record::read(key, bytes).ok_or_else(super::damaged)?;
        Ok(Before {
            exists: true,
            length: record.value.len() as u64,
            expires_ms: record.expires_ms,
            revision: (!record.is_over(self.now_ms)).then_some(record.revision),
        })
    }

    fn number(&self, txn: &RwTxn<'_>, key: &[u8]) -> Result<i64, Refused> {
        let bytes = self.table.get(txn, key)?.unwrap_or_default();
        let value = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let number = str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok());
        Ok(number.ok_or(KvError::NotANumber)?)
    }

    fn put(
        &self,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        before: Before,
        expires_ms: u64,
        value: &[u8],
    ) -> Result<KvRevision, Refused> {
        let key_bytes = self.key_bytes(key)?;
        self.account(txn, key, |usage| {
            usage.keys += u64::from(!before.exists);
            usage.bytes += value.len() as u64 + if before.exists { 0 } else { key_bytes };
            usage.bytes = usage.bytes.saturating_sub(before.length);
        })?;
        let revision = self.next_revision(txn)?;
        let record = Record {
            revision,
            expires_ms,
            value,
        };
        let header = record.header(key);
        self.table
            .put_reserved(txn, key, HEADER_BYTES + value.len(), |space| {
                use std::io::Write as _;
                space.write_all(&header)?;
                space.write_all(value)
            })?;
        self.reschedule(txn, key, before.expires_ms, expires_ms)?;
        Ok(revision)
    }

    fn remove(&self, txn: &mut RwTxn<'_>, key: &[u8], before: Before) -> Result<(), Refused> {
        let key_bytes = self.key_bytes(key)?;
        self.table.delete(txn, key)?;
        self.reschedule(txn, key, before.expires_ms, 0)?;
        self.account(txn, key, |usage| {
            usage.keys = usage.keys.saturating_sub(1);
            usage.bytes = usage.bytes.saturating_sub(before.length + key_bytes);
        })
    }

    /// The bytes of a key as its store counts them: what its app calls it.
    fn key_bytes(&self, key: &[u8]) -> Result<u64, KvError> {
        let store = record::store_bytes(key).ok_or_else(super::damaged)?;
        Ok((key.len() - store) as u64)
    }

    fn reschedule(
        &self,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        before_ms: u64,
        after_ms: u64,
    ) -> Result<(), Refused> {
        if before_ms != 0 && before_ms != after_ms {
            self.table
                .delete(txn, &record::expiry_key(before_ms, key))?;
        }
        if after_ms != 0 && before_ms != after_ms {
            self.table
                .put(txn, &record::expiry_key(after_ms, key), &[])?;
        }
        Ok(())
    }

    /// Changes what a key's store holds; one that would hold more than it may is refused unless it holds less than before.
    fn account(
        &self,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        change: impl FnOnce(&mut StoreUsage),
    ) -> Result<(), Refused> {
        let place = record::usage_key_of(key).ok_or_else(super::damaged)?;
        let before = super::usage(txn, self.table, &place)?;
        let mut usage = before;
        change(&mut usage);
        if usage.bytes > self.limit.bytes() && usage.bytes > before.bytes {
            return Err(Refused::Store(KvError::StoreFull {
                wanted: Size(usage.bytes),
                limit: self.limit,
            }));
        }
        if usage.keys == 0 {
            self.table.delete(txn, &place)?;
        } else {
            self.table.put(txn, &place, &record::usage_value(usage))?;
        }
        Ok(())
    }

    fn next_revision(&self, txn: &mut RwTxn<'_>) -> Result<KvRevision, Refused> {
        let last = match self.table.get(txn, record::REVISION)? {
            Some(bytes) => u64::from_le_bytes(bytes.try_into().map_err(|_| super::damaged())?),
            None => 0,
        };
        let next = last + 1;
        self.table.put(txn, record::REVISION, &next.to_le_bytes())?;
        Ok(next)
    }

    /// Clears away up to `most` values whose time is over; how many.
    pub fn expire(&self, txn: &mut RwTxn<'_>, most: u64) -> Result<u64, Refused> {
        let over = record::expiry_key(self.now_ms + 1, &[]);
        let mut gone = Vec::new();
        {
            let range = (
                std::ops::Bound::Included(&[record::EXPIRY][..]),
                std::ops::Bound::Excluded(over.as_slice()),
            );
            for entry in self.table.range(txn, &range)?.take(most as usize) {
                gone.push(entry?.0.to_vec());
            }
        }
        for expiry in &gone {
            let (expires_ms, key) = record::read_expiry_key(expiry).ok_or_else(super::damaged)?;
            match self.before(txn, key) {
                Ok(before) if before.exists && before.expires_ms == expires_ms => {
                    self.remove(txn, key, before)?;
                }
                // What it points to is of another time, or damaged: the pointer alone goes.
                Ok(_) | Err(Refused::Store(_)) => drop(self.table.delete(txn, expiry)?),
                Err(error) => return Err(error),
            }
        }
        Ok(gone.len() as u64)
    }

    /// Notes that an owner's stores are to be removed, so that a crash meanwhile leaves nothing of them.
    pub fn doom(&self, txn: &mut RwTxn<'_>, owner: &Owner) -> Result<(), Refused> {
        let doomed = record::owner_key(record::FORGET, owner);
        Ok(self.table.put(txn, &doomed, &[])?)
    }

    /// Removes up to `most` keys of the stores of an owner that is to be forgotten; whether nothing is left.
    pub fn forget(&self, txn: &mut RwTxn<'_>, doomed: &[u8], most: u64) -> Result<bool, Refused> {
        let mut left = most;
        for kind in [record::DATA, record::USAGE] {
            let mut begin = doomed.to_vec();
            begin[0] = kind;
            let keys = self.first(txn, &begin, left)?;
            left -= keys.len() as u64;
            for key in &keys {
                if kind == record::DATA {
                    let expires = match self.table.get(txn, key)? {
                        Some(bytes) => Record::expires_at(bytes),
                        None => 0,
                    };
                    self.reschedule(txn, key, expires, 0)?;
                }
                self.table.delete(txn, key)?;
            }
            if left == 0 {
                return Ok(false);
            }
        }
        self.table.delete(txn, doomed)?;
        Ok(true)
    }

    /// An owner that is to be forgotten, as [`Self::doom`] noted it.
    pub fn doomed(&self, txn: &RwTxn<'_>) -> Result<Option<Vec<u8>>, Refused> {
        Ok(self.first(txn, &[record::FORGET], 1)?.pop())
    }

    fn first(&self, txn: &RwTxn<'_>, begin: &[u8], most: u64) -> Result<Vec<Vec<u8>>, Refused> {
        let mut keys = Vec::new();
        for entry in self.table.prefix_iter(txn, begin)?.take(most as usize) {
            keys.push(entry?.0.to_vec());
        }
        Ok(keys)
    }
}

fn expect_before(expect: Expect, before: Before) -> Result<(), KvError> {
    let holds = match expect {
        Expect::Anything => true,
        Expect::Absent => before.revision.is_none(),
        Expect::Revision(revision) => before.revision == Some(revision),
    };
    holds.then_some(()).ok_or(KvError::Changed)
}
