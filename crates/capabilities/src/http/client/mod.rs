//! Requests that guests send: what a guest asks for, what becomes of it, and who takes it there.
//!
//! An invocation sends through its [`Outbound`], which holds it to its grants and its bounds. Behind that is a [`Client`]:
//! the [`Network`], or a worker, which keeps the apps of its tenant from leaving the process.

mod address;
mod dial;
mod download;
mod network;
mod outbound;
mod pool;
mod resolve;

pub use address::Reach;
pub use dial::{RootsError, trusted};
pub use network::Network;
pub use outbound::{Asked, Outbound, Permitted, Received, Sender, Waits};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use model::pipe::SentMetrics;
use model::{Destination, DestinationError, Entry, Size, limits};

use super::{OutgoingReader, RequestBody};

/// Says how often a request has gone through the platform (RFC 8586).
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// A request on its way out. Its head says nothing that frames a message or belongs to one connection.
pub struct Call {
    /// Whose it is.
    pub caller: Arc<Entry>,
    pub to: Destination,
    pub method: Method,
    /// Path and query.
    pub target: http::uri::PathAndQuery,
    pub headers: HeaderMap,
    /// None where it has none.
    pub body: Option<OutgoingReader>,
    pub waits: Waits,
    /// How often what caused it has gone through the platform, this time included.
    pub hops: u64,
}

/// Takes requests where they go.
#[async_trait]
pub trait Client: Send + Sync + 'static {
    /// Sends a request and waits for the head of the reply. Must be polled within a `tokio::task::LocalSet`. Dropping the
    /// future, or the body of the reply, ends the request and closes what only it used.
    async fn send(&self, call: Call) -> Result<http::Response<RequestBody>, SendError>;

    /// Where what became of requests is counted.
    fn counts(&self) -> &Counts;
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the scheme is neither `http` nor `https`")]
    Scheme,
    #[error("the authority cannot be used: {0}")]
    Destination(#[from] DestinationError),
    #[error("the method `{0}` is not one for a request to elsewhere")]
    Method(Method),
    #[error("the path or the `content-length` of the request is malformed")]
    Malformed,
    #[error("no grant covers it; add `http = [\"{0}\"]` below `[grant]` in midge.toml")]
    NotGranted(String),
    #[error(
        "an invocation may send {} requests (`{}`)",
        limits::SUBREQUESTS.default,
        limits::SUBREQUESTS.name
    )]
    TooMany,
    #[error(
        "{} requests of this invocation are under way, and none ended in time; read their replies to the end, or drop them",
        limits::SUBREQUESTS_AT_ONCE.default
    )]
    Busy,
    #[error("the platform has no app of that name for this tenant")]
    NoApp,
    #[error("the name has no address")]
    NoAddress,
    #[error("the name could not be looked up: {0}")]
    LookUp(String),
    #[error("the name could not be looked up in time")]
    LookUpTimeout,
    #[error(
        "the host is an address that guests do not reach: one that is private, reserved, this machine's or denied by the operator"
    )]
    Unreachable,
    #[error("the connection was refused")]
    Refused,
    #[error("it cannot be connected: {0}")]
    Connect(String),
    #[error("it could not be connected in time")]
    ConnectTimeout,
    #[error("the server's certificate is not good for this host: {0}")]
    Certificate(String),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("the head of the reply did not come in time")]
    HeadTimeout,
    #[error("the head of the reply is too large")]
    HeadTooLarge,
    #[error("the server broke a rule of HTTP: {0}")]
    Protocol(String),
    #[error("the connection ended before the reply came")]
    Gone,
    #[error("the guest did not finish the request's body")]
    BodyUnfinished,
    #[error("the reply's body is announced with more than {}", limits::SUBREQUEST_REPLY.default)]
    ReplyTooLarge(Size),
    #[error(
        "the host would hold more than {} of headers and bodies for this invocation; drop what is no longer needed",
        limits::HOST_MEMORY.default
    )]
    Memory,
    #[error("the platform failed: {0}")]
    Platform(String),
}

impl SendError {
    /// Whether the platform did not send it, for what the guest asked.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Scheme
            | Self::Destination(_)
            | Self::Method(_)
            | Self::Malformed
            | Self::NotGranted(_)
            | Self::TooMany
            | Self::Busy
            | Self::NoApp
            | Self::Memory
            | Self::Unreachable => true,
            Self::NoAddress
            | Self::LookUp(_)
            | Self::LookUpTimeout
            | Self::Refused
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Certificate(_)
            | Self::Tls(_)
            | Self::HeadTimeout
            | Self::HeadTooLarge
            | Self::Protocol(_)
            | Self::Gone
            | Self::BodyUnfinished
            | Self::ReplyTooLarge(_)
            | Self::Platform(_) => false,
        }
    }
}

/// What became of a worker's requests. One thread counts.
#[derive(Debug, Default)]
pub struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    opened: AtomicU64,
    reused: AtomicU64,
}

impl Counts {
    fn count<T>(&self, sent: &Result<T, SendError>) {
        let count = match sent {
            Ok(_) => &self.answered,
            Err(error) if error.is_refusal() => &self.refused,
            Err(_) => &self.failed,
        };
        count.fetch_add(1, Relaxed);
    }

    /// One was refused before it was tried.
    fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// As they are now, beside so many connections that wait.
    pub fn metrics(&self, idle: u64) -> SentMetrics {
        SentMetrics {
            answered: self.answered.load(Relaxed),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            opened: self.opened.load(Relaxed),
            reused: self.reused.load(Relaxed),
            idle,
        }
    }
}

/// Our own entry of `cdn-loop` for a request that has gone through the platform so often.
pub fn loop_entry(hops: u64) -> HeaderValue {
    let entry = format!("midge; hops={hops}");
    HeaderValue::from_str(&entry).expect("it is ASCII")
}

/// How often a request with these headers has gone through the platform, by its `cdn-loop`. What others say there does not
/// count, and who lies makes it end sooner.
pub fn hops(headers: &HeaderMap) -> u64 {
    let values = headers.get_all(CDN_LOOP).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let entries = texts.flat_map(|text| text.split(','));
    let ours = entries.filter_map(|entry| {
        let (id, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        (id.trim() == "midge").then(|| {
            let hops = parameters.trim().strip_prefix("hops=");
            hops.and_then(|hops| hops.parse().ok()).unwrap_or(1)
        })
    });
    ours.fold(0, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_entries_of_the_loop_header_count() {
        let check = |values: &[&str], expected: u64| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CDN_LOOP, value.parse().unwrap());
            }
            assert_eq!(hops(&headers), expected, "{values:?}");
        };
        check(&[], 0);
        check(&["other; hops=9"], 0);
        check(&["midge"], 1);
        check(&["midge; hops=3"], 3);
        check(&["other, midge; hops=2", "midge;hops=5"], 5);
        check(&["midge; hops=-1"], 1);
        check(&["midge; hops=99999999999999999999"], 1);
        check(&["midgex; hops=4"], 0);
        assert_eq!(loop_entry(4), "midge; hops=4");
    }
}
