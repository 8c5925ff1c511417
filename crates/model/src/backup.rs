//! What a backup says of itself: the first file of its archive.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The list of everything in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupManifest {
    /// [`BackupManifest::FORMAT`] of the midge that made it.
    pub format: u32,
    /// The version of that midge.
    pub midge: String,
    /// The schema of its records.
    pub schema: u32,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: u64,
    /// Every other file, in the archive's order.
    pub files: Vec<BackupFile>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupFile {
    pub path: String,
    pub bytes: u64,
    pub digest: Digest,
}

impl BackupManifest {
    /// Grows when an older midge could not restore what a newer one wrote.
    pub const FORMAT: u32 = 3;
    /// The format from which on the key that seals secrets is in it.
    pub const SEALED: u32 = 2;
    /// What this list is called in the archive.
    pub const FILE: &str = "midge-backup.json";
}
