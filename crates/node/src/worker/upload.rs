//! A request's body on its way to the guest, with a deadline on each piece that the client owes.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use capabilities::http::{Overdue, Patience};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use model::limits;
use runtime::{BodyError, RequestBody};

use super::gate;

/// The body as the runtime takes it.
pub fn body(incoming: Incoming) -> RequestBody {
    if incoming.is_end_stream() {
        return None;
    }
    Some(Box::pin(Upload {
        incoming,
        patience: Patience::new(limits::BODY_WAIT.default.duration()),
    }))
}

struct Upload {
    incoming: Incoming,
    patience: Patience,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.incoming).poll_frame(context);
        let frame = ready!(this.patience.poll(context, polled));
        Poll::Ready(match frame {
            Ok(frame) => frame.map(|frame| frame.map_err(|e| judge(&e)).and_then(clean)),
            Err(Overdue) => Some(Err(BodyError::Timeout)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Trailers that would change what the head has said are not handed on. Over HTTP/2 nobody else has counted them.
fn clean(mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
    if let Some(trailers) = frame.trailers_mut() {
        if trailers.len() as u64 > limits::REQUEST_FIELDS.default {
            return Err(BodyError::Malformed);
        }
        gate::clean_trailers(trailers);
    }
    Ok(frame)
}

fn judge(error: &hyper::Error) -> BodyError {
    let cause = error.source();
    // Over HTTP/2: what we refused to read, such as more than was announced, or what the client took back.
    if let Some(error) = cause.and_then(|cause| cause.downcast_ref::<h2::Error>()) {
        return if error.is_library() {
            BodyError::Malformed
        } else {
            BodyError::Gone
        };
    }
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => BodyError::Malformed,
        _ => BodyError::Gone,
    }
}
