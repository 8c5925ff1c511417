//! How stores lie in the one database of a node.
//!
//! | first byte | rest of the key | value |
//! |---|---|---|
//! | 0 | a word | what the node keeps about itself |
//! | 1 | store, key | a [`Record`] |
//! | 2 | when it ends (8 bytes, big-endian), then a key of the first kind | nothing |
//! | 3 | store | keys and bytes of the store (8 bytes each, little-endian) |
//! | 4 | owner | nothing: its stores are being removed |
//!
//! A store is its owner, which is a tenant and an app, and its name, each preceded by its length: no name can be read as
//! part of another. The app is written as `NAME`, or `NAME/N` if N of its name were before it: no name has a `/`.

use model::{AppId, KvRevision, Owner, StoreId, StoreUsage};

pub const REVISION: &[u8] = b"\0revision";
pub const FORMAT: &[u8] = b"\0format";
/// What is written here is read by this release and those that know the same number.
pub const FORMAT_NUMBER: u32 = 1;

pub const DATA: u8 = 1;
pub const EXPIRY: u8 = 2;
pub const USAGE: u8 = 3;
pub const FORGET: u8 = 4;

/// Revision, end and checksum, before a value.
pub const HEADER_BYTES: usize = 20;

/// How every key of an owner's begins, after a first byte of `kind`.
pub fn owner_key(kind: u8, Owner { app, incarnation }: &Owner) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.push(kind);
    frame(&mut key, app.tenant.as_str());
    if *incarnation == 0 {
        frame(&mut key, app.app.as_str());
    } else {
        frame(&mut key, &format!("{}/{incarnation}", app.app));
    }
    key
}

/// The key of a store, or of what `rest` names within it.
pub fn store_key(kind: u8, store: &StoreId, rest: &str) -> Vec<u8> {
    let mut key = owner_key(kind, &store.owner);
    frame(&mut key, store.store.as_str());
    key.extend_from_slice(rest.as_bytes());
    key
}

fn frame(key: &mut Vec<u8>, name: &str) {
    key.push(u8::try_from(name.len()).expect("a name has at most 63 bytes, a number 10"));
    key.extend_from_slice(name.as_bytes());
}

/// The store's key that a key of kind [`DATA`] belongs to; none if it is no such key.
pub fn usage_key_of(data: &[u8]) -> Option<Vec<u8>> {
    let mut end = 1;
    for _ in 0..3 {
        end += 1 + usize::from(*data.get(end)?);
    }
    let mut key = data.get(..end)?.to_vec();
    key[0] = USAGE;
    Some(key)
}

/// The store that a key of kind [`USAGE`] is of.
pub fn read_store(key: &[u8]) -> Option<StoreId> {
    let mut rest = key.get(1..)?;
    let mut name = || {
        let (length, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        str::from_utf8(name).ok()
    };
    let (tenant, app, store) = (name()?, name()?, name()?);
    Some(StoreId {
        owner: read_owner(tenant, app)?,
        store: store.parse().ok()?,
    })
}

fn read_owner(tenant: &str, app: &str) -> Option<Owner> {
    let (app, incarnation) = match app.split_once('/') {
        Some((app, number)) => (app, number.parse().ok()?),
        None => (app, 0),
    };
    Some(Owner {
        app: AppId::new(tenant.parse().ok()?, app.parse().ok()?),
        incarnation,
    })
}

/// The length of how the keys of `data`'s store begin.
pub fn store_bytes(data: &[u8]) -> Option<usize> {
    usage_key_of(data).map(|key| key.len())
}

pub fn expiry_key(expires_ms: u64, data: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + data.len());
    key.push(EXPIRY);
    key.extend_from_slice(&expires_ms.to_be_bytes());
    key.extend_from_slice(data);
    key
}

/// When it ends, and whose key it is.
pub fn read_expiry_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (expires, data) = key.get(1..)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*expires), data))
}

