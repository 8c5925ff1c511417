//! Instances that answer more than one request, where an app's own manifest asks for it: never across apps or versions.
//!
//! An instance is a task with a slot and a store. Requests are handed to it while it has room. What it uses is shared
//! out among those that are under way; each brings its own CPU budget and takes along what it left of it. A failure of
//! the instance ends all of them. A request that nobody waits for any more ends alone, and its instance takes no others.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker, ready};

use capabilities::http::host::wasi03::{answer, offer};
use capabilities::http::host::{HttpContext, NewRequest};
use capabilities::http::{Answer, Incoming, Outgoing};
use capabilities::logs::LineSink;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use model::{AppId, Entry, LogStream, Outcome, Reuse, Revision, Usage, VersionNumber};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime::component::Accessor;
use wasmtime_wasi_io::IoView as _;

use crate::code::Linked;
use crate::context::Context;
use crate::metered::{End, Metered};
use crate::reply::Guest;
use crate::run::{Ended, Invocation, Observer, blame, explain, new_request, store};
use crate::service::{self, Handle};
use crate::vitals::Vitals;
use crate::{Code, Engine, Slot};

type Key = (AppId, VersionNumber, Revision);

/// The instances of one worker that may take more requests. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub struct Instances(Rc<RefCell<HashMap<Key, Vec<Rc<Live>>>>>);

/// An instance that runs.
struct Live {
    reuse: Reuse,
    vitals: Arc<Vitals>,
    /// Requests that it has not begun with.
    waiting: RefCell<VecDeque<Call>>,
    /// Requests that it was handed in all.
    handed: Cell<u64>,
    /// Of these, those that are not over.
    under_way: Cell<u64>,
    /// It takes no more.
    closed: Cell<bool>,
    /// When the last of its requests must be over.
    deadline: Cell<Instant>,
    waker: RefCell<Option<Waker>>,
    /// Requests that its end has cut off; they are told why.
    cut: RefCell<Vec<Ending>>,
    voice: Arc<Voice>,
}

/// A request on its way to an instance.
struct Call {
    request: NewRequest,
    answer: oneshot::Sender<Answer>,
    ending: Ending,
}

/// What must be said when a request is over.
struct Ending {
    observer: Arc<dyn Observer>,
    incoming: Incoming,
    vitals: Arc<Vitals>,
    deadline: Instant,
    budget_ns: u64,
    /// Of what the instance shared out, what had gone to others before.
    share_ns: u64,
    /// Whether nobody waits for the reply any more.
    given_up: Arc<AtomicBool>,
    done: oneshot::Sender<Outcome>,
}

/// One request in the hands of who waits for its reply.
pub struct Shared {
    done: oneshot::Receiver<Outcome>,
    given_up: Arc<AtomicBool>,
    deadline: Pin<Box<Sleep>>,
}

impl Instances {
    /// Hands a request to an instance of its app's version that has room, or to a new one, which takes its slot.
    pub fn hand(
        &self,
        engine: &Engine,
        reuse: Reuse,
        invocation: Invocation,
        incoming: Incoming,
        answer: oneshot::Sender<Answer>,
    ) -> (Guest, Arc<Vitals>) {
        let Invocation {
            entry,
            code,
            request,
            facts,
            observer,
            slot,
            began,
            // What several share is no one's span.
            tracer: _,
        } = invocation;
        let key = (entry.id.clone(), entry.version, entry.revision);
        let budget_ns = entry.limits.cpu.0.saturating_mul(1_000_000);
        let deadline = Instant::from_std(began) + entry.limits.wall.duration();
        let live = self.find(&key).unwrap_or_else(|| {
            let making = Making { entry, code, slot };
            self.begin(engine.clone(), key, reuse, making, &observer)
        });
        let (parts, _) = request.into_parts();
        let (done, outcome) = oneshot::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        live.vitals.join(budget_ns);
        live.handed.set(live.handed.get() + 1);
        live.under_way.set(live.under_way.get() + 1);
        live.deadline.set(live.deadline.get().max(deadline));
        live.waiting.borrow_mut().push_back(Call {
            request: new_request(parts, facts, incoming.clone()),
            answer,
            ending: Ending {
                observer,
                incoming,
                vitals: live.vitals.clone(),
                deadline,
                budget_ns,
                share_ns: live.vitals.shared_ns(),
                given_up: given_up.clone(),
                done,
            },
        });
        live.wake();
        let shared = Shared {
            done: outcome,
            given_up,
            deadline: Box::pin(sleep_until(deadline)),
        };
        (Guest::shared(shared), live.vitals.clone())
    }

    /// An instance that has room.
    fn find(&self, key: &Key) -> Option<Rc<Live>> {
        let all = self.0.borrow();
        let found = all.get(key)?.iter().find(|live| live.has_room());
        found.cloned()
    }

    /// Lets go of every instance that has nothing to do; their slots come free in a moment.
    pub fn shed(&self) {
        for live in self.0.borrow().values().flatten() {
            if live.under_way.get() == 0 {
                live.close();
            }
        }
    }

