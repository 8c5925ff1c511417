//! Admission: who may have an instance now. Refuses before anything is made.
//!
//! The last slots go to those who hold few: of them a tenant gets one only while it holds fewer than are free. Who floods
//! takes at most half of what is left of them, and the next one to come finds room.
//!
//! A tenant may have as many as all others, or a number of its own.
//!
//! A burst may wait for a moment. Where slots have been wanting for longer, waiting helps nobody: who comes then is
//! told at once, so that it can go elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use model::{TenantName, limits};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::turns::{Place, Turns};

/// No slot came free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every instance slot that this tenant may have is taken; retry in a moment")]
pub struct Overloaded;

/// The slots of one worker, shared out among tenants. Cheap to clone; clones share the slots.
#[derive(Clone)]
pub struct Pool(Rc<State>);

struct State {
    slots: u64,
    tenant_slots: u64,
    /// How many of the slots, the last ones, are kept for those who hold few.
    kept: u64,
    live: Cell<u64>,
    tenants: RefCell<HashMap<TenantName, Share>>,
    /// How many single tenants may have instead of `tenant_slots`.
    own: RefCell<HashMap<TenantName, u64>>,
    queue: RefCell<VecDeque<Waiter>>,
    /// When the last one was refused because all slots were taken.
    refused: Cell<Option<Instant>>,
    turns: Turns,
}

/// What one tenant has of the slots.
struct Share {
    live: u64,
    /// How many it may have; it may hold more where this was lowered meanwhile.
    most: u64,
    /// When the last one was refused because the tenant had all that it may have.
    refused: Option<Instant>,
}

struct Waiter {
    tenant: TenantName,
    granted: oneshot::Sender<Slot>,
}

/// The right to one live instance; given back when dropped.
pub struct Slot {
    tenant: TenantName,
    pool: Pool,
}

impl Pool {
    /// `slots` in all, at most `tenant_slots` of them for one tenant, and as many it can always have if nobody else wants
    /// any; [`limits::SLOTS_KEPT`] percent are kept for those who hold few. [`Self::allow`] gives single tenants other numbers.
    pub fn new(slots: u64, tenant_slots: u64) -> Self {
        let kept = (slots * limits::SLOTS_KEPT.default).div_ceil(100);
        Self(Rc::new(State {
            slots,
            tenant_slots,
            kept: kept.min(slots.saturating_sub(tenant_slots)),
            live: Cell::new(0),
            tenants: RefCell::default(),
            own: RefCell::default(),
            queue: RefCell::default(),
            refused: Cell::default(),
            turns: Turns::default(),
        }))
    }

    /// From now on the tenant may have this many slots, at least 1; none: as many as every tenant. What it holds beyond them it
    /// keeps until it is done.
    pub fn allow(&self, tenant: &TenantName, slots: Option<u64>) {
        {
            let mut own = self.0.own.borrow_mut();
            match slots {
                Some(slots) => drop(own.insert(tenant.clone(), slots)),
                None => drop(own.remove(tenant)),
            }
        }
        if let Some(share) = self.0.tenants.borrow_mut().get_mut(tenant) {
            share.most = slots.unwrap_or(self.0.tenant_slots);
            share.refused = None;
        }
        while self.grant_next() {}
    }

    /// A slot now, or within [`limits::SLOT_WAIT`] in the order of asking; who waits for a slot of its own tenant is
    /// passed by others. If another was refused within [`limits::SLOT_BUSY`], only now.
    pub async fn acquire(&self, tenant: &TenantName) -> Result<Slot, Overloaded> {
        if let Some(slot) = self.take(tenant) {
            return Ok(slot);
        }
        if self.has_refused(tenant) {
            return Err(self.refuse(tenant));
        }
        let (granted, slot) = oneshot::channel();
        {
            let mut queue = self.0.queue.borrow_mut();
            queue.retain(|waiter| !waiter.granted.is_closed());
            if queue.len() as u64 >= limits::SLOT_QUEUE.default {
                return Err(Overloaded);
            }
            queue.push_back(Waiter {
                tenant: tenant.clone(),
                granted,
            });
        }
        let wait = limits::SLOT_WAIT.default.duration();
        let slot = tokio::time::timeout(wait, slot).await;
        let slot = slot.ok().and_then(Result::ok);
        slot.ok_or_else(|| self.refuse(tenant))
    }

    /// Whether slots have been wanting for a while.
    fn has_refused(&self, tenant: &TenantName) -> bool {
        let tenants = self.0.tenants.borrow();
        let own = tenants.get(tenant).and_then(|share| share.refused);
        let last = own.max(self.0.refused.get());
        last.is_some_and(|last| last.elapsed() < limits::SLOT_BUSY.default.duration())
    }

    /// Remembers who was in the way of a refused request: everyone, or its own tenant.
    fn refuse(&self, tenant: &TenantName) -> Overloaded {
        let now = Some(Instant::now());
        match self.0.tenants.borrow_mut().get_mut(tenant) {
            Some(share) if self.is_enough(share) => share.refused = now,
            _ => self.0.refused.set(now),
        }
        Overloaded
    }

