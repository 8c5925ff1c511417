//! One invocation: a fresh store, limits armed, the guest called, the head sent at once, the body streamed.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use capabilities::http::host::{HttpContext, NewRequest, offer};
use capabilities::http::{Answer, GaveUp, Incoming, OutgoingReader};
use capabilities::logs::{LineSink, Lines};
use http_body::Frame;
use model::{Entry, GuestKind, LogStream, Outcome, Usage, limits};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmtime::Store;
use wasmtime_wasi_io::IoView as _;

use crate::cgi;
use crate::code::Linked;
use crate::context::Context;
use crate::outcome::{Misbehaviour, judge, over};
use crate::service;
use crate::turns::Place;
use crate::vitals::Vitals;
use crate::{Code, Engine, Slot};

pub use capabilities::http::{BodyError, RequestBody, Truncated};

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
    /// Without wall time and reply bytes, which the connection knows.
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
    /// When the request's head had come: its wall time runs from here.
    pub began: Instant,
}

/// Runs one event through one fresh instance and answers as soon as the guest's head is there; the body follows.
///
/// Must be called within a `tokio::task::LocalSet`: the guest runs in a local task of its own. Dropping the future
/// ends the invocation.
///
/// # Errors
/// An outcome without a head from the guest: the caller makes the reply.
pub async fn run(
    engine: &Engine,
    invocation: Invocation,
) -> Result<http::Response<ReplyBody>, Outcome> {
    let has_body = invocation.request.method() != http::Method::HEAD;
    let observer = invocation.observer.clone();
    let (answer, answered) = oneshot::channel();
    let vitals = Arc::new(Vitals::new(&invocation.entry.limits));
    let live = live(engine.clone(), invocation, vitals.clone(), answer);
    let mut guest = Guest(Some(tokio::task::spawn_local(live)));
    match answered.await {
        Ok(Ok(reply)) => {
            let mut response = http::Response::new(());
            *response.status_mut() = reply.status;
            *response.headers_mut() = reply.headers;
            let has_body = has_body && !matches!(reply.status.as_u16(), 204 | 304);
            let length = response.headers().get(http::header::CONTENT_LENGTH);
            let left = length.and_then(|value| value.to_str().ok()?.parse().ok());
            let body = ReplyBody {
                reader: Some(reply.body.reader()),
                guest: Some(guest),
                has_body,
                left,
                vitals,
            };
            Ok(response.map(|()| body))
        }
        Ok(Err(GaveUp(text))) => {
            // Its words are the guest's: bounded like all that it says.
            let text = format!("the guest answered with the error {text}\n");
            explain(Arc::new(Sink(observer)), &text);
            guest.release();
            Err(Outcome::BadResponse)
        }
        // The guest ended without an answer, and knows why.
        Err(_) => Err(guest.ended().await),
    }
}

/// A guest's task; ends with this unless released. None once it was.
struct Guest(Option<JoinHandle<Outcome>>);

impl Guest {
    /// Lets the guest run on to its own end or limits.
    fn release(&mut self) {
        self.0 = None;
    }

    async fn ended(&mut self) -> Outcome {
        std::future::poll_fn(|context| self.poll_ended(context)).await
    }

