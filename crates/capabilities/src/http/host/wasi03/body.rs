//! Bodies as streams, with a future of trailers behind them.

use std::any::{Any, TypeId};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use model::Outcome;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Destination, FutureConsumer, FutureProducer, FutureReader, Resource, Source,
    StreamConsumer, StreamProducer, StreamReader, StreamResult,
};
use wasmtime::{AsContextMut, StoreContextMut};

use super::types::ErrorCode;
use crate::http::host::{Http, HttpData, HttpView, take_trailers};
use crate::http::{Fields, Incoming, Outgoing};

/// What comes behind a body.
pub type Trailers = Result<Option<Resource<Fields>>, ErrorCode>;
/// What became of a message that was sent.
pub type Sent = Result<(), ErrorCode>;

/// A message's body.
pub enum Body {
    /// Of a message that came in.
    Received(Incoming),
    /// Of a message that the guest makes.
    Made(Made),
}

/// What a guest writes a body through.
pub struct Made {
    contents: Option<StreamReader<u8>>,
    trailers: FutureReader<Trailers>,
    /// Takes the body on its way, for the future that says what became of it.
    sending: oneshot::Sender<Sending>,
}

/// A body on its way to the client.
struct Sending {
    body: Outgoing,
    length: Option<u64>,
}

impl Body {
    /// The body of a new message, and the future that says what became of it.
    pub fn made<T: HttpData>(
        access: &mut Access<'_, T, Http>,
        contents: Option<StreamReader<u8>>,
        trailers: FutureReader<Trailers>,
    ) -> wasmtime::Result<(Self, FutureReader<Sent>)> {
        let (sending, sent) = oneshot::channel();
        let sent = FutureReader::new(access, async { wasmtime::error::Ok(sent_well(sent).await) })?;
        let made = Made {
            contents,
            trailers,
            sending,
        };
        Ok((Self::Made(made), sent))
    }

    /// Hands the body to who reads it: its stream, and its trailers, which come when the stream has ended. What the
    /// guest says of its own work on it (`handled`) is of no use to a server.
    pub fn consume<T: HttpData>(
        self,
        mut access: Access<'_, T, Http>,
        mut handled: FutureReader<Sent>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Trailers>)> {
        handled.close(&mut access)?;
        match self {
            Self::Received(body) => {
                let (ended, end) = oneshot::channel();
                let producer = BodyProducer {
                    body: body.clone(),
                    _ended: ended,
                };
                let contents = StreamReader::new(&mut access, producer)?;
                let trailers = TrailersProducer {
                    body,
                    end: Some(end),
                };
                Ok((contents, FutureReader::new(&mut access, trailers)?))
            }
            Self::Made(made) => {
                let contents = match made.contents {
                    Some(contents) => contents,
                    None => StreamReader::new(&mut access, std::iter::empty())?,
                };
                Ok((contents, made.trailers))
            }
        }
    }

    /// Sends the body on its way; `length` is what its `content-length` promises. One that was received is left to be
    /// relayed.
    pub fn send<T: HttpData>(
        self,
        mut store: impl AsContextMut<Data = T>,
        length: Option<u64>,
    ) -> wasmtime::Result<(Outgoing, Option<Relay>)> {
        let body = Outgoing::held(&store.as_context_mut().data_mut().http().context.memory)?;
        let end = Arc::new(End {
            body: body.clone(),
            length,
            parts: Mutex::default(),
        });
        let made = match self {
            Self::Made(made) => made,
            Self::Received(received) => {
                let from = BodyProducer {
                    body: received,
                    // Nobody waits for it.
                    _ended: oneshot::channel().0,
                };
                let relay = Relay {
                    from,
                    to: end,
                    whole: true,
                };
                return Ok((body, Some(relay)));
            }
        };
        let sending = Sending {
            body: body.clone(),
            length,
        };
        // Who does not ask what became of it has dropped the other end.
        let _ = made.sending.send(sending);
        let mut relay = None;
        match made
            .contents
            .map(|contents| contents.try_into::<BodyProducer>(&mut store))
        {
            Some(Ok(from)) => {
                relay = Some(Relay {
                    from,
                    to: end.clone(),
                    whole: false,
                })
            }
            Some(Err(contents)) => contents.pipe(&mut store, BodyConsumer(end.clone()))?,
            None => end.contents_ended(),
        }
        made.trailers.pipe(store, TrailersConsumer(end))?;
        Ok((body, relay))
    }

