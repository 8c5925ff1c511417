//! One invocation: a fresh store, limits armed, the guest called, the head sent at once, the body streamed.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use model::{Entry, LogStream, Outcome, Usage};

use crate::{Code, Engine, Slot};

/// Why a request body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the client went away")]
    ClientGone,
    #[error("the next piece of the request body did not arrive in time")]
    Timeout,
    #[error("the request body is not well framed")]
    Malformed,
}

/// A request's body; `None` where there is none.
pub type RequestBody =
    Option<Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>>;

/// What the platform knows of a request beyond its bytes.
#[derive(Debug, Clone)]
pub struct Facts {
    /// 26 characters, unique.
    pub request_id: String,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// Host and port as the client named them.
    pub authority: String,
    pub client: SocketAddr,
    /// The address the request came in by.
    pub server: SocketAddr,
}

/// Hears what becomes of one invocation.
pub trait Observer: Send + Sync + 'static {
    /// A whole line of the guest's output, bounded and escaped, without its line end; or a line of the platform's.
    fn line(&self, stream: LogStream, text: &str);
    /// Said once, after everything of the invocation was freed.
    fn ended(&self, ended: Ended);
}

/// How an invocation ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub outcome: Outcome,
    pub usage: Usage,
}

/// One event for one fresh instance.
pub struct Invocation {
    pub entry: Arc<Entry>,
    pub code: Arc<Code>,
    /// Origin-form target, one `host` header, hop-by-hop headers gone, `forwarded` and `x-forwarded-*` set by the platform.
    pub request: http::Request<RequestBody>,
    pub facts: Facts,
    pub observer: Arc<dyn Observer>,
    pub slot: Slot,
}

/// A reply's body as the guest writes it.
///
/// Dropping it before its end ends the invocation ([`Outcome::ClientGone`]).
pub struct ReplyBody {}

/// The guest failed after its head had left: the reply cannot be finished and its connection must be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply was cut short: {0}")]
pub struct Truncated(pub Outcome);

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Truncated;
    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        todo!()
    }
}

/// Runs one event through one fresh instance and answers as soon as the guest's head is there; the body follows.
///
/// Must be called within a `tokio::task::LocalSet`: the guest runs in a local task of its own. Dropping the future
/// ends the invocation. `Err` is an outcome without a head from the guest: the caller makes the reply.
pub async fn run(
    _engine: &Engine,
    _invocation: Invocation,
) -> Result<http::Response<ReplyBody>, Outcome> {
    todo!()
}
