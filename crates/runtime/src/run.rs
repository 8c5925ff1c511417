//! One invocation: a fresh store, limits armed, the guest called, the head sent at once, the body streamed.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use capabilities::http::host::{HttpContext, NewRequest, offer};
use capabilities::http::{Answer, GaveUp, Incoming};
use capabilities::logs::{LineSink, Lines};
use model::{Entry, GuestKind, LogStream, Outcome, Usage, limits};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_io::IoView as _;

use crate::cgi;
use crate::code::Linked;
use crate::context::{Context, outbound};
use crate::metered::{End, Metered};
use crate::outcome::Misbehaviour;
use crate::reply::{Guest, ReplyBody};
use crate::reuse::Instances;
use crate::service;
use crate::vitals::{Overhead, Tracer, Vitals};
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
    /// How often it has gone through the platform before.
    pub hops: u64,
}

/// Hears what becomes of one invocation.
pub trait Observer: Send + Sync + 'static {
    /// Where lines of the guest's output go, and those that the platform has for its owner: whole, bounded and escaped,
    /// without their line ends.
    fn lines(&self) -> Arc<dyn LineSink>;
    /// Said once, after everything of the invocation was freed; of one that shares its instance, after its guest is
    /// through with it.
    fn ended(&self, ended: Ended);
    /// Who hears what its instance uses when none of its requests is under way.
    fn overhead(&self) -> Arc<dyn Overhead>;
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
    /// Who hears its moments, if it is traced.
    pub tracer: Option<Arc<dyn Tracer>>,
    pub slot: Slot,
    /// When the request's head had come: its wall time runs from here.
    pub began: Instant,
}

/// Runs one event and answers as soon as the guest's head is there; the body follows. The instance is a fresh one,
/// unless the app's manifest lets its instances answer more than one request.
///
/// Must be called within a `tokio::task::LocalSet`: the guest runs in a local task of its own. Dropping the future
/// ends the invocation.
///
/// # Errors
/// An outcome without a head from the guest: the caller makes the reply.
pub async fn run(
    engine: &Engine,
    instances: &Instances,
    mut invocation: Invocation,
) -> Result<http::Response<ReplyBody>, Outcome> {
    let to_head = invocation.request.method() == http::Method::HEAD;
    let observer = invocation.observer.clone();
    let (answer, mut answered) = oneshot::channel();
    let incoming = Incoming::new(invocation.request.body_mut().take());
    let reuse = invocation.entry.reuse.clone();
    let mut guest = match reuse {
        Some(reuse) if invocation.code.kind() == GuestKind::HttpService => {
            instances.hand(engine, *reuse, invocation, incoming.clone(), answer)
        }
        _ => {
            let tracer = invocation.tracer.clone();
            let vitals = Arc::new(Vitals::new(&invocation.entry.limits, tracer));
            let (engine, incoming) = (engine.clone(), incoming.clone());
            let live = live(engine, invocation, incoming, vitals.clone(), answer);
            Guest::own(tokio::task::spawn_local(live), vitals)
        }
    };
    let answer = poll_fn(|context| match Pin::new(&mut answered).poll(context) {
        Poll::Ready(answer) => Poll::Ready(answer.ok()),
        Poll::Pending => guest.poll_cut(context).map(|()| None),
    });
    match answer.await {
        Some(Ok(reply)) => Ok(ReplyBody::of(reply, to_head, guest, incoming)),
        Some(Err(GaveUp(text))) => {
            // Its words are the guest's: bounded like all that it says.
            let text = format!("the guest answered with the error {text}\n");
            explain(observer.lines(), &text);
            guest.release();
            Err(blame(Outcome::BadResponse, incoming.failure()))
        }
        // The guest ended without an answer, and knows why.
        None => Err(guest.ended().await),
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
    incoming: Incoming,
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
        ..
    } = invocation;
    let (parts, _) = request.into_parts();
    let mut epilogue = Epilogue {
        observer: observer.clone(),
        vitals: vitals.clone(),
        incoming: incoming.clone(),
        // What it is if this task is dropped before it can say otherwise.
        outcome: Outcome::ClientGone,
    };
    let deadline = tokio::time::Instant::from_std(began) + entry.limits.wall.duration();
    let sink = observer.lines();
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
    let metered = Metered::new(guest, &vitals, &engine, slot.place());
    let end = tokio::time::timeout_at(deadline, metered).await;
    let (outcome, text) = end.unwrap_or(End::Late).judge(&vitals);
    if let Some(text) = text {
        explain(sink, &text);
    }
    epilogue.outcome = blame(outcome, epilogue.incoming.failure());
    epilogue.outcome
}