    /// The same for a request, which need not have a body.
    pub fn send_if_any<T: HttpData>(
        self,
        store: impl AsContextMut<Data = T>,
        length: Option<u64>,
    ) -> wasmtime::Result<(Option<Outgoing>, Option<Relay>)> {
        let is_empty = match &self {
            Self::Made(made) => made.contents.is_none(),
            Self::Received(body) => body.is_empty(),
        };
        if is_empty {
            self.close(store)?;
            return Ok((None, None));
        }
        let (body, relay) = self.send(store, length)?;
        Ok((Some(body), relay))
    }

    /// Tells whoever writes the body that nobody will read it.
    pub fn close(self, mut store: impl AsContextMut) -> wasmtime::Result<()> {
        if let Self::Made(mut made) = self {
            if let Some(mut contents) = made.contents {
                contents.close(&mut store)?;
            }
            made.trailers.close(store)?;
        }
        Ok(())
    }
}

/// Waits for what becomes of a message. One that is never sent meets no trouble on its way.
async fn sent_well(sending: oneshot::Receiver<Sending>) -> Sent {
    let Ok(Sending { body, length }) = sending.await else {
        return Ok(());
    };
    let taken = poll_fn(|context| body.poll_taken(context)).await;
    let written = body.written();
    // hyper lets go of a body with its last promised byte, whether its end has come or not.
    if taken && (body.is_finished() || length == Some(written)) {
        return Ok(());
    }
    Err(match length {
        Some(length) if length != written => ErrorCode::HttpResponseBodySize(Some(written)),
        _ => ErrorCode::ConnectionTerminated,
    })
}

/// A request body as a stream.
pub struct BodyProducer {
    body: Incoming,
    /// Dropped with this, which the trailers wait for.
    _ended: oneshot::Sender<()>,
}

impl<D: 'static> StreamProducer<D> for BodyProducer {
    type Item = u8;
    type Buffer = Bytes;

    fn try_into(me: Pin<Box<Self>>, ty: TypeId) -> Result<Box<dyn Any>, Pin<Box<Self>>> {
        match ty == TypeId::of::<Self>() {
            true => {
                let me: Box<Self> = Pin::into_inner(me);
                Ok(me)
            }
            false => Err(me),
        }
    }

    fn poll_produce(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'_, D>,
        mut destination: Destination<'_, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if self.body.poll_ready(context).is_pending() {
            return match finish {
                true => Poll::Ready(Ok(StreamResult::Cancelled)),
                false => Poll::Pending,
            };
        }
        let most = destination.remaining(store.as_context_mut());
        // A read of nothing asks whether there is something.
        if most == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        match self.body.read(most.unwrap_or(usize::MAX)) {
            Ok(Some(bytes)) if most.is_some() => {
                let mut direct = destination.as_direct(store, bytes.len());
                direct.remaining()[..bytes.len()].copy_from_slice(&bytes);
                direct.mark_written(bytes.len());
            }
            Ok(Some(bytes)) => destination.set_buffer(bytes),
            // The future behind the stream says which.
            Ok(None) | Err(_) => return Poll::Ready(Ok(StreamResult::Dropped)),
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

/// The trailers behind a request body, once its stream has been read to its end or let go.
struct TrailersProducer {
    body: Incoming,
    end: Option<oneshot::Receiver<()>>,
}

impl<D: HttpData> FutureProducer<D> for TrailersProducer {
    type Item = Trailers;

    fn poll_produce(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'_, D>,
        finish: bool,
    ) -> Poll<wasmtime::Result<Option<Trailers>>> {
        if self.poll_end(context).is_pending() {
            return match finish {
                true => Poll::Ready(Ok(None)),
                false => Poll::Pending,
            };
        }
        Poll::Ready(Ok(Some(match self.body.trailers() {
            Ok(None) => Ok(None),
            Ok(Some(map)) => {
                let HttpView { context, table, .. } = store.data_mut().http();
                let trailers = Fields::trailing(map, &context.memory)?;
                Ok(Some(table.push(trailers)?))
            }
            Err(error) => Err(error.into()),
        })))
    }
}

impl TrailersProducer {
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(end) = &mut self.end {
            // Nothing is ever sent: its sender goes.
            let _ = ready!(Pin::new(end).poll(context));
            self.end = None;
        }
        self.body.poll_end(context)
    }
}

