//! Turns: whoever has used more than a moment of CPU time runs one at a time, tenant after tenant, and lets everything
//! that is ready go first. So a request that needs little never waits for those that need much.
//!
//! The network is looked at between two rounds of turns. Guests that begin run at once, unless others of their tenant
//! stand in line, and only for so long in a round: then they take their turns as well. So who is to be refused is refused
//! soon, however many begin.
//!
//! Among one tenant's own guests, who began goes on for a while before the next begins: if all advanced alike, none
//! would be done before nearly all are.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use model::{TenantName, limits};
use tokio::sync::Notify;

/// How long a guest may run before it lets others run, in thread CPU time.
pub const TURN_NS: u64 = 1_000_000;
/// How much CPU time a guest has before its tenant's next one: more than most may use in all.
const STRETCH_NS: u64 = 2 * limits::CPU.default.0 * 1_000_000;

/// Who of one worker's long-running guests may run now. Cheap to clone; clones share the queue.
#[derive(Clone, Default)]
pub struct Turns(Rc<State>);

#[derive(Default)]
struct State {
    queue: RefCell<Queue>,
    /// CPU time that is left of this round.
    left_ns: Cell<u64>,
    /// CPU time that guests took in this round without a turn.
    begun_ns: Cell<u64>,
    /// Whether a task hands out turns; it ends when nobody waits.
    dispatching: Cell<bool>,
    round_over: Notify,
}

/// Tenants take turns of equal CPU time; the guests of each stand in line.
#[derive(Default)]
struct Queue {
    order: VecDeque<TenantName>,
    lines: HashMap<TenantName, Line>,
}

struct Line {
    tickets: VecDeque<Rc<Ticket>>,
    /// What is left of the tenant's turn.
    left_ns: u64,
}

#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    /// Who waits has gone.
    void: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One guest's place; whoever drops it waits no longer.
pub struct Place<'a> {
    turns: &'a Turns,
    tenant: &'a TenantName,
    ticket: Option<Rc<Ticket>>,
    /// What is left before it must stand at the end of its tenant's line.
    stretch_ns: u64,
}

/// Where in its tenant's line a guest stands.
#[derive(PartialEq)]
enum Stand {
    First,
    Last,
}

impl Turns {
    /// A place for a guest of `tenant`, which has not asked for a turn yet.
    pub fn place<'a>(&'a self, tenant: &'a TenantName) -> Place<'a> {
        Place {
            turns: self,
            tenant,
            ticket: None,
            stretch_ns: 0,
        }
    }

    /// Whether a guest of `tenant` may begin without a turn: none of its tenant's waits for one, and others that began
    /// have left some of this round.
    fn may_begin(&self, tenant: &TenantName) -> bool {
        let lines = &self.0.queue.borrow().lines;
        self.0.begun_ns.get() < TURN_NS && (lines.is_empty() || !lines.contains_key(tenant))
    }

    fn ask(&self, tenant: &TenantName, stand: Stand, waker: &Waker) -> Rc<Ticket> {
        let ticket = Rc::new(Ticket {
            waker: RefCell::new(Some(waker.clone())),
            ..Ticket::default()
        });
        let waiting = ticket.clone();
        self.0.queue.borrow_mut().push(tenant, stand, waiting);
        if !self.0.dispatching.replace(true) {
            tokio::task::spawn_local(dispatch(self.0.clone()));
        }
        ticket
    }

    /// A turn of one of the tenant's guests is over, after so much CPU time.
    fn took(&self, tenant: &TenantName, ns: u64) {
        self.0.queue.borrow_mut().charge(tenant, ns);
        let left = self.0.left_ns.get().saturating_sub(ns);
        self.0.left_ns.set(left);
        if left == 0 || !self.0.grant_next() {
            self.0.round_over.notify_one();
        }
    }
}

/// Hands out a round of turns each time everyone else has run and the network was looked at.
async fn dispatch(state: Rc<State>) {
    loop {
        // The network is looked at in each. What the first look brought has run to its end by the second.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        state.left_ns.set(TURN_NS);
        state.begun_ns.set(0);
        if !state.grant_next() {
            state.dispatching.set(false);
            return;
        }
        state.round_over.notified().await;
    }
}

