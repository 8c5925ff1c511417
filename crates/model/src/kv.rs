//! Key-value stores: what is asked of one, and what it answers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::name::StoreName;
use crate::{Owner, Size, limits};

/// One store of one app. No other app has it, whatever it calls its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId {
    pub owner: Owner,
    pub store: StoreName,
}

/// Grows with every change of a node's stores; tells a value from the one before and the one after it.
pub type KvRevision = u64;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    #[serde(with = "raw")]
    pub value: Bytes,
    /// The change that wrote it.
    pub revision: KvRevision,
    /// When it ends, in milliseconds since 1970-01-01T00:00:00Z; none if it stays.
    pub expires_ms: Option<u64>,
}

/// What must hold for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    Anything,
    /// The key holds nothing.
    Absent,
    /// The key holds what this revision wrote.
    Revision(KvRevision),
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvChange {
    Set {
        key: String,
        #[serde(with = "raw")]
        value: Bytes,
        /// As of [`Item`].
        expires_ms: Option<u64>,
        expect: Expect,
    },
    Delete {
        key: String,
        expect: Expect,
    },
    /// Adds to a number, written in decimal digits; a key that holds nothing counts as 0. When it ends stays as it was.
    Increment {
        key: String,
        by: i64,
    },
}

impl KvChange {
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Delete { key, .. } | Self::Increment { key, .. } => key,
        }
    }

    /// The bytes that it brings along.
    pub fn bytes(&self) -> usize {
        let value = match self {
            Self::Set { value, .. } => value.len(),
            Self::Delete { .. } | Self::Increment { .. } => 0,
        };
        self.key().len() + value
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvDone {
    Set { revision: KvRevision },
    Deleted { existed: bool },
    Incremented { value: i64, revision: KvRevision },
}

/// Some of a store's keys, in the order of their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    pub keys: Vec<String>,
    /// Whether others follow the last one.
    pub more: bool,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreUsage {
    pub keys: u64,
    /// Of keys and values.
    pub bytes: u64,
}

/// Why a store did not do what was asked. Nothing was changed then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum KvError {
    #[error("a key may not be empty")]
    KeyEmpty,
    #[error("a key may have {}; this one has {}", limits::KV_KEY.default, .0)]
    KeyTooLong(Size),
    #[error("a value may have {}; this one has {}", limits::KV_VALUE.default, .0)]
    ValueTooLarge(Size),
    #[error("one change may have {}; this one has {}", limits::KV_BATCH.default, .0)]
    BatchTooLarge(Size),
    #[error("one change may be of {} keys; this one is of {}", limits::KV_BATCH_KEYS.default, .0)]
    TooManyKeys(u64),
    /// What was expected does not hold.
    #[error("the key holds something else by now")]
    Changed,
    #[error("the value is no whole number of 64 bits in decimal digits")]
    NotANumber,
    #[error("the sum is beyond 64 bits")]
    Overflow,
    #[error("the store would have {wanted}; it may have {limit}")]
    StoreFull { wanted: Size, limit: Size },
    #[error("the node has no room for it: {0}")]
    NodeFull(String),
    #[error("too many changes are under way; retry when some are done")]
    Busy,
    #[error("the node's stores failed: {0}")]
    Failed(String),
}

/// Bytes as bytes, where the form has such.
mod raw {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{self, Deserializer, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_byte_buf(Raw)
    }

    struct Raw;

    impl Visitor<'_> for Raw {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
    }
}
