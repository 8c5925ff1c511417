//! What a running platform and the one that takes its place say to each other, and to who asked for it.
//!
//! The two are of different builds: a field or message may be added, none may change or go while [`FORM`] is the same.
//! Framing and descriptors are the pipe's matter (`node`).

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ticket::TicketKeys;

/// The form of this conversation. A platform refuses a successor that does not know its form.
pub const FORM: u32 = 1;

/// What a running platform tells its successor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToSuccessor {
    /// First of all; carries one descriptor: the control API's listening socket.
    Offer(Box<Offer>),
    /// For each worker slot in order; carries its listening sockets, one for each address.
    Sockets,
    /// The records are closed and nothing in the data folder is written any more but logs. Carries one descriptor: the
    /// lock of the data folder.
    Take,
    /// Said while it leaves: no connection of it takes another request. When it is gone, the pipe ends.
    Settled,
}

/// What there is to take over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    pub form: u32,
    /// The running platform's version.
    pub version: String,
    pub data: PathBuf,
    /// The addresses that the configuration named, where port 0 stands for any.
    pub asked_listen: Vec<SocketAddr>,
    pub asked_api: SocketAddr,
    /// The same, of those that speak TLS.
    #[serde(default)]
    pub asked_tls: Vec<SocketAddr>,
    /// The addresses that are listened on; as many as [`Self::asked_tls`] has speak TLS, the last ones.
    pub listen: Vec<SocketAddr>,
    pub api: SocketAddr,
    pub workers: u32,
    /// What sessions were resumed with so far.
    #[serde(default)]
    pub ticket_keys: Option<TicketKeys>,
}

/// What a successor tells the running platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToPredecessor {
    /// It could take over. Nothing has changed yet.
    Fits { version: String },
    /// How far it has come.
    Progress(String),
    /// It serves: the running platform may leave.
    Serving { pid: u32 },
    /// It cannot. Nothing of it is left running.
    Failed { why: String },
}

/// What `midge upgrade` asks of a running platform, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The program to take its place: an absolute path.
    pub program: PathBuf,
}

/// What it is told, a line of JSON each; the last is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeWord {
    Progress(String),
    Done(Upgraded),
    /// The running platform goes on as before.
    Failed(String),
}

/// How an upgrade went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The versions of the platform that leaves and of the one that took its place.
    pub from: String,
    pub to: String,
    /// The process that serves now.
    pub pid: u32,
    /// How long the control API did not answer, in milliseconds. Apps answered all the while.
    pub api_pause_ms: u64,
}
