//! The settings of each worker.

use model::{Host, Size, limits};
use serde::Deserialize;

use super::limited;
use crate::failure::Failure;

/// `[node]` of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    slots: Option<u64>,
    tenant_slots: Option<u64>,
    kv_store: Option<Size>,
    resident_apps: Option<u64>,
    connections: Option<u64>,
    trust_forwarded: Option<bool>,
    proxy_protocol: Option<bool>,
    default_host: Option<Host>,
    pin: Option<bool>,
}

/// The settings of each worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub slots: u64,
    pub tenant_slots: u64,
    /// What one key-value store may hold.
    pub kv_store: Size,
    pub resident_apps: u64,
    pub connections: u64,
    /// Whether `forwarded` and `x-forwarded-*` of a request are believed.
    pub trust_forwarded: bool,
    /// Whether every connection begins with what a proxy says of its client.
    pub proxy_protocol: bool,
    /// Whose apps answer requests for hosts that no app has.
    pub default_host: Option<Host>,
    /// Whether each worker stays on a core of its own.
    pub pin: bool,
}

impl File {
    /// The defaults, but that this host's app answers for every other.
    pub fn answering_as(host: Host) -> Self {
        Self {
            default_host: Some(host),
            ..Self::default()
        }
    }
}

impl Node {
    /// What the file comes to.
    pub fn of(file: File) -> Result<Self, Failure> {
        Ok(Self {
            slots: limited(&limits::SLOTS, file.slots)?,
            tenant_slots: limited(&limits::TENANT_SLOTS, file.tenant_slots)?,
            kv_store: limited(&limits::KV_STORE, file.kv_store)?,
            resident_apps: limited(&limits::RESIDENT, file.resident_apps)?,
            connections: limited(&limits::CONNECTIONS, file.connections)?,
            trust_forwarded: file.trust_forwarded.unwrap_or(false),
            proxy_protocol: file.proxy_protocol.unwrap_or(false),
            default_host: file.default_host,
            pin: file.pin.unwrap_or(false),
        })
    }
}
