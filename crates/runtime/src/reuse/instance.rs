//! One instance: open, then closed; and gone as soon as it is closed and nothing is under way, or when it fails.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant as Moment;

use capabilities::logs::LineSink;
use model::{AppLimits, Entry, LogStream, Outcome, Reuse, limits};
use tokio::time::{Instant, sleep_until};

use super::Registered;
use super::request::{Account, Request};
use super::serve::{Call, serve};
use super::task::Task;
use crate::metered::{End, Metered};
use crate::outcome::over;
use crate::run::{Observer, explain};
use crate::vitals::{Overhead, Vitals};
use crate::{Code, Engine, Slot};

/// An instance that runs.
pub struct Live {
    pub reuse: Reuse,
    pub vitals: Arc<Vitals>,
    pub voice: Arc<Voice>,
    overhead: Arc<dyn Overhead>,
    /// Whether it takes requests.
    open: Cell<bool>,
    /// Requests that it was handed in all.
    handed: Cell<u64>,
    /// Those of them that are not over.
    under_way: RefCell<Vec<Rc<Request>>>,
    /// And those of these that it has not begun with.
    waiting: RefCell<VecDeque<Call>>,
    /// Since when none is under way, if none is.
    rests_since: Cell<Instant>,
    waker: RefCell<Option<Waker>>,
}

/// What an instance is made from.
pub struct Making {
    pub entry: Arc<Entry>,
    pub code: Arc<Code>,
    pub slot: Slot,
}

/// Where what the instance writes goes: to the log of the request that it began with last.
pub struct Voice(Mutex<Arc<dyn LineSink>>);

impl Voice {
    pub fn set(&self, sink: Arc<dyn LineSink>) {
        *self.0.lock().expect("nothing panics while it is held") = sink;
    }
}

impl LineSink for Voice {
    fn line(&self, stream: LogStream, text: &str) {
        let sink = {
            let set = self.0.lock().expect("nothing panics while it is held");
            set.clone()
        };
        sink.line(stream, text);
    }
}

impl Live {
    /// One whose first request this observes.
    pub fn new(reuse: Reuse, limits: &AppLimits, observer: &dyn Observer) -> Self {
        Self {
            reuse,
            vitals: Arc::new(Vitals::new(limits, None)),
            voice: Arc::new(Voice(Mutex::new(observer.lines()))),
            overhead: observer.overhead(),
            open: Cell::new(true),
            handed: Cell::new(0),
            under_way: RefCell::default(),
            waiting: RefCell::default(),
            rests_since: Cell::new(Instant::now()),
            waker: RefCell::default(),
        }
    }

    pub fn has_room(&self) -> bool {
        self.open.get() && (self.under_way.borrow().len() as u64) < self.reuse.concurrent
    }

    /// Whether nothing is under way.
    pub fn rests(&self) -> bool {
        self.under_way.borrow().is_empty()
    }

    /// It takes no more requests.
    pub fn close(&self) {
        self.open.set(false);
        self.wake();
    }

    /// Whether nothing is under way and nothing will be.
    fn is_through(&self) -> bool {
        !self.open.get() && self.rests()
    }

    /// An account for a request that is to be handed over.
    pub fn account(&self, budget_ns: u64) -> Account {
        Account::open(&self.vitals, budget_ns)
    }

    pub fn hand(&self, call: Call) {
        self.under_way.borrow_mut().push(call.request.clone());
        self.waiting.borrow_mut().push_back(call);
        self.handed.set(self.handed.get() + 1);
        if self.handed.get() >= self.reuse.requests {
            self.open.set(false);
        }
        self.wake();
    }

    /// The next request to begin with.
    pub fn next(&self) -> Option<Call> {
        self.waiting.borrow_mut().pop_front()
    }