impl State {
    /// Whether anyone was waiting.
    fn grant_next(&self) -> bool {
        let Some(ticket) = self.queue.borrow_mut().pop() else {
            return false;
        };
        ticket.granted.set(true);
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
        true
    }
}

impl Queue {
    fn push(&mut self, tenant: &TenantName, stand: Stand, ticket: Rc<Ticket>) {
        match self.lines.get_mut(tenant) {
            Some(line) if stand == Stand::First => line.tickets.push_front(ticket),
            Some(line) => line.tickets.push_back(ticket),
            None => {
                let line = Line {
                    tickets: [ticket].into(),
                    left_ns: TURN_NS,
                };
                self.lines.insert(tenant.clone(), line);
                self.order.push_back(tenant.clone());
            }
        }
    }

    /// Ends the tenant's turn if it is used up.
    fn charge(&mut self, tenant: &TenantName, ns: u64) {
        // Who has nobody in line begins anew, behind all others.
        let Some(line) = self.lines.get_mut(tenant) else {
            return;
        };
        line.left_ns = line.left_ns.saturating_sub(ns);
        if line.left_ns == 0 {
            line.left_ns = TURN_NS;
            if self.order.front() == Some(tenant) {
                self.order.rotate_left(1);
            }
        }
    }

    fn pop(&mut self) -> Option<Rc<Ticket>> {
        loop {
            let tenant = self.order.front()?;
            let line = self.lines.get_mut(tenant);
            let tickets = &mut line.expect("who is in the order has a line").tickets;
            let next = std::iter::from_fn(|| tickets.pop_front()).find(|ticket| !ticket.void.get());
            if tickets.is_empty() {
                self.lines.remove(tenant);
                self.order.pop_front();
            }
            if next.is_some() {
                return next;
            }
        }
    }
}