/// The end of a reply's body: it comes when both its stream and its trailers have come to theirs.
struct End {
    body: Outgoing,
    length: Option<u64>,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    contents_ended: bool,
    trailers: Option<Option<HeaderMap>>,
}

impl End {
    fn contents_ended(&self) {
        self.come(|parts| parts.contents_ended = true);
    }

    fn trailers_came(&self, trailers: Option<HeaderMap>) {
        self.come(|parts| parts.trailers = Some(trailers));
    }

    fn come(&self, what: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().expect("nothing panics while it is held");
        what(&mut parts);
        if !parts.contents_ended {
            return;
        }
        let whole = |length| length == self.body.written();
        if !self.length.is_none_or(whole) {
            self.fail();
        } else if let Some(trailers) = parts.trailers.take() {
            self.body.finish(trailers);
        }
    }

    fn fail(&self) {
        self.body.fail(Outcome::BadResponse);
    }

    /// Whether so many bytes more are no more than was promised.
    fn fits(&self, more: usize) -> bool {
        let written = self.body.written();
        self.length
            .is_none_or(|length| written + more as u64 <= length)
    }
}

/// A body on its way from one message to another: the guest looks at no byte of it.
pub struct Relay {
    /// Kept to the end: what comes behind it waits for that.
    from: BodyProducer,
    to: Arc<End>,
    /// Whether its trailers go along. If not, the guest says what they are.
    whole: bool,
}

impl Relay {
    /// Hands everything on, as fast as it is taken, for as long as anyone reads it.
    pub async fn run(self) {
        let Self { from, to, whole } = self;
        loop {
            let read = poll_fn(|context| match to.body.poll_left(context) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => from.body.poll_ready(context).map(|()| true),
            });
            if !read.await {
                return;
            }
            poll_fn(|context| to.body.poll_room(context)).await;
            let Ok(room) = to.body.room() else { return };
            match from.body.read(room) {
                Ok(Some(bytes)) if to.fits(bytes.len()) => {
                    let written = to.body.write(bytes);
                    written.expect("its room was asked for, and it is open");
                }
                Ok(Some(_)) | Err(_) => return to.fail(),
                Ok(None) => {
                    if whole {
                        to.trailers_came(from.body.trailers().ok().flatten());
                    }
                    return to.contents_ended();
                }
            }
        }
    }
}

/// Takes a reply's bytes to the client.
struct BodyConsumer(Arc<End>);

impl<D: 'static> StreamConsumer<D> for BodyConsumer {
    type Item = u8;

    fn poll_consume(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let body = &self.0.body;
        if body.poll_room(context).is_pending() {
            return match finish {
                true => Poll::Ready(Ok(StreamResult::Cancelled)),
                false => Poll::Pending,
            };
        }
        let Ok(room) = body.room() else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        let taken = bytes.len().min(room);
        if !self.0.fits(taken) {
            self.0.fail();
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let written = body.write(Bytes::copy_from_slice(&bytes[..taken]));
        written.expect("its room was asked for, and it is open");
        source.mark_read(taken);
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

impl Drop for BodyConsumer {
    fn drop(&mut self) {
        self.0.contents_ended();
    }
}

/// Takes a reply's trailers to the client.
struct TrailersConsumer(Arc<End>);

impl<D: HttpData> FutureConsumer<D> for TrailersConsumer {
    type Item = Trailers;

    fn poll_consume(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut store: StoreContextMut<'_, D>,
        mut source: Source<'_, Trailers>,
        _: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut trailers = None;
        source.read(store.as_context_mut(), &mut trailers)?;
        match trailers {
            Some(Ok(trailers)) => {
                let table = store.data_mut().http().table;
                self.0.trailers_came(take_trailers(table, trailers)?);
            }
            // The guest gives its reply up.
            Some(Err(_)) | None => self.0.fail(),
        }
        Poll::Ready(Ok(()))
    }
}
