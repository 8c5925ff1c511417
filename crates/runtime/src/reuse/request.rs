//! A request in an instance that has others as well: its own deadline, its own account of CPU time, its own end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as Moment};

use capabilities::http::{Incoming, Outgoing};
use model::{Outcome, Usage, limits};
use tokio::time::Instant;
use wasmtime::component::ResourceTable;

use super::instance::Live;
use super::task::Task;
use crate::outcome::over;
use crate::run::{Ended, Observer, blame, explain};
use crate::vitals::{Tracer, Vitals};

/// A request that was handed to an instance.
pub struct Request {
    /// When it must be over.
    pub deadline: Instant,
    /// How often it has gone through the platform.
    pub hops: u64,
    incoming: Incoming,
    begun: Cell<bool>,
    /// The guest's task that answers it; none before it was begun, and once another is in its place.
    task: Cell<Option<Task>>,
    /// What there is to say at its end; none once it was said.
    open: RefCell<Option<Open>>,
    outcome: Cell<Option<Outcome>>,
    /// Who waits for its reply, and what is done for it in the instance: both hear of its end.
    reply: RefCell<Option<Waker>>,
    work: RefCell<Option<Waker>>,
}

struct Open {
    observer: Arc<dyn Observer>,
    tracer: Option<Arc<dyn Tracer>>,
    account: Account,
    /// The body of its reply, once there is one.
    body: Option<Outgoing>,
    /// How long its instance took to make, if it was made for this request.
    made_in: Duration,
}

impl Request {
    pub fn new(
        deadline: Instant,
        hops: u64,
        account: Account,
        incoming: Incoming,
        observer: Arc<dyn Observer>,
        tracer: Option<Arc<dyn Tracer>>,
    ) -> Self {
        Self {
            deadline,
            hops,
            incoming,
            begun: Cell::new(false),
            task: Cell::new(None),
            open: RefCell::new(Some(Open {
                observer,
                tracer,
                account,
                body: None,
                made_in: Duration::ZERO,
            })),
            outcome: Cell::new(None),
            reply: RefCell::default(),
            work: RefCell::default(),
        }
    }

    /// Its instance was made for it.
    pub fn made(&self, from: Moment, to: Moment) {
        if let Some(open) = &mut *self.open.borrow_mut() {
            open.made_in = to.duration_since(from);
            if let Some(tracer) = &open.tracer {
                tracer.instantiated(from, to);
            }
        }
    }

    /// The guest is handed it; none if it is over already.
    pub fn begin(&self) -> Option<Arc<dyn Observer>> {
        let open = self.open.borrow();
        let open = open.as_ref()?;
        self.begun.set(true);
        if let Some(tracer) = &open.tracer {
            tracer.began(Moment::now());
        }
        Some(open.observer.clone())
    }

    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// The guest's task that answers it was begun.
    pub fn runs_as(&self, task: Task) {
        self.task.set(Some(task));
    }

    /// Another task was begun: where this request's stood, that has ended.
    pub fn leaves(&self, other: Task) {
        if self.task.get().is_some_and(|task| task.is_at(&other)) {
            self.task.set(None);
        }
    }

    /// Whether its task runs, by the engine's table of them.
    pub fn runs(&self, table: Option<&mut ResourceTable>) -> bool {
        self.task.get().is_some_and(|task| task.runs(table))
    }

    /// The guest has answered it with this body.
    pub fn answered(&self, body: &Outgoing) {
        if let Some(open) = &mut *self.open.borrow_mut() {
            open.body = Some(body.clone());
        }
    }

    pub fn is_over(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Tells the app's owner, while it is not over.
    pub fn explain(&self, text: &str) {
        if let Some(open) = &*self.open.borrow() {
            explain(open.observer.lines(), text);
        }
    }

    /// It is over; only the first word on that counts. What was not sent of its reply by now is not sent any more.
    pub fn end(&self, outcome: Outcome) {
        let Some(open) = self.open.take() else {
            return;
        };
        if let (Some(body), false) = (&open.body, outcome == Outcome::Ok) {
            body.fail(outcome);
        }
        let outcome = blame(outcome, self.incoming.failure());
        self.outcome.set(Some(outcome));
        let memory_bytes = open.account.vitals.usage().memory_bytes;
        open.observer.ended(Ended {
            outcome,
            usage: Usage {
                bytes_in: self.incoming.handed_out(),
                cpu_us: open.account.close() / 1000,
                instantiate_us: open.made_in.as_micros() as u64,
                memory_bytes,
                ..Usage::default()
            },
        });
        for waiting in [&self.reply, &self.work] {
            if let Some(waker) = waiting.take() {
                waker.wake();
            }
        }
    }

    /// What comes of `work`; none if the request is over before.
    pub async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.is_over() {
                return Poll::Ready(None);
            }
            remember(&self.work, context);
            work.as_mut().poll(context).map(Some)
        })
        .await
    }
}

