//! Admission: who may have an instance now. Refuses before anything is made.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use model::{TenantName, limits};
use tokio::sync::oneshot;

/// No slot came free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every instance slot is taken; retry in a moment")]
pub struct Overloaded;

/// The slots of one worker, shared out among tenants. Cheap to clone; clones share the slots.
#[derive(Clone)]
pub struct Pool(Rc<State>);

struct State {
    slots: u64,
    tenant_slots: u64,
    live: Cell<u64>,
    tenants: RefCell<HashMap<TenantName, u64>>,
    queue: RefCell<VecDeque<Waiter>>,
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
    /// `slots` in all, at most `tenant_slots` of them for one tenant.
    pub fn new(slots: u64, tenant_slots: u64) -> Self {
        Self(Rc::new(State {
            slots,
            tenant_slots,
            live: Cell::new(0),
            tenants: RefCell::default(),
            queue: RefCell::default(),
        }))
    }

    /// A slot now, or within [`limits::SLOT_WAIT`] in the order of asking; who waits for a slot of its own tenant is
    /// passed by others.
    pub async fn acquire(&self, tenant: &TenantName) -> Result<Slot, Overloaded> {
        if let Some(slot) = self.take(tenant) {
            return Ok(slot);
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
        tokio::time::timeout(wait, slot)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(Overloaded)
    }

    /// Slots taken now.
    pub fn live(&self) -> u64 {
        self.0.live.get()
    }

    fn take(&self, tenant: &TenantName) -> Option<Slot> {
        if self.live() >= self.0.slots {
            return None;
        }
        let mut tenants = self.0.tenants.borrow_mut();
        match tenants.get_mut(tenant) {
            Some(live) if *live >= self.0.tenant_slots => return None,
            Some(live) => *live += 1,
            None => drop(tenants.insert(tenant.clone(), 1)),
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
            let live = tenants
                .get_mut(tenant)
                .expect("a slot was counted when it was taken");
            *live -= 1;
            if *live == 0 {
                tenants.remove(tenant);
            }
        }
        self.0.live.set(self.live() - 1);
        if !self.0.queue.borrow().is_empty() {
            self.grant_next();
        }
    }

    /// Hands a free slot to the first in the queue who may have it.
    fn grant_next(&self) {
        let granted = {
            let mut queue = self.0.queue.borrow_mut();
            queue.retain(|waiter| !waiter.granted.is_closed());
            let next = queue
                .iter()
                .enumerate()
                .find_map(|(i, waiter)| Some((i, self.take(&waiter.tenant)?)));
            next.and_then(|(i, slot)| Some((queue.remove(i)?, slot)))
        };
        if let Some((waiter, slot)) = granted {
            // Who has stopped waiting gives the slot back by dropping it.
            let _ = waiter.granted.send(slot);
        }
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
        let (third, ()) = tokio::join!(pool.acquire(&bob), async { drop(first) });
        assert!(third.is_ok());
        assert_eq!(pool.live(), 2);
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
