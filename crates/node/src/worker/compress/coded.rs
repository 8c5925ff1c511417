//! A guest's reply on its way out through an encoder: as it comes, no faster than it is taken, and no more at once than
//! others can wait for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use model::{Outcome, limits};
use runtime::{ReplyBody, Truncated};
use rustix::time::{ClockId, clock_gettime};

use super::Place;
use super::coder::Coder;
use crate::worker::exchange::Exchange;

const TURN: usize = limits::COMPRESS_TURN.default.as_usize();
/// Bytes that are handed on without waiting for more: pieces of a few bytes each would cost more than they hold.
const PIECE: usize = 8 << 10;

/// A reply that is compressed.
pub struct Coded {
    body: ReplyBody,
    /// None once all that there is has come out of it.
    coder: Option<Coder>,
    /// What the guest wrote and was not compressed yet.
    waiting: Bytes,
    /// Whether the client cannot read all that was compressed.
    held: bool,
    /// Bytes that were compressed since others had the core.
    run: usize,
    /// Bytes that the guest promised and has not written.
    missing: Option<u64>,
    /// Bytes that the guest wrote.
    taken: u64,
    end: End,
    exchange: Arc<Exchange>,
    _place: Place,
}

enum End {
    Open,
    /// The guest has ended it; these follow its last byte.
    Whole(Option<HeaderMap>),
    Cut(Truncated),
    Told,
}

impl Coded {
    /// `promised` is the length that the guest's own head says.
    pub fn new(
        body: ReplyBody,
        coder: Coder,
        promised: Option<u64>,
        exchange: Arc<Exchange>,
        place: Place,
    ) -> Self {
        Self {
            body,
            coder: Some(coder),
            waiting: Bytes::new(),
            held: false,
            run: 0,
            missing: promised,
            taken: 0,
            end: End::Open,
            exchange,
            _place: place,
        }
    }

    /// How many bytes the guest wrote, as far as they were taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    pub fn is_end_stream(&self) -> bool {
        self.coder.is_none() && matches!(self.end, End::Whole(None) | End::Told)
    }

    /// The next piece for the client. What the guest has flushed is in it, or in one that is ready.
    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        loop {
            if self
                .coder
                .as_ref()
                .is_some_and(|coder| coder.ready() >= PIECE)
            {
                return self.piece();
            }
            if !self.waiting.is_empty() {
                if self.run >= TURN {
                    self.run = 0;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let now = self.waiting.split_to(self.waiting.len().min(TURN));
                self.run += now.len();
                self.held = true;
                self.work(|coder| coder.write(&now));
                continue;
            }
            match &mut self.end {
                End::Open => match self.poll_body(context) {
                    Poll::Ready(()) => {}
                    Poll::Pending if self.held => {
                        self.flush();
                        return self.piece();
                    }
                    Poll::Pending => {
                        self.run = 0;
                        return Poll::Pending;
                    }
                },
                // What came in time is the client's to read.
                End::Cut(_) if self.held => {
                    self.flush();
                    return self.piece();
                }
                End::Cut(truncated) => {
                    let truncated = *truncated;
                    self.end = End::Told;
                    return Poll::Ready(Some(Err(truncated)));
                }
                End::Whole(trailers) => {
                    let trailers = trailers.take();
                    if let Some(coder) = self.coder.take() {
                        self.end = End::Whole(trailers);
                        if let Some(rest) = self.finish(coder) {
                            return Poll::Ready(Some(Ok(Frame::data(rest))));
                        }
                        continue;
                    }
                    self.end = End::Told;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                End::Told => return Poll::Ready(None),
            }
        }
    }

    /// Hands on what has come out of the encoder.
    fn piece(&mut self) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let ready = self.coder.as_mut().map(Coder::take).unwrap_or_default();
        Poll::Ready(Some(Ok(Frame::data(ready))))
    }

    /// Takes what the guest has to say next.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.take(data),
                Err(frame) => self.end = End::Whole(frame.into_trailers().ok()),
            },
            Some(Err(truncated)) => self.end = End::Cut(truncated),
            // As a reply that is not compressed: one that is shorter than it promised is not whole.
            None if self.missing.is_some_and(|missing| missing > 0) => {
                self.end = End::Cut(Truncated(Outcome::BadResponse));
            }
            None => self.end = End::Whole(None),
        }
        Poll::Ready(())
    }

    /// And no more than it promised.
    fn take(&mut self, mut data: Bytes) {
        if let Some(missing) = &mut self.missing {
            data.truncate(usize::try_from(*missing).unwrap_or(usize::MAX));
            *missing -= data.len() as u64;
            if *missing == 0 {
                self.end = End::Whole(None);
            }
        }
        self.taken += data.len() as u64;
        self.waiting = data;
    }

    fn flush(&mut self) {
        self.held = false;
        self.work(Coder::flush);
    }

    fn finish(&mut self, coder: Coder) -> Option<Bytes> {
        self.held = false;
        self.count(|| coder.finish())
    }

    fn work(&mut self, work: impl FnOnce(&mut Coder) -> io::Result<()>) {
        if let Some(mut coder) = self.coder.take() {
            // One that has failed is not asked again.
            self.coder = self.count(|| work(&mut coder).map(|()| coder));
        }
    }

    /// Does some of the encoder's work and charges it to the invocation. If it fails, the reply is cut.
    fn count<T>(&mut self, work: impl FnOnce() -> io::Result<T>) -> Option<T> {
        let before = cpu();
        let done = work();
        let used = cpu().saturating_sub(before);
        self.body.charge(used);
        self.exchange.compressed(used);
        match done {
            Ok(done) => Some(done),
            Err(_) => {
                self.waiting.clear();
                self.held = false;
                self.end = End::Cut(Truncated(Outcome::Internal));
                None
            }
        }
    }
}

/// This thread's CPU time.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