    /// Whether a tenant that has this gets no more, though others may.
    fn is_enough(&self, share: &Share) -> bool {
        let free = self.0.slots - self.live();
        let kept_from_it = (1..=self.0.kept).contains(&free) && share.live >= free;
        share.live >= share.most || kept_from_it
    }

    /// Slots taken now.
    pub fn live(&self) -> u64 {
        self.0.live.get()
    }

    /// Whether so few are free that not everybody gets one.
    pub fn is_short(&self) -> bool {
        self.0.slots - self.live() <= self.0.kept
    }

    /// A slot, if one is free that the tenant may have.
    pub fn take(&self, tenant: &TenantName) -> Option<Slot> {
        if self.live() >= self.0.slots {
            return None;
        }
        let mut tenants = self.0.tenants.borrow_mut();
        match tenants.get_mut(tenant) {
            Some(share) if self.is_enough(share) => return None,
            Some(share) => share.live += 1,
            None => {
                let own = self.0.own.borrow().get(tenant).copied();
                let share = Share {
                    live: 1,
                    most: own.unwrap_or(self.0.tenant_slots),
                    refused: None,
                };
                tenants.insert(tenant.clone(), share);
            }
        }
        self.0.live.set(self.live() + 1);
        Some(Slot {
            tenant: tenant.clone(),
            pool: self.clone(),
        })
    }

    fn give_back(&self, tenant: &TenantName) {
        {
            let mut tenants = self.0.tenants.borrow_mut();
            let share = tenants
                .get_mut(tenant)
                .expect("a slot was counted when it was taken");
            share.live -= 1;
            if share.live == 0 {
                tenants.remove(tenant);
            }
        }
        self.0.live.set(self.live() - 1);
        if !self.0.queue.borrow().is_empty() {
            self.grant_next();
        }
    }

    /// Hands a free slot to the first in the queue who may have it; whether there was one.
    fn grant_next(&self) -> bool {
        let granted = {
            let mut queue = self.0.queue.borrow_mut();
            queue.retain(|waiter| !waiter.granted.is_closed());
            let next = queue
                .iter()
                .enumerate()
                .find_map(|(i, waiter)| Some((i, self.take(&waiter.tenant)?)));
            next.and_then(|(i, slot)| Some((queue.remove(i)?, slot)))
        };
        let Some((waiter, slot)) = granted else {
            return false;
        };
        // Who has stopped waiting gives the slot back by dropping it.
        let _ = waiter.granted.send(slot);
        true
    }
}