    fn poll_ended(&mut self, context: &mut TaskContext<'_>) -> Poll<Outcome> {
        match &mut self.0 {
            Some(task) => Pin::new(task)
                .poll(context)
                .map(|ended| ended.unwrap_or(Outcome::Internal)),
            None => Poll::Ready(Outcome::Ok),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
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
    vitals: Arc<Vitals>,
}

impl ReplyBody {
    /// Work on this body took so much CPU time: its guest has so much less, and fails with [`Outcome::CpuLimit`] when it
    /// has none left. One that has ended is not touched.
    pub fn charge(&self, cpu: Duration) {
        self.vitals.charge(cpu);
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
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let this = self.get_mut();
        let Some(reader) = &mut this.reader else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(&mut *reader).poll_frame(context) {
            if let (Some(left), Some(Ok(frame))) = (&mut this.left, &frame) {
                *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
            }
            return Poll::Ready(frame);
        }
        let Some(guest) = &mut this.guest else {
            return Poll::Pending;
        };
        let outcome = ready!(guest.poll_ended(context));
        this.guest = None;
        // The guest may have written its last words after the reader was asked.
        match Pin::new(reader).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => Poll::Ready(Some(Err(Truncated(match outcome {
                Outcome::Ok => Outcome::BadResponse,
                outcome => outcome,
            })))),
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

/// Tells the observer the end, whichever way it comes, after everything else of the invocation is gone.
struct Epilogue {
    observer: Arc<dyn Observer>,
    vitals: Arc<Vitals>,
    incoming: Incoming,
    outcome: Outcome,
}

impl Drop for Epilogue {
    fn drop(&mut self) {
        let usage = Usage {
            bytes_in: self.incoming.handed_out(),
            ..self.vitals.usage()
        };
        self.observer.ended(Ended {
            outcome: self.outcome,
            usage,
        });
    }
}

/// The whole life of one instance.
async fn live(
    engine: Engine,
    invocation: Invocation,
    vitals: Arc<Vitals>,
    answer: oneshot::Sender<Answer>,
) -> Outcome {
    let Invocation {
        entry,
        code,
        request,
        facts,
        observer,
        slot,
        began,
    } = invocation;
    let (parts, body) = request.into_parts();
    let incoming = Incoming::new(body);
    let mut epilogue = Epilogue {
        observer: observer.clone(),
        vitals: vitals.clone(),
        incoming: incoming.clone(),
        // What it is if this task is dropped before it can say otherwise.
        outcome: Outcome::ClientGone,
    };
    let deadline = tokio::time::Instant::from_std(began) + entry.limits.wall.duration();
    let sink: Arc<dyn LineSink> = Arc::new(Sink(observer));
    // On the heap: it is kilobytes, and the task around it is moved several times.
    let guest = Box::pin(call(
        engine.clone(),
        entry,
        code,
        parts,
        facts,
        incoming,
        answer,
        vitals.clone(),
        sink.clone(),
    ));
    let metered = Metered {
        guest: Some(guest),
        vitals: &vitals,
        engine: &engine,
        place: slot.place(),
    };
    let outcome = match tokio::time::timeout_at(deadline, metered).await {
        Err(_) => {
            explain(sink, &over(limits::WALL.name, "wall time"));
            Outcome::WallLimit
        }
        Ok(End::OverBudget) => {
            explain(sink, &over(limits::CPU.name, "CPU time"));
            Outcome::CpuLimit
        }
        Ok(End::Panicked) => Outcome::Internal,
        Ok(End::Returned(Ok(()))) => Outcome::Ok,
        Ok(End::Returned(Err(error))) => {
            let (outcome, text) = judge(&error, &vitals);
            explain(sink, &text);
            outcome
        }
    };
    epilogue.outcome = blame(outcome, epilogue.incoming.failure());
    epilogue.outcome
}

/// Tells the app's owner.
fn explain(sink: Arc<dyn LineSink>, text: &str) {
    let lines = Lines::new(sink, LogStream::Platform);
    lines.write(text.as_bytes());
    lines.finish();
}

/// The outcome, unless what the guest met was its caller's doing: a request body that breaks off is no app's failure.
fn blame(outcome: Outcome, body: Option<BodyError>) -> Outcome {
    let whoever = matches!(
        outcome,
        Outcome::Ok | Outcome::Trap | Outcome::NoResponse | Outcome::BadResponse
    );
    match body {
        Some(error) if whoever => match error {
            BodyError::ClientGone => Outcome::ClientGone,
            BodyError::Timeout => Outcome::RequestTimeout,
            BodyError::Malformed => Outcome::BadRequest,
        },
        _ => outcome,
    }
}

struct Sink(Arc<dyn Observer>);

impl LineSink for Sink {
    fn line(&self, stream: LogStream, text: &str) {
        self.0.line(stream, text);
    }
}

/// Makes the instance and calls it.
#[expect(clippy::too_many_arguments, reason = "each is one thing, used once")]
async fn call(
    engine: Engine,
    entry: Arc<Entry>,
    code: Arc<Code>,
    parts: http::request::Parts,
    facts: Facts,
    incoming: Incoming,
    answer: oneshot::Sender<Answer>,
    vitals: Arc<Vitals>,
    sink: Arc<dyn LineSink>,
) -> wasmtime::Result<()> {
    let began = Instant::now();
    let wasm = &engine.side(code.kind().setting()).wasm;
    match &code.linked {
        Linked::Component {
            pre,
            entry: function,
        } if code.kind() == GuestKind::HttpService => {
            // Its answer has a way of its own.
            let http = HttpContext::new(oneshot::channel().0);
            let store = store(wasm, Context::new(entry, http, vitals, sink));
            let request = new_request(parts, facts, incoming);
            service::serve(store, pre, function, request, answer).await
        }
        Linked::Component {
            pre,
            entry: function,
        } if code.kind() == GuestKind::HttpComponent => {
            let context = Context::new(entry, HttpContext::new(answer), vitals.clone(), sink);
            let mut store = store(wasm, context);
            let instance = pre.instantiate_async(&mut store).await?;
            vitals.instantiated_in(began.elapsed());
            let handle = instance.get_typed_func::<(_, _), ()>(&mut store, function)?;
            let request = new_request(parts, facts, incoming);
            let arguments = offer(store.data_mut().table(), request)?;
            let returned = handle.call_async(&mut store, arguments).await;
            check_answer(&store.data().http, returned)
        }
        linked => {
            let stdout = cgi::Stdout::new(answer);
            let command = cgi::Command {
                parts,
                facts,
                body: incoming,
                stdout: stdout.clone(),
            };
            let context = Context::for_command(entry, command, vitals.clone(), sink);
            let mut store = store(wasm, context);
            let returned = match linked {
                Linked::Component {
                    pre,
                    entry: function,
                } => {
                    let instance = pre.instantiate_async(&mut store).await?;
                    vitals.instantiated_in(began.elapsed());
                    let run =
                        instance.get_typed_func::<(), (Result<(), ()>,)>(&mut store, function)?;
                    let returned = run.call_async(&mut store, ()).await;
                    returned.and_then(|(result,)| result.map_err(|()| Misbehaviour::Exit(1).into()))
                }
                Linked::Module(pre) => {
                    let instance = pre.instantiate_async(&mut store).await?;
                    vitals.instantiated_in(began.elapsed());
                    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
                    start.call_async(&mut store, ()).await
                }
            };
            check_exit(returned).and_then(|()| Ok(stdout.finish().map_err(Misbehaviour::from)?))
        }
    }
}

/// A request as its guest is handed it.
fn new_request(parts: http::request::Parts, facts: Facts, body: Incoming) -> NewRequest {
    NewRequest {
        parts,
        scheme: facts.scheme,
        authority: facts.authority,
        body,
    }
}

/// A store with every limit armed.
fn store(wasm: &wasmtime::Engine, context: Context) -> Store<Context> {
    let mut store = Store::new(wasm, context);
    store.limiter(|context| &mut context.memory);
    store.set_hostcall_fuel(limits::HOST_CALL_COPY.default.as_usize());
    store.set_max_component_handles(limits::HANDLES.default as usize);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| Ok(store.data().vitals.check_turn()));
    store
}

/// A handler that ended well has answered, and its body is whole.
fn check_answer(http: &HttpContext, returned: wasmtime::Result<()>) -> wasmtime::Result<()> {
    check_exit(returned)?;
    if !http.has_answered() {
        return Err(Misbehaviour::NoResponse.into());
    }
    match http.reply_body() {
        Some(body) if !body.is_finished() => Err(Misbehaviour::BodyUnfinished.into()),
        _ => Ok(()),
    }
}

/// `exit(0)` is a good end; any other is not.
fn check_exit(returned: wasmtime::Result<()>) -> wasmtime::Result<()> {
    match returned {
        Err(error) => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            Some(wasmtime_wasi::I32Exit(0)) => Ok(()),
            Some(wasmtime_wasi::I32Exit(status)) => Err(Misbehaviour::Exit(*status).into()),
            None => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

/// Polls a guest in turns whose CPU time is counted.
struct Metered<'a, F> {
    /// Dropped with its store as soon as the guest has ended.
    guest: Option<Pin<Box<F>>>,
    vitals: &'a Vitals,
    engine: &'a Engine,
    place: Place<'a>,
}

enum End {
    Returned(wasmtime::Result<()>),
    OverBudget,
    Panicked,
}

impl<F: Future<Output = wasmtime::Result<()>>> Future for Metered<'_, F> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<End> {
        let this = self.get_mut();
        let long = this.vitals.is_long();
        if this.place.poll_turn(long, context).is_pending() {
            return Poll::Pending;
        }
        let _running = this.engine.ticker().running();
        this.vitals.begin_turn();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let guest = this
                .guest
                .as_mut()
                .expect("a guest that has ended is not polled again");
            let polled = guest.as_mut().poll(context);
            if polled.is_ready() {
                this.guest = None;
            }
            polled
        }));
        this.place.took(this.vitals.end_turn());
        let end = match polled {
            Ok(Poll::Pending) if !this.vitals.over_budget() => return Poll::Pending,
            Ok(Poll::Pending) => End::OverBudget,
            Ok(Poll::Ready(returned)) => return Poll::Ready(End::Returned(returned)),
            Err(_) => End::Panicked,
        };
        // What a panic left behind may panic again.
        if catch_unwind(AssertUnwindSafe(|| this.guest = None)).is_err() {
            return Poll::Ready(End::Panicked);
        }
        Poll::Ready(end)
    }
}

#[cfg(test)]
mod tests;