    fn begin(
        &self,
        engine: Engine,
        key: Key,
        reuse: Reuse,
        making: Making,
        observer: &Arc<dyn Observer>,
    ) -> Rc<Live> {
        let live = Rc::new(Live {
            reuse,
            vitals: Arc::new(Vitals::new(&making.entry.limits, None)),
            waiting: RefCell::default(),
            handed: Cell::new(0),
            under_way: Cell::new(0),
            closed: Cell::new(false),
            deadline: Cell::new(Instant::now()),
            waker: RefCell::default(),
            cut: RefCell::default(),
            voice: Arc::new(Voice(Mutex::new(observer.lines()))),
        });
        let all = self.0.clone();
        all.borrow_mut()
            .entry(key.clone())
            .or_default()
            .push(live.clone());
        let registered = Registered {
            all: Rc::downgrade(&all),
            key,
            live: live.clone(),
        };
        tokio::task::spawn_local(run(engine, making, live.clone(), registered));
        live
    }
}

/// What an instance is made from.
struct Making {
    entry: Arc<Entry>,
    code: Arc<Code>,
    slot: Slot,
}

/// An instance's place among those that may take more; given up with its task.
struct Registered {
    all: Weak<RefCell<HashMap<Key, Vec<Rc<Live>>>>>,
    key: Key,
    live: Rc<Live>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Some(all) = self.all.upgrade() else {
            return;
        };
        let mut all = all.borrow_mut();
        if let Some(lives) = all.get_mut(&self.key) {
            lives.retain(|live| !Rc::ptr_eq(live, &self.live));
            if lives.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}

impl Live {
    fn has_room(&self) -> bool {
        !self.closed.get()
            && self.handed.get() < self.reuse.requests
            && self.under_way.get() < self.reuse.concurrent
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// A request is over.
    fn over(&self, ending: Ending, outcome: Outcome) {
        self.under_way.set(self.under_way.get() - 1);
        if self.handed.get() >= self.reuse.requests {
            self.closed.set(true);
        }
        ending.end(outcome);
    }
}

impl Ending {
    fn end(self, outcome: Outcome) {
        let used_ns = self.vitals.shared_ns() - self.share_ns;
        self.vitals.leave(self.budget_ns.saturating_sub(used_ns));
        let outcome = blame(outcome, self.incoming.failure());
        let usage = Usage {
            bytes_in: self.incoming.handed_out(),
            cpu_us: used_ns / 1000,
            ..self.vitals.usage()
        };
        self.observer.ended(Ended { outcome, usage });
        // Who has given the reply up hears nothing.
        let _ = self.done.send(outcome);
    }
}

impl Shared {
    /// Resolves at the request's deadline.
    pub fn poll_late(&mut self, context: &mut TaskContext<'_>) -> Poll<()> {
        self.deadline.as_mut().poll(context)
    }

    /// How the request ended; at its deadline, whatever its instance does.
    pub fn poll_ended(&mut self, context: &mut TaskContext<'_>) -> Poll<Outcome> {
        if let Poll::Ready(outcome) = Pin::new(&mut self.done).poll(context) {
            return Poll::Ready(outcome.unwrap_or(Outcome::Internal));
        }
        ready!(self.poll_late(context));
        self.give_up();
        Poll::Ready(Outcome::WallLimit)
    }