/// A value as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub revision: KvRevision,
    /// 0: it stays.
    pub expires_ms: u64,
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    /// None if it is not what was written for `key`.
    pub fn read(key: &[u8], bytes: &'a [u8]) -> Option<Self> {
        let (revision, rest) = bytes.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (sum, value) = rest.split_first_chunk()?;
        let record = Self {
            revision: u64::from_le_bytes(*revision),
            expires_ms: u64::from_le_bytes(*expires),
            value,
        };
        (record.sum(key) == u32::from_le_bytes(*sum)).then_some(record)
    }

    pub fn header(&self, key: &[u8]) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&self.revision.to_le_bytes());
        header[8..16].copy_from_slice(&self.expires_ms.to_le_bytes());
        header[16..].copy_from_slice(&self.sum(key).to_le_bytes());
        header
    }

    /// The same of bytes that are not looked at further.
    pub fn is_over_at(bytes: &[u8], now_ms: u64) -> bool {
        let expires_ms = Self::expires_at(bytes);
        expires_ms != 0 && expires_ms <= now_ms
    }

    /// When what lies in `bytes` ends; 0 if it stays.
    pub fn expires_at(bytes: &[u8]) -> u64 {
        let expires = bytes.get(8..16).and_then(|expires| expires.try_into().ok());
        expires.map_or(0, u64::from_le_bytes)
    }

    pub fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms != 0 && self.expires_ms <= now_ms
    }

    fn sum(&self, key: &[u8]) -> u32 {
        let sum = crc32c::crc32c(key);
        let sum = crc32c::crc32c_append(sum, &self.revision.to_le_bytes());
        let sum = crc32c::crc32c_append(sum, &self.expires_ms.to_le_bytes());
        crc32c::crc32c_append(sum, self.value)
    }
}

pub fn usage_value(usage: StoreUsage) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&usage.keys.to_le_bytes());
    value[8..].copy_from_slice(&usage.bytes.to_le_bytes());
    value
}

pub fn read_usage(value: &[u8]) -> Option<StoreUsage> {
    let (keys, bytes) = value.split_first_chunk()?;
    Some(StoreUsage {
        keys: u64::from_le_bytes(*keys),
        bytes: u64::from_le_bytes(bytes.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::contract::{store, store_of};

    #[test]
    fn no_name_is_read_as_part_of_another() {
        let keys = [
            store_key(DATA, &store("a/b", "c"), "d"),
            store_key(DATA, &store("a/bc", "d"), ""),
            store_key(DATA, &store("ab/c", "d"), ""),
            store_key(DATA, &store("a/b", "cd"), ""),
            store_key(DATA, &store("a/b", "c"), "\u{1}d"),
            store_key(DATA, &store_of("a/b", 1, "c"), "d"),
            store_key(DATA, &store_of("a/b", 12, "c"), "d"),
            store_key(DATA, &store_of("a/b", 1, "2c"), "d"),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|other| other != key));
        }
        let usage = usage_key_of(&keys[0]).unwrap();
        assert_eq!(usage, store_key(USAGE, &store("a/b", "c"), ""));
        assert_eq!(read_store(&usage), Some(store("a/b", "c")));
        assert_eq!(read_store(&usage[..usage.len() - 1]), None);
        let last = store_of("a/b", u32::MAX, "c");
        assert_eq!(read_store(&store_key(USAGE, &last, "")), Some(last));
        let owner = owner_key(DATA, &store("a/b", "c").owner);
        let begins = keys.iter().map(|key| key.starts_with(&owner));
        assert_eq!(begins.filter(|begins| *begins).count(), 3);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_under_its_own_key_alone() {
        let record = Record {
            revision: 7,
            expires_ms: 9,
            value: b"value",
        };
        let mut bytes = record.header(b"key").to_vec();
        bytes.extend_from_slice(record.value);
        assert_eq!(Record::read(b"key", &bytes), Some(record));
        assert_eq!(Record::read(b"other", &bytes), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::read(b"key", &flipped), None, "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert_eq!(Record::read(b"key", &bytes[..end]), None);
        }
        assert!(record.is_over(9) && !record.is_over(8));
    }

    #[test]
    fn an_expiry_says_when_and_whose() {
        let key = expiry_key(5, b"\x01data");
        assert_eq!(read_expiry_key(&key), Some((5, &b"\x01data"[..])));
        assert!(expiry_key(5, b"z") < expiry_key(6, b"a"));
        assert_eq!(read_expiry_key(b"\x02short"), None);
    }
}