    /// The instance was made: for whoever has waited for it the longest.
    pub fn made(&self, from: Moment, to: Moment) {
        if let Some(first) = self.under_way.borrow().first() {
            first.made(from, to);
        }
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> u64 {
        self.under_way.borrow().len() as u64
    }

    /// How often what is under way has gone through the platform: the most that one of them has.
    pub fn hops(&self) -> u64 {
        let under_way = self.under_way.borrow();
        let hops = under_way.iter().map(|request| request.hops);
        hops.max().unwrap_or(0)
    }

    /// A request's task was begun. Who had its place before has none any more.
    pub fn runs(&self, request: &Request, task: Task) {
        for before in &*self.under_way.borrow() {
            before.leaves(task);
        }
        request.runs_as(task);
    }

    /// A request's task is through with it, or the instance has failed.
    pub fn end(&self, request: &Rc<Request>, outcome: Outcome) {
        let mut under_way = self.under_way.borrow_mut();
        under_way.retain(|one| !Rc::ptr_eq(one, request));
        if under_way.is_empty() {
            self.rests_since.set(Instant::now());
        }
        drop(under_way);
        request.end(outcome);
    }

    /// A request is over, whatever its task does. That would go on in the midst of others' requests: the instance takes
    /// no more.
    pub fn abandon(&self, request: &Rc<Request>, outcome: Outcome) {
        if request.is_over() {
            return;
        }
        if request.has_begun() {
            self.open.set(false);
        } else {
            let mut waiting = self.waiting.borrow_mut();
            waiting.retain(|call| !Rc::ptr_eq(&call.request, request));
        }
        self.end(request, outcome);
        self.wake();
    }

    /// When there is something to do that nobody else asks for.
    fn due(&self) -> Instant {
        let first = self.under_way.borrow().iter().map(|one| one.deadline).min();
        first.unwrap_or_else(|| self.rests_since.get() + self.reuse.idle.duration())
    }

    /// Does it.
    fn do_what_is_due(&self, now: Instant) {
        if self.rests() {
            self.open.set(false);
            return;
        }
        let late: Vec<_> = self
            .under_way
            .borrow()
            .iter()
            .filter(|one| one.deadline <= now)
            .cloned()
            .collect();
        for request in late {
            request.explain(&over(limits::WALL.name, "wall time"));
            self.abandon(&request, Outcome::WallLimit);
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wakes(&self, waker: &Waker) {
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }
}

/// The whole life of an instance.
pub async fn run(engine: Engine, making: Making, live: Rc<Live>, registered: Registered) {
    let Making { entry, code, slot } = making;
    let guest = Box::pin(serve(engine.clone(), entry, code, live.clone()));
    let mut metered = Metered::new(guest, &live.vitals, &engine, slot.place());
    let end = until_through(&mut metered, &live).await;
    live.open.set(false);
    metered.free();
    drop(metered);
    drop(registered);
    live.overhead.used(live.vitals.overhead());
    let Some(end) = end else {
        return;
    };
    let (outcome, text) = end.judge(&live.vitals);
    let cut = live.under_way.borrow().clone();
    if let (Some(text), true) = (&text, cut.is_empty()) {
        explain(live.voice.clone(), text);
    }
    for request in cut {
        if let Some(text) = &text {
            request.explain(text);
        }
        live.end(&request, outcome);
    }
}

/// Polls the guest until it fails, or the instance is through: none then. Looks at the clock itself: what the guest waits
/// for may keep its own from being looked at.
async fn until_through<F>(metered: &mut Metered<'_, F>, live: &Live) -> Option<End>
where
    F: Future<Output = wasmtime::Result<()>>,
{
    let mut alarm = pin!(sleep_until(live.due()));
    poll_fn(|context| {
        live.wakes(context.waker());
        if live.is_through() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(end) = Pin::new(&mut *metered).poll(context) {
            return Poll::Ready(Some(end));
        }
        while !live.is_through() {
            ready!(poll_at(alarm.as_mut(), live.due(), context));
            live.do_what_is_due(Instant::now());
        }
        Poll::Ready(None)
    })
    .await
}

/// Resolves at a time that is another each time it is asked for. An alarm that is set too early rings once for nothing,
/// which costs less than to set it for every request.
fn poll_at(
    mut alarm: Pin<&mut tokio::time::Sleep>,
    due: Instant,
    context: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if due < alarm.deadline() {
            alarm.as_mut().reset(due);
        }
        ready!(alarm.as_mut().poll(context));
        if alarm.deadline() >= due {
            return Poll::Ready(());
        }
        alarm.as_mut().reset(due);
    }
}
