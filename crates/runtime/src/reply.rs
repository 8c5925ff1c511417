//! A reply on its way out, and the hold that whoever takes it has on its guest.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use capabilities::http::{Incoming, OutgoingReader, Reply, Truncated};
use http_body::Frame;
use model::Outcome;
use tokio::task::JoinHandle;

use crate::reuse::Shared;
use crate::run::blame;
use crate::vitals::Vitals;

/// The hold on a guest: it ends with this unless released. None once it was.
pub struct Guest(Option<Hold>);

enum Hold {
    /// It has an instance of its own.
    Own(JoinHandle<Outcome>, Arc<Vitals>),
    /// Its instance has others as well.
    Shared(Shared),
}

impl Guest {
    pub fn own(task: JoinHandle<Outcome>, vitals: Arc<Vitals>) -> Self {
        Self(Some(Hold::Own(task, vitals)))
    }

    pub fn shared(shared: Shared) -> Self {
        Self(Some(Hold::Shared(shared)))
    }

    /// Lets the guest run on to its own end or limits.
    pub fn release(&mut self) {
        self.0 = None;
    }

    pub async fn ended(&mut self) -> Outcome {
        poll_fn(|context| self.poll_ended(context)).await
    }

    /// Resolves when a guest that shares its instance is through with its request, which may leave its answer open; one
    /// that has its own drops its answer.
    pub fn poll_cut(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(Hold::Shared(shared)) => shared.poll_ended(context).map(|_| ()),
            Some(Hold::Own(..)) | None => Poll::Pending,
        }
    }

    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.0 {
            Some(Hold::Own(task, _)) => Pin::new(task)
                .poll(context)
                .map(|ended| ended.unwrap_or(Outcome::Internal)),
            Some(Hold::Shared(shared)) => shared.poll_ended(context),
            None => Poll::Ready(Outcome::Ok),
        }
    }

    fn charge(&self, cpu: Duration) {
        match &self.0 {
            Some(Hold::Own(_, vitals)) => vitals.charge(cpu),
            Some(Hold::Shared(shared)) => shared.charge(cpu),
            None => {}
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        match &self.0 {
            Some(Hold::Own(task, _)) => task.abort(),
            Some(Hold::Shared(shared)) => shared.give_up(),
            None => {}
        }
    }
}

/// A reply's body as the guest writes it.
///
/// Dropping it before its end ends the invocation ([`Outcome::ClientGone`]); after its end the guest may go on within
/// its limits.
pub struct ReplyBody {
    reader: Option<OutgoingReader>,
    guest: Option<Guest>,
    /// Whether this reply is one that has a body on the wire (RFC 9110 §6.4.1).
    has_body: bool,
    /// The bytes that are still missing from a promised length.
    left: Option<u64>,
    /// The body of the request.
    incoming: Incoming,
}

impl ReplyBody {
    /// The reply that a guest answered with, to a request that was a HEAD or not.
    pub fn of(
        reply: Reply,
        to_head: bool,
        guest: Guest,
        incoming: Incoming,
    ) -> http::Response<Self> {
        let mut response = http::Response::new(());
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        let has_body = !to_head && !matches!(reply.status.as_u16(), 204 | 304);
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let left = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Self {
            reader: Some(reply.body.reader()),
            guest: Some(guest),
            has_body,
            left,
            incoming,
        };
        response.map(|()| body)
    }

    /// Whether this reply has a body on the wire.
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// Work on this body took so much CPU time: its guest has so much less, and fails with [`Outcome::CpuLimit`] when it
    /// has none left. One that has ended is not touched.
    pub fn charge(&self, cpu: Duration) {
        if let Some(guest) = &self.guest {
            guest.charge(cpu);
        }
    }

    /// Whether the guest promised a length and has ended its body without a byte of it.
    pub fn is_missing(&self) -> bool {
        self.has_body
            && self.left.is_some_and(|left| left > 0)
            && http_body::Body::is_end_stream(self)
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Truncated;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let this = self.get_mut();
        let Some(reader) = &mut this.reader else {
            return Poll::Ready(None);
        };
        // A reply that is cut because the request's body broke off is cut by the client.
        let cut = |Truncated(outcome)| Truncated(blame(outcome, this.incoming.failure()));
        if let Poll::Ready(frame) = Pin::new(&mut *reader).poll_frame(context) {
            if let (Some(left), Some(Ok(frame))) = (&mut this.left, &frame) {
                *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(cut)));
        }
        let Some(guest) = &mut this.guest else {
            return Poll::Pending;
        };
        let outcome = ready!(guest.poll_ended(context));
        this.guest = None;
        // The guest may have written its last words after the reader was asked.
        match Pin::new(reader).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(cut))),
            Poll::Pending => Poll::Ready(Some(Err(cut(Truncated(match outcome {
                Outcome::Ok => Outcome::BadResponse,
                outcome => outcome,
            }))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reader
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.reader
            .as_ref()
            .map_or_else(http_body::SizeHint::default, http_body::Body::size_hint)
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        if !self.has_body {
            reader.discard();
        } else if !(reader.is_done() || self.left == Some(0)) {
            return;
        }
        if let Some(guest) = &mut self.guest {
            guest.release();
        }
    }
}
