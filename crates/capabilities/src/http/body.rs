//! Bodies on their way between a connection and a guest, with backpressure in both directions.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use model::{Outcome, limits};

use super::{Held, HostMemory, HostMemoryLimit};

/// The most body bytes that wait between guest and connection, in either direction.
const CHUNK: usize = limits::BODY_CHUNK.default.as_usize();

/// Why a body that is received ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the other side went away")]
    Gone,
    #[error("the next piece of the body did not arrive in time")]
    Timeout,
    #[error("the body is not well framed")]
    Malformed,
    #[error("the body is longer than one may be")]
    TooLarge,
}

/// A body that is received; `None` where there is none.
pub type RequestBody = Option<ReceivedBody>;

/// The same, where there is one.
pub type ReceivedBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>;

/// A request body as a guest reads it. Clones read the same body.
#[derive(Clone)]
pub struct Incoming(Arc<Mutex<IncomingState>>);

struct IncomingState {
    body: RequestBody,
    chunk: Bytes,
    trailers: Option<HeaderMap>,
    failed: Option<BodyError>,
    handed_out: u64,
}

impl Incoming {
    pub fn new(body: RequestBody) -> Self {
        Self(Arc::new(Mutex::new(IncomingState {
            body,
            chunk: Bytes::new(),
            trailers: None,
            failed: None,
            handed_out: 0,
        })))
    }

    /// Whether there is nothing to read, and never was.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.body.is_none() && state.chunk.is_empty() && state.failed.is_none()
    }

    /// Resolves when [`Self::read`] has something to say: bytes, the end or an error.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        while state.chunk.is_empty() {
            let Some(body) = state.body.as_mut() else {
                return Poll::Ready(());
            };
            match body.as_mut().poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => state.chunk = data,
                    Err(frame) => state.trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(Some(Err(error))) => {
                    state.failed = Some(error);
                    state.body = None;
                }
                Poll::Ready(None) => state.body = None,
            }
        }
        Poll::Ready(())
    }

    /// Up to `most` bytes that are there; none if none are there yet.
    ///
    /// # Errors
    /// `Ok(None)` is the body's end.
    pub fn read(&self, most: usize) -> Result<Option<Bytes>, BodyError> {
        let mut state = self.lock();
        if state.chunk.is_empty() {
            return match (state.failed, &state.body) {
                (Some(error), _) => Err(error),
                (None, None) => Ok(None),
                (None, Some(_)) => Ok(Some(Bytes::new())),
            };
        }
        let length = state.chunk.len().min(most).min(CHUNK);
        state.handed_out += length as u64;
        Ok(Some(state.chunk.split_to(length)))
    }

    /// Reads on to the end, throwing the bytes away, for the trailers behind them.
    pub fn poll_end(&self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            self.lock().chunk.clear();
            if self.poll_ready(context).is_pending() {
                return Poll::Pending;
            }
            if self.lock().chunk.is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// The trailers, once the end was reached.
    pub fn trailers(&self) -> Result<Option<HeaderMap>, BodyError> {
        let mut state = self.lock();
        match state.failed {
            Some(error) => Err(error),
            None => Ok(state.trailers.take()),
        }
    }

    /// Why the body ended before its end, if the guest met that.
    pub fn failure(&self) -> Option<BodyError> {
        self.lock().failed
    }

    /// How many bytes the guest was handed.
    pub fn handed_out(&self) -> u64 {
        self.lock().handed_out
    }

    fn lock(&self) -> MutexGuard<'_, IncomingState> {
        self.0.lock().expect("nothing panics while it holds a body")
    }
}

/// A reply body as a guest writes it. Clones write the same body.
#[derive(Clone)]
pub struct Outgoing(Arc<Mutex<OutgoingState>>);

struct OutgoingState {
    chunks: VecDeque<Bytes>,
    waiting: usize,
    written: u64,
    end: End,
    reader_gone: bool,
    failed: bool,
    /// The reader went before it had taken all bytes.
    lost: bool,
    discarding: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Who waits for [`Outgoing::poll_taken`] or [`Outgoing::poll_left`]: the guest, and who has it run.
    onlookers: [Option<Waker>; 2],
    /// Counted for its guest as long as there is a body.
    _memory: Option<Held>,
}