/// Keeps the waker of who waits.
fn remember(waiting: &RefCell<Option<Waker>>, context: &Context<'_>) {
    let mut waiting = waiting.borrow_mut();
    match &*waiting {
        Some(waker) if waker.will_wake(context.waker()) => {}
        _ => *waiting = Some(context.waker().clone()),
    }
}

/// What a request may use of CPU time, and what it has: its part of what its instance shares out.
pub struct Account {
    vitals: Arc<Vitals>,
    budget_ns: u64,
    /// Of what the instance shared out, what had gone to others before.
    before_ns: u64,
}

impl Account {
    /// Brings a budget to the instance with these vital signs.
    pub fn open(vitals: &Arc<Vitals>, budget_ns: u64) -> Self {
        vitals.join(budget_ns);
        Self {
            vitals: vitals.clone(),
            budget_ns,
            before_ns: vitals.shared_ns(),
        }
    }

    fn used_ns(&self) -> u64 {
        self.vitals.shared_ns() - self.before_ns
    }

    fn left_ns(&self) -> u64 {
        self.budget_ns.saturating_sub(self.used_ns())
    }

    /// Others worked for this request for so long: it has so much less, and nobody else has; false if it has not got
    /// so much.
    fn charge(&mut self, time: Duration) -> bool {
        let left = Duration::from_nanos(self.left_ns());
        let charged = time.min(left);
        self.vitals.charge(charged);
        self.budget_ns -= charged.as_nanos() as u64;
        time <= left
    }

    /// Takes what is left of the budget along; says what was used in nanoseconds.
    fn close(self) -> u64 {
        self.vitals.leave(self.left_ns());
        self.used_ns()
    }
}

/// A request in the hands of who waits for its reply.
pub struct Shared {
    request: Rc<Request>,
    live: Rc<Live>,
}

impl Shared {
    pub fn new(request: Rc<Request>, live: Rc<Live>) -> Self {
        Self { request, live }
    }

    /// How the request ended: with its guest's task, or at its deadline.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<Outcome> {
        match self.request.outcome.get() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                remember(&self.request.reply, context);
                Poll::Pending
            }
        }
    }

    /// Others worked for the request for so long; it fails alone if it has not got so much.
    pub fn charge(&self, time: Duration) {
        let enough = match &mut *self.request.open.borrow_mut() {
            Some(open) => open.account.charge(time),
            None => true,
        };
        if !enough {
            self.request.explain(&over(limits::CPU.name, "CPU time"));
            self.live.abandon(&self.request, Outcome::CpuLimit);
        }
    }

    /// Nobody waits for the reply any more.
    pub fn give_up(&self) {
        self.live.abandon(&self.request, Outcome::ClientGone);
    }
}

#[cfg(test)]
mod tests {
    use model::{AppLimits, Size};
    use wasmtime::UpdateDeadline;

    use super::*;

    #[test]
    fn work_for_a_request_leaves_it_less_and_nobody_else() {
        let limits = AppLimits {
            memory: Size::mib(1),
            ..AppLimits::default()
        };
        let vitals = Arc::new(Vitals::new(&limits, None));
        let second = Duration::from_secs(1);
        let budget_ns = second.as_nanos() as u64;
        let mut charged = Account::open(&vitals, budget_ns);
        let beside = Account::open(&vitals, budget_ns);
        assert!(charged.charge(second / 2));
        assert!(!charged.charge(second));
        assert!(!charged.charge(second));
        assert_eq!((charged.left_ns(), beside.left_ns()), (0, budget_ns));
        charged.close();
        // Nor has the instance come to its end.
        vitals.begin_turn();
        assert!(!matches!(vitals.check_turn(), UpdateDeadline::Interrupt));
        vitals.end_turn();
        beside.close();
    }
}