/// Tells the app's owner.
pub(crate) fn explain(sink: Arc<dyn LineSink>, text: &str) {
    let lines = Lines::new(sink, LogStream::Platform);
    lines.write(text.as_bytes());
    lines.finish();
}

/// The outcome, unless what the guest met was its caller's doing: a request body that breaks off is no app's failure.
pub(crate) fn blame(outcome: Outcome, body: Option<BodyError>) -> Outcome {
    let whoever = matches!(
        outcome,
        Outcome::Ok | Outcome::Trap | Outcome::NoResponse | Outcome::BadResponse
    );
    match body {
        Some(error) if whoever => match error {
            BodyError::Gone => Outcome::ClientGone,
            BodyError::Timeout => Outcome::RequestTimeout,
            BodyError::Malformed | BodyError::TooLarge => Outcome::BadRequest,
        },
        _ => outcome,
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
            let http = HttpContext::new(
                oneshot::channel().0,
                outbound(&entry, &facts, &parts.headers),
            );
            let store = store(
                wasm,
                Context::new(engine.clone(), entry, http, vitals, sink),
            );
            let request = new_request(parts, facts, incoming);
            service::serve(store, pre, function, request, answer).await
        }
        Linked::Component {
            pre,
            entry: function,
        } if code.kind() == GuestKind::HttpComponent => {
            let http = HttpContext::new(answer, outbound(&entry, &facts, &parts.headers));
            let context = Context::new(engine.clone(), entry, http, vitals.clone(), sink);
            let mut store = store(wasm, context);
            let instance = pre.instantiate_async(&mut store).await?;
            vitals.instantiated(began);
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
            let context =
                Context::for_command(engine.clone(), entry, command, vitals.clone(), sink);
            let mut store = store(wasm, context);
            let returned = match linked {
                Linked::Component {
                    pre,
                    entry: function,
                } => {
                    let instance = pre.instantiate_async(&mut store).await?;
                    vitals.instantiated(began);
                    let run =
                        instance.get_typed_func::<(), (Result<(), ()>,)>(&mut store, function)?;
                    let returned = run.call_async(&mut store, ()).await;
                    returned.and_then(|(result,)| result.map_err(|()| Misbehaviour::Exit(1).into()))
                }
                Linked::Module(pre) => {
                    let instance = pre.instantiate_async(&mut store).await?;
                    vitals.instantiated(began);
                    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
                    start.call_async(&mut store, ()).await
                }
            };
            check_exit(returned).and_then(|()| Ok(stdout.finish().map_err(Misbehaviour::from)?))
        }
    }
}

/// A request as its guest is handed it.
pub(crate) fn new_request(parts: http::request::Parts, facts: Facts, body: Incoming) -> NewRequest {
    NewRequest {
        parts,
        scheme: facts.scheme,
        authority: facts.authority,
        body,
    }
}

/// A store with every limit armed.
pub(crate) fn store(wasm: &wasmtime::Engine, context: Context) -> Store<Context> {
    let copy = context.host_call_copy();
    let mut store = Store::new(wasm, context);
    store.limiter(|context| &mut context.memory);
    store.set_hostcall_fuel(copy.as_usize());
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

#[cfg(test)]
mod tests;