impl OutgoingState {
    fn tell_onlookers(&mut self) {
        for onlooker in &mut self.onlookers {
            wake(onlooker.take());
        }
    }

    /// Has this waker woken when a reader or an end changes what onlookers wait for.
    fn look_on(&mut self, waker: &Waker) {
        let known =
            |slot: &&mut Option<Waker>| slot.as_ref().is_none_or(|own| own.will_wake(waker));
        match self.onlookers.iter_mut().find(known) {
            Some(slot) => *slot = Some(waker.clone()),
            // One of the others waits no longer; both look again.
            None => {
                self.tell_onlookers();
                self.onlookers[0] = Some(waker.clone());
            }
        }
    }

    /// What waits, with what it costs to hold it: a guest may write byte by byte.
    fn held(&self) -> usize {
        self.waiting + self.chunks.len() * 64
    }
}

enum End {
    Open,
    Finished(Option<HeaderMap>),
    Failed(Outcome),
    Told,
}

/// The body cannot take more: it has ended, or nobody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// Why bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// See [`Closed`].
    #[error("the body has ended, or nobody reads it")]
    Closed,
    /// The writer has not asked for [`Outgoing::room`].
    #[error("the guest wrote more than `check-write` permitted")]
    NoRoom,
}

/// What a body may hold of a guest that writes twice after it has asked once.
pub const WITHOUT_ASKING: usize = 2 * CHUNK;

/// What a body counts as: its bytes, and its trailers.
const COST: usize = WITHOUT_ASKING + limits::HEADER_BYTES.default.as_usize();

impl Outgoing {
    pub fn new() -> Self {
        Self::made(None)
    }

    /// A body whose guest may have many of them.
    pub fn held(memory: &HostMemory) -> Result<Self, HostMemoryLimit> {
        Ok(Self::made(Some(memory.hold(COST)?)))
    }

    fn made(memory: Option<Held>) -> Self {
        Self(Arc::new(Mutex::new(OutgoingState {
            chunks: VecDeque::new(),
            waiting: 0,
            written: 0,
            end: End::Open,
            reader_gone: false,
            failed: false,
            lost: false,
            discarding: false,
            reader: None,
            writer: None,
            onlookers: [None, None],
            _memory: memory,
        })))
    }

    /// A body that has ended already.
    pub fn empty() -> Self {
        let body = Self::new();
        body.finish(None);
        body
    }

    /// How many bytes may be written now; 0 while the reader lags.
    pub fn room(&self) -> Result<usize, Closed> {
        let state = self.lock();
        match state.end {
            End::Open if !state.reader_gone => Ok(CHUNK.saturating_sub(state.held())),
            _ => Err(Closed),
        }
    }

    /// Resolves when there is room, or the body is closed.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.held() < CHUNK || state.reader_gone || !matches!(state.end, End::Open) {
            return Poll::Ready(());
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Takes bytes for the reader. The caller has asked for [`Self::room`].
    pub fn write(&self, bytes: Bytes) -> Result<(), WriteError> {
        let mut state = self.lock();
        if state.reader_gone || !matches!(state.end, End::Open) {
            return Err(WriteError::Closed);
        }
        if state.held() + bytes.len() > WITHOUT_ASKING {
            return Err(WriteError::NoRoom);
        }
        state.written += bytes.len() as u64;
        if !bytes.is_empty() && !state.discarding {
            state.waiting += bytes.len();
            state.chunks.push_back(bytes);
            wake(state.reader.take());
        }
        Ok(())
    }

    /// Ends the body well.
    pub fn finish(&self, trailers: Option<HeaderMap>) {
        self.end(End::Finished(trailers));
    }