impl Slot {
    /// The place of the slot's guest among those that run long.
    pub fn place(&self) -> Place<'_> {
        self.pool.0.turns.place(&self.tenant)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.give_back(&self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_slot_waits_in_turn_and_not_for_long() {
        let pool = Pool::new(2, 2);
        let (alice, bob) = (tenant("alice"), tenant("bob"));
        let first = pool.acquire(&alice).await.unwrap();
        let _second = pool.acquire(&alice).await.unwrap();
        assert_eq!(pool.acquire(&bob).await.err(), Some(Overloaded));
        tokio::time::sleep(limits::SLOT_BUSY.default.duration()).await;
        let (third, ()) = tokio::join!(pool.acquire(&bob), async { drop(first) });
        assert!(third.is_ok());
        assert_eq!(pool.live(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn where_slots_have_been_wanting_for_a_while_nobody_waits() {
        let pool = Pool::new(10, 1);
        let (alice, bob) = (tenant("alice"), tenant("bob"));
        let _hers = pool.acquire(&alice).await.unwrap();
        let _his = pool.acquire(&bob).await.unwrap();
        let waited = async |who| {
            let began = Instant::now();
            assert_eq!(pool.acquire(who).await.err(), Some(Overloaded));
            began.elapsed()
        };
        let wait = limits::SLOT_WAIT.default.duration();
        assert!(waited(&alice).await >= wait);
        assert!(waited(&alice).await.is_zero());
        // It is her slots that are wanting, not his.
        assert!(waited(&bob).await >= wait);
        tokio::time::sleep(limits::SLOT_BUSY.default.duration()).await;
        assert!(waited(&alice).await >= wait);
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_cannot_take_every_slot() {
        let pool = Pool::new(10, 3);
        let alice = tenant("alice");
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(pool.acquire(&alice).await.unwrap());
        }
        assert_eq!(pool.acquire(&alice).await.err(), Some(Overloaded));
        assert!(pool.acquire(&tenant("bob")).await.is_ok());
        held.clear();
        assert_eq!(pool.live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_as_many_as_it_was_given_whatever_the_others_have() {
        let pool = Pool::new(10, 3);
        let (alice, bob, carol) = (tenant("alice"), tenant("bob"), tenant("carol"));
        pool.allow(&alice, Some(1));
        pool.allow(&bob, Some(5));
        // How many slots a tenant gets.
        let all = async |who: &TenantName| {
            let mut held = Vec::new();
            while let Ok(slot) = pool.acquire(who).await {
                held.push(slot);
            }
            held.len()
        };
        assert_eq!(all(&alice).await, 1);
        assert_eq!(all(&bob).await, 5);
        assert_eq!(all(&carol).await, 3);
        // Even who was given all leaves the last to those who hold few.
        pool.allow(&carol, Some(10));
        assert_eq!(all(&carol).await, 9);
        for who in [&alice, &bob, &carol] {
            pool.allow(who, None);
            assert_eq!(all(who).await, 3);
        }
        assert_eq!(pool.live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn slots_that_are_held_count_when_a_tenant_is_given_fewer_or_more() {
        let pool = Pool::new(10, 3);
        let (alice, bob) = (tenant("alice"), tenant("bob"));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(pool.acquire(&alice).await.unwrap());
        }
        // It keeps what it has, and gets no more until it holds fewer than it may.
        pool.allow(&alice, Some(1));
        for left in [2, 1] {
            held.pop();
            assert_eq!(pool.live(), left);
            assert!(pool.take(&alice).is_none());
        }
        held.pop();
        held.push(pool.take(&alice).unwrap());
        assert!(pool.take(&alice).is_none());
        assert!(pool.take(&bob).is_some());
        // Who waits is let in as soon as it may have more, even if others were refused a moment ago.
        assert_eq!(pool.acquire(&alice).await.err(), Some(Overloaded));
        pool.allow(&alice, Some(1));
        let (second, third, fourth, ()) = tokio::join!(
            pool.acquire(&alice),
            pool.acquire(&alice),
            pool.acquire(&alice),
            async { pool.allow(&alice, Some(3)) }
        );
        assert!(second.is_ok() && third.is_ok());
        assert_eq!(fourth.err(), Some(Overloaded));
        // As the platform has it again, while it holds three.
        held.extend([second.unwrap(), third.unwrap()]);
        pool.allow(&alice, None);
        assert!(pool.take(&alice).is_none());
        held.pop();
        assert!(pool.take(&alice).is_some());
        held.clear();
        assert_eq!(pool.live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_floods_leaves_half_of_the_last_slots_to_the_next() {
        let pool = Pool::new(1000, 500);
        let mut held = Vec::new();
        // Each takes all that it gets, one after the other: 500, 400, half of the kept 100, half of what is left …
        for expected in [500, 400, 50, 25, 13, 6, 3, 2, 1] {
            let flooder = tenant(&format!("flooder-{expected}"));
            let before = held.len();
            while let Ok(slot) = pool.acquire(&flooder).await {
                held.push(slot);
            }
            assert_eq!(held.len() - before, expected);
        }
        assert_eq!(pool.live(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn while_two_flood_ten_others_get_in_and_are_not_made_to_wait() {
        let pool = Pool::new(100, 50);
        let mut held = Vec::new();
        for flooder in [tenant("alice"), tenant("bob")] {
            while let Ok(slot) = pool.acquire(&flooder).await {
                held.push(slot);
            }
        }
        assert_eq!(pool.live(), 90);
        let began = Instant::now();
        for other in 0..10 {
            let slot = pool.acquire(&tenant(&format!("other-{other}"))).await;
            held.push(slot.unwrap());
        }
        assert!(began.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_alone_has_all_that_it_may() {
        let check = |slots, tenant_slots| async move {
            let pool = Pool::new(slots, tenant_slots);
            let alice = tenant("alice");
            let mut held = Vec::new();
            while let Ok(slot) = pool.acquire(&alice).await {
                held.push(slot);
            }
            assert_eq!(held.len() as u64, slots.min(tenant_slots));
        };
        check(10, 10).await;
        check(10, 20).await;
        check(10, 9).await;
        check(1, 1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_comes_free_goes_to_the_first_who_may_have_it() {
        let pool = Pool::new(10, 5);
        let (alice, bob, carol) = (tenant("alice"), tenant("bob"), tenant("carol"));
        let mut held = Vec::new();
        for (who, count) in [(&alice, 5), (&bob, 4), (&carol, 1)] {
            for _ in 0..count {
                held.push(pool.acquire(who).await.unwrap());
            }
        }
        let dave = tenant("dave");
        let (bobs, daves, ()) = tokio::join!(pool.acquire(&bob), pool.acquire(&dave), async {
            // It is the last one, and kept for who holds none.
            held.pop();
        });
        assert_eq!(bobs.err(), Some(Overloaded));
        assert!(daves.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_nobody_waits_for_any_more_is_not_lost() {
        let pool = Pool::new(1, 1);
        let alice = tenant("alice");
        let held = pool.acquire(&alice).await.unwrap();
        {
            let waiting = pool.acquire(&alice);
            tokio::pin!(waiting);
            assert!(futures_poll(waiting.as_mut()).is_pending());
        }
        drop(held);
        assert_eq!(pool.live(), 0);
        assert!(pool.acquire(&alice).await.is_ok());
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
