//! Request bodies: whole, or in pieces that are counted as they leave.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use model::Size;

/// Small enough for a progress bar to move, large enough to cost nothing.
const PIECE: Size = Size::kib(64);

/// What a request carries.
pub enum Body {
    Whole(Full<Bytes>),
    Pieces(Upload),
}

/// Bytes on their way, and who is told how many have left.
pub struct Upload {
    whole: Bytes,
    sent: usize,
    on_sent: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Upload {
    pub fn new(bytes: Bytes, on_sent: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self {
            whole: bytes,
            sent: 0,
            on_sent: Arc::new(on_sent),
        }
    }

    /// The same upload from its beginning.
    pub fn again(&self) -> Self {
        Self {
            whole: self.whole.clone(),
            sent: 0,
            on_sent: self.on_sent.clone(),
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let end = self.whole.len().min(self.sent + PIECE.as_usize());
        let piece = self.whole.slice(self.sent..end);
        self.sent = end;
        (self.on_sent)(end as u64);
        Some(piece).filter(|piece| !piece.is_empty())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Pieces(upload) => Poll::Ready(upload.next().map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Pieces(upload) => upload.sent == upload.whole.len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Pieces(upload) => SizeHint::with_exact((upload.whole.len() - upload.sent) as u64),
        }
    }
}