    /// Ends the body badly, unless it has ended: its reader must not believe that it is whole.
    pub fn fail(&self, outcome: Outcome) {
        self.end(End::Failed(outcome));
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if matches!(state.end, End::Open) {
            state.failed = matches!(end, End::Failed(_));
            state.end = end;
            wake(state.reader.take());
            wake(state.writer.take());
            if state.failed || state.discarding {
                state.tell_onlookers();
            }
        }
    }

    /// Resolves when nothing more of the body will be taken: whether nothing that was written is missing.
    pub fn poll_taken(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        let discarded = state.discarding && !matches!(state.end, End::Open);
        if matches!(state.end, End::Told) || state.failed || state.reader_gone || discarded {
            return Poll::Ready(!(state.failed || state.lost));
        }
        state.look_on(context.waker());
        Poll::Pending
    }

    /// Resolves when nobody reads the body any more: it was read to its end, it has failed, or its reader has gone.
    pub fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let gone = state.reader_gone || state.discarding;
        if matches!(state.end, End::Told) || state.failed || gone {
            return Poll::Ready(());
        }
        state.look_on(context.waker());
        Poll::Pending
    }

    /// Whether the guest has ended the body, well or not.
    pub fn has_ended(&self) -> bool {
        !matches!(self.lock().end, End::Open)
    }

    /// Whether the guest has ended the body well.
    pub fn is_finished(&self) -> bool {
        let state = self.lock();
        !state.failed && matches!(state.end, End::Finished(_) | End::Told)
    }

    /// How many bytes the guest has written.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// The one who takes the body to the client.
    pub fn reader(&self) -> OutgoingReader {
        OutgoingReader(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, OutgoingState> {
        self.0.lock().expect("nothing panics while it holds a body")
    }
}

impl Default for Outgoing {
    fn default() -> Self {
        Self::new()
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The guest failed after its head had left: the reply cannot be finished and its connection must be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply was cut short: {0}")]
pub struct Truncated(pub Outcome);

/// Takes a reply body from its guest to the client. When it is dropped, the guest's writes fail.
pub struct OutgoingReader(Outgoing);

impl OutgoingReader {
    /// Whether the guest ended the body well and everything was taken.
    pub fn is_done(&self) -> bool {
        let state = self.0.lock();
        state.chunks.is_empty() && matches!(state.end, End::Finished(None) | End::Told)
    }

    /// Lets the guest go on writing to nobody, for a reply whose body is not sent (RFC 9110 §9.3.2).
    pub fn discard(self) {
        self.0.lock().discarding = true;
    }

    /// The body's whole length, if the guest has ended it already.
    fn rest(&self) -> Option<u64> {
        let state = self.0.lock();
        match state.end {
            End::Finished(None) | End::Told => Some(state.waiting as u64),
            _ => None,
        }
    }
}

impl http_body::Body for OutgoingReader {
    type Data = Bytes;
    type Error = Truncated;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let mut state = self.0.lock();
        if let Some(chunk) = state.chunks.pop_front() {
            state.waiting -= chunk.len();
            wake(state.writer.take());
            // The last chunk and the end are told at once, so that the reader need not ask again.
            if state.chunks.is_empty() && matches!(state.end, End::Finished(None)) {
                state.end = End::Told;
                state.tell_onlookers();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match std::mem::replace(&mut state.end, End::Told) {
            End::Open => {
                state.end = End::Open;
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
            End::Finished(trailers) => {
                state.tell_onlookers();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            End::Told => Poll::Ready(None),
            End::Failed(outcome) => Poll::Ready(Some(Err(Truncated(outcome)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest() == Some(0)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.rest().map_or_else(
            http_body::SizeHint::default,
            http_body::SizeHint::with_exact,
        )
    }
}

impl Drop for OutgoingReader {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.reader_gone = !state.discarding;
        state.lost = state.reader_gone && !state.chunks.is_empty();
        state.chunks.clear();
        state.waiting = 0;
        wake(state.writer.take());
        state.tell_onlookers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    fn noop() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[tokio::test]
    async fn a_finished_body_knows_its_length_and_arrives_whole() {
        let body = Outgoing::new();
        let reader = body.reader();
        body.write("hello ".into()).unwrap();
        assert_eq!(reader.size_hint().exact(), None);
        body.write("world".into()).unwrap();
        body.finish(None);
        assert_eq!(reader.size_hint().exact(), Some(11));
        assert_eq!(reader.collect().await.unwrap().to_bytes(), "hello world");
    }

    #[tokio::test]
    async fn trailers_follow_the_last_byte() {
        let body = Outgoing::new();
        body.write("x".into()).unwrap();
        body.finish(Some(HeaderMap::from_iter([(
            http::header::ETAG,
            "1".parse().unwrap(),
        )])));
        let whole = body.reader().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["etag"], "1");
    }

    #[tokio::test]
    async fn a_body_that_failed_is_never_taken_for_whole() {
        let body = Outgoing::new();
        let mut reader = body.reader();
        body.write("x".into()).unwrap();
        body.fail(Outcome::Trap);
        body.finish(None);
        assert!(reader.frame().await.unwrap().is_ok());
        assert_eq!(
            reader.frame().await.unwrap().unwrap_err(),
            Truncated(Outcome::Trap)
        );
    }

    #[test]
    fn a_writer_waits_while_its_reader_lags_and_fails_when_it_is_gone() {
        let body = Outgoing::new();
        let reader = body.reader();
        body.write(vec![0; CHUNK].into()).unwrap();
        assert_eq!(body.room(), Ok(0));
        assert!(body.poll_room(&mut noop()).is_pending());
        drop(reader);
        assert!(body.poll_room(&mut noop()).is_ready());
        assert_eq!(body.room(), Err(Closed));
        assert_eq!(body.write("x".into()), Err(WriteError::Closed));
    }

    #[test]
    fn a_writer_that_does_not_ask_is_refused_before_much_is_held() {
        let body = Outgoing::new();
        let _reader = body.reader();
        let written = (0..).take_while(|_| body.write(vec![0; 1000].into()).is_ok());
        let held = 1064 * written.count();
        assert!((CHUNK..=WITHOUT_ASKING).contains(&held), "{held}");
        assert_eq!(body.write(vec![0; 4 << 20].into()), Err(WriteError::NoRoom));
    }

    #[tokio::test]
    async fn who_looks_on_hears_whether_anything_is_missing() {
        let looks = |body: &Outgoing| body.poll_taken(&mut noop());
        let body = Outgoing::new();
        let mut reader = body.reader();
        body.write("x".into()).unwrap();
        body.finish(None);
        assert_eq!(looks(&body), Poll::Pending);
        assert!(reader.frame().await.unwrap().is_ok());
        assert_eq!(looks(&body), Poll::Ready(true));

        let body = Outgoing::new();
        let reader = body.reader();
        body.write("x".into()).unwrap();
        drop(reader);
        assert_eq!(looks(&body), Poll::Ready(false));

        let body = Outgoing::new();
        body.fail(Outcome::Trap);
        assert_eq!(looks(&body), Poll::Ready(false));
        assert!(!body.is_finished());
    }

    #[tokio::test]
    async fn who_looks_on_hears_that_nobody_reads_any_more() {
        let left = |body: &Outgoing| body.poll_left(&mut noop()).is_ready();
        for discards in [true, false] {
            let body = Outgoing::new();
            let reader = body.reader();
            body.write("x".into()).unwrap();
            assert!(!left(&body));
            match discards {
                true => reader.discard(),
                false => drop(reader),
            }
            // Whether it has ended is another question.
            assert!(left(&body) && !body.has_ended());
        }
        let body = Outgoing::new();
        let mut reader = body.reader();
        body.write("x".into()).unwrap();
        body.finish(None);
        assert!(!left(&body));
        assert!(reader.frame().await.unwrap().is_ok());
        assert!(left(&body));
    }

    #[test]
    fn a_request_without_a_body_is_at_its_end() {
        let incoming = Incoming::new(None);
        assert!(incoming.poll_ready(&mut noop()).is_ready());
        assert_eq!(incoming.read(10), Ok(None));
    }
}