    /// Nobody waits for the reply any more.
    pub fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }
}

/// Where what the instance writes goes: to the log of the request that it began with last.
struct Voice(Mutex<Arc<dyn LineSink>>);

impl LineSink for Voice {
    fn line(&self, stream: LogStream, text: &str) {
        let sink = self
            .0
            .lock()
            .expect("nothing panics while it is held")
            .clone();
        sink.line(stream, text);
    }
}

/// The whole life of an instance.
async fn run(engine: Engine, making: Making, live: Rc<Live>, registered: Registered) {
    let Making { entry, code, slot } = making;
    let vitals = live.vitals.clone();
    let guest = Box::pin(serve(engine.clone(), entry, code, live.clone()));
    let metered = Metered::new(guest, &vitals, &engine, slot.place());
    let end = bounded(metered, &live).await;
    live.closed.set(true);
    let (outcome, text) = end.judge(&vitals);
    drop(registered);
    let waiting = live.waiting.take();
    let cut = live.cut.take();
    for ending in cut
        .into_iter()
        .chain(waiting.into_iter().map(|call| call.ending))
    {
        if let Some(text) = &text {
            explain(ending.observer.lines(), text);
        }
        live.under_way.set(live.under_way.get() - 1);
        ending.end(match outcome {
            Outcome::Ok => Outcome::NoResponse,
            outcome => outcome,
        });
    }
}

/// The end of an instance, at the latest when its last request must be over: what it waits for may keep its own clocks
/// from being looked at. One that takes more requests may rest for longer.
async fn bounded<F>(metered: Metered<'_, F>, live: &Live) -> End
where
    F: Future<Output = wasmtime::Result<()>>,
{
    let mut metered = pin!(metered);
    let mut clock = pin!(sleep_until(live.deadline.get()));
    poll_fn(|context| {
        if let Poll::Ready(end) = metered.as_mut().poll(context) {
            return Poll::Ready(end);
        }
        if clock.deadline() < live.deadline.get() {
            clock.as_mut().reset(live.deadline.get());
        }
        let rests = live.under_way.get() == 0 && !live.closed.get();
        match clock.as_mut().poll(context) {
            Poll::Ready(()) if !rests => Poll::Ready(End::Late),
            _ => Poll::Pending,
        }
    })
    .await
}

/// Makes the instance and has it answer what it is handed.
async fn serve(
    engine: Engine,
    entry: Arc<Entry>,
    code: Arc<Code>,
    live: Rc<Live>,
) -> wasmtime::Result<()> {
    let Linked::Component {
        pre,
        entry: function,
    } = &code.linked
    else {
        unreachable!("services are components");
    };
    let wasm = &engine.side(code.kind().setting()).wasm;
    let http = HttpContext::new(oneshot::channel().0);
    let context = Context::new(entry, http, live.vitals.clone(), live.voice.clone());
    let mut store = store(wasm, context);
    let handle = service::instantiate(&mut store, pre, function).await?;
    let idle = live.reuse.idle.duration();
    let work = async |accessor: &Accessor<Context>| {
        let mut calls = FuturesUnordered::new();
        let mut rest = pin!(sleep_until(Instant::now() + idle));
        let mut resting = false;
        poll_fn(|context| {
            loop {
                *live.waker.borrow_mut() = Some(context.waker().clone());
                while let Some(call) = live.waiting.borrow_mut().pop_front() {
                    resting = false;
                    calls.push(one(accessor, &handle, call, &live));
                }
                match calls.poll_next_unpin(context) {
                    Poll::Ready(Some(Ok(()))) => continue,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                }
                if live.closed.get() {
                    return Poll::Ready(Ok(()));
                }
                if !std::mem::replace(&mut resting, true) {
                    rest.as_mut().reset(Instant::now() + idle);
                }
                ready!(rest.as_mut().poll(context));
                live.closed.set(true);
            }
        })
        .await?;
        // What the guest still does after its last reply.
        poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
        Ok(())
    };
    store.run_concurrent(work).await?
}

/// One request, to the end of its reply.
async fn one(
    accessor: &Accessor<Context>,
    handle: &Handle,
    call: Call,
    live: &Rc<Live>,
) -> wasmtime::Result<()> {
    let Call {
        request,
        answer: told,
        ending,
    } = call;
    let mut under_way = UnderWay {
        ending: Some(ending),
        live,
    };
    *live
        .voice
        .0
        .lock()
        .expect("nothing panics while it is held") = under_way.ending().observer.lines();
    let returned = async {
        let request = accessor.with(|mut access| offer(access.data_mut().table(), request))?;
        handle.call_concurrent(accessor, (request,)).await
    };
    let Some(returned) = under_way.unless_given_up(returned).await else {
        return Ok(());
    };
    let (answer, relay) = accessor.with(|access| answer(access, returned?.0))?;
    let body = answer.as_ref().ok().map(|reply| reply.body.clone());
    if let (Some(body), None) = (&body, &relay) {
        service::settle(body).await;
    }
    // Nobody listens if the client is gone.
    let _ = told.send(answer);
    let sent = async {
        if let Some(relay) = relay {
            relay.run().await;
        }
        match body {
            Some(body) => to_its_end(&body).await,
            None => Outcome::BadResponse,
        }
    };
    if let Some(outcome) = under_way.unless_given_up(sent).await {
        under_way.end(outcome);
    }
    Ok(())
}

/// Waits until all of the body was taken that will be.
async fn to_its_end(body: &Outgoing) -> Outcome {
    let taken = poll_fn(|context| body.poll_taken(context)).await;
    match (body.is_finished(), taken) {
        (true, _) => Outcome::Ok,
        (false, true) => Outcome::ClientGone,
        (false, false) => Outcome::BadResponse,
    }
}

/// A request that its instance has begun with.
struct UnderWay<'a> {
    ending: Option<Ending>,
    live: &'a Rc<Live>,
}

impl UnderWay<'_> {
    fn ending(&self) -> &Ending {
        self.ending.as_ref().expect("it is not over")
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(ending) = self.ending.take() {
            self.live.over(ending, outcome);
        }
    }

    /// What comes of `work`; none if nobody waits for the reply any more, which ends the request. What its guest still
    /// does of it would go on in the midst of others' requests: the instance takes no more.
    async fn unless_given_up<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let came = poll_fn(|context| {
            if let Poll::Ready(value) = work.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            let ending = self.ending.as_mut().expect("it is not over");
            match ending.done.poll_closed(context) {
                Poll::Ready(()) if ending.given_up.load(Relaxed) => Poll::Ready(None),
                _ => Poll::Pending,
            }
        })
        .await;
        if came.is_none() {
            let late = self.ending().deadline <= Instant::now();
            self.live.closed.set(true);
            self.end(match late {
                true => Outcome::WallLimit,
                false => Outcome::ClientGone,
            });
        }
        came
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.live.cut.borrow_mut().extend(self.ending.take());
    }
}