impl Place<'_> {
    /// Ready when the guest may run; its task is woken then. After it ran, say [`Self::took`]. Who has not run `long`
    /// needs no turn where few begin.
    pub fn poll_turn(&mut self, long: bool, context: &Context<'_>) -> Poll<()> {
        match &self.ticket {
            Some(ticket) if ticket.granted.get() => Poll::Ready(()),
            Some(ticket) => {
                let mut waker = ticket.waker.borrow_mut();
                match &*waker {
                    Some(waker) if waker.will_wake(context.waker()) => {}
                    _ => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            None if !long && self.turns.may_begin(self.tenant) => Poll::Ready(()),
            None => {
                let stand = if self.stretch_ns > 0 {
                    Stand::First
                } else {
                    self.stretch_ns = STRETCH_NS;
                    Stand::Last
                };
                self.ticket = Some(self.turns.ask(self.tenant, stand, context.waker()));
                Poll::Pending
            }
        }
    }

    /// The guest ran for so much CPU time; if it had a turn, that is over.
    pub fn took(&mut self, ns: u64) {
        if self.ticket.take().is_some() {
            self.stretch_ns = self.stretch_ns.saturating_sub(ns);
            self.turns.took(self.tenant, ns);
        } else {
            let begun = &self.turns.0.begun_ns;
            begun.set(begun.get().saturating_add(ns));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match self.ticket.take() {
            Some(ticket) if ticket.granted.get() => self.turns.took(self.tenant, 0),
            Some(ticket) => ticket.void.set(true),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Runs guests that each take `turns` turns of `ns`; says in which order they had them.
    async fn order(guests: &[(&str, &str, u64)], ns: u64) -> String {
        order_of(guests, |_| ns).await
    }

    /// The same, where `ns` says how long each guest's turns are.
    async fn order_of(guests: &[(&str, &str, u64)], ns: impl Fn(&str) -> u64) -> String {
        let turns = Turns::default();
        let said = Rc::new(RefCell::new(Vec::new()));
        let run = |(tenant, name, count): &(&str, &str, u64)| {
            let (turns, tenant) = (turns.clone(), tenant.parse().unwrap());
            let (said, name, count, ns) = (said.clone(), name.to_string(), *count, ns(name));
            tokio::task::spawn_local(async move {
                let mut place = turns.place(&tenant);
                for _ in 0..count {
                    poll_fn(|context| place.poll_turn(true, context)).await;
                    said.borrow_mut().push(name.clone());
                    place.took(ns);
                }
            })
        };
        for guest in guests.iter().map(run).collect::<Vec<_>>() {
            guest.await.unwrap();
        }
        assert!(turns.0.queue.borrow().order.is_empty());
        said.take().join(" ")
    }

    fn locally<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    #[test]
    fn tenants_take_turns_however_many_guests_they_have() {
        let guests = [
            ("alice", "a1", 2),
            ("alice", "a2", 2),
            ("alice", "a3", 2),
            ("bob", "b1", 2),
        ];
        let order = locally(order(&guests, TURN_NS));
        assert_eq!(order, "a1 b1 a1 b1 a2 a2 a3 a3");
    }

    #[test]
    fn who_has_had_its_stretch_makes_way_for_its_tenants_next() {
        let guests = [("alice", "a1", 4), ("alice", "a2", 3)];
        let order = locally(order(&guests, STRETCH_NS / 2));
        assert_eq!(order, "a1 a1 a2 a2 a1 a1 a2");
    }

    #[test]
    fn a_tenant_with_many_short_guests_has_as_much_as_one_with_a_long_one() {
        let short = |name| ("bob", name, 1);
        let guests = [
            ("alice", "a", 3),
            short("b1"),
            short("b2"),
            short("b3"),
            short("b4"),
            short("b5"),
        ];
        let ns = |name: &str| if name == "a" { TURN_NS } else { TURN_NS / 4 };
        let order = locally(order_of(&guests, ns));
        assert_eq!(order, "a b1 b2 b3 b4 a b5 a");
    }

    #[test]
    fn short_turns_fill_a_round() {
        let guests = [("alice", "a1", 3), ("alice", "a2", 1)];
        let order = locally(order(&guests, TURN_NS / 4));
        assert_eq!(order, "a1 a2 a1 a1");
    }

    #[test]
    fn who_is_ready_runs_between_two_rounds() {
        locally(async {
            let (turns, alice) = (Turns::default(), "alice".parse().unwrap());
            let rounds = Rc::new(Cell::new(0));
            let counted = rounds.clone();
            let running = tokio::task::spawn_local(async move {
                let mut long = turns.place(&alice);
                loop {
                    poll_fn(|context| long.poll_turn(true, context)).await;
                    counted.set(counted.get() + 1);
                    long.took(TURN_NS);
                }
            });
            for _ in 0..10 {
                let before = rounds.get();
                tokio::task::yield_now().await;
                assert!(rounds.get() <= before + 1);
            }
            assert!(rounds.get() > 0);
            running.abort();
        });
    }

    #[test]
    fn many_that_begin_let_the_network_be_looked_at() {
        locally(async {
            let turns = Turns::default();
            let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
            let context = &mut Context::from_waker(Waker::noop());
            let begins = |tenant| {
                let mut place = turns.place(tenant);
                let ready = place.poll_turn(false, context).is_ready();
                if ready {
                    place.took(TURN_NS / 2);
                }
                (ready, place)
            };
            assert!(begins(&alice).0);
            assert!(begins(&alice).0);
            let (now, mut third) = begins(&alice);
            assert!(!now);
            let (now, mut other) = begins(&bob);
            assert!(!now);
            while third.poll_turn(false, context).is_pending() {
                tokio::task::yield_now().await;
            }
            assert!(other.poll_turn(false, context).is_pending());
            third.took(TURN_NS / 2);
            assert!(other.poll_turn(false, context).is_ready());
            other.took(TURN_NS / 2);
        });
    }

    #[test]
    fn a_guest_that_goes_keeps_nobody_waiting() {
        locally(async {
            let turns = Turns::default();
            let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
            let context = &mut Context::from_waker(Waker::noop());
            let mut first = turns.place(&alice);
            let mut second = turns.place(&alice);
            let mut third = turns.place(&bob);
            for place in [&mut first, &mut second, &mut third] {
                assert!(place.poll_turn(true, context).is_pending());
            }
            // One while it has its turn, one while it waits.
            while first.poll_turn(true, context).is_pending() {
                tokio::task::yield_now().await;
            }
            drop(second);
            drop(first);
            while third.poll_turn(true, context).is_pending() {
                tokio::task::yield_now().await;
            }
        });
    }
}
