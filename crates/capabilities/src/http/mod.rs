//! HTTP as guests speak it: requests in and replies out, and requests of their own.

mod body;
pub mod client;
mod fields;
mod held;
pub mod host;
mod patience;

pub use body::{
    BodyError, Closed, Incoming, Outgoing, OutgoingReader, ReceivedBody, RequestBody, Truncated,
    WITHOUT_ASKING, WriteError,
};
pub use fields::{FieldError, Fields, is_forbidden};
pub use held::{Held, HostMemory, HostMemoryLimit};
pub use patience::{Overdue, Patience};

use http::{HeaderMap, StatusCode};

/// A reply's head, and the body that its guest goes on writing.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Outgoing,
}

/// What a guest answered: a reply, or the word that it could not make one.
pub type Answer = Result<Reply, GaveUp>;

/// The guest answered with an error instead of a reply; the text is for its owner's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest answered with the error {0}")]
pub struct GaveUp(pub String);
