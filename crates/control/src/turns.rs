//! Whose turn it is to compile: a few uploads at a time on the whole platform, one of each tenant, and no tenant takes
//! every place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use model::{Millis, TenantName, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why somebody does not get a turn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TurnError {
    #[error("{waiting} compiles wait already; {limit} may: try again in a few seconds")]
    QueueFull { waiting: u64, limit: u64 },
    #[error("the compile did not get its turn within {0}; try again later")]
    WaitedTooLong(Millis),
}

/// The turns, in the order of asking; one tenant has one place in that order.
pub(crate) struct Turns {
    platform: Arc<Semaphore>,
    lines: Mutex<BTreeMap<Option<TenantName>, Line>>,
}

struct Line {
    waiting: u64,
    turn: Arc<Semaphore>,
}

/// The right to compile, until dropped.
pub(crate) struct Turn<'a> {
    _place: Place<'a>,
    _held: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

struct Place<'a> {
    turns: &'a Turns,
    tenant: Option<TenantName>,
}

impl Turns {
    pub fn new() -> Self {
        Self {
            platform: Arc::new(Semaphore::new(limits::COMPILES.default as usize)),
            lines: Mutex::default(),
        }
    }

    /// How many compile or wait for it.
    pub fn waiting(&self) -> u64 {
        self.lines().values().map(|line| line.waiting).sum()
    }

    pub async fn take(&self, tenant: Option<&TenantName>) -> Result<Turn<'_>, TurnError> {
        let (place, turn) = self.join(tenant.cloned())?;
        let platform = self.platform.clone();
        let held = async move {
            let own = turn.acquire_owned().await;
            let common = platform.acquire_owned().await;
            let never = "no one closes the semaphores";
            (own.expect(never), common.expect(never))
        };
        let wait = limits::COMPILE_WAIT.default;
        match tokio::time::timeout(wait.duration(), held).await {
            Ok(held) => Ok(Turn {
                _place: place,
                _held: held,
            }),
            Err(_) => Err(TurnError::WaitedTooLong(wait)),
        }
    }

    /// Joins the tenant's line; without one, the platform's own, which is never full: a request waits for each of its
    /// places but one, and workers bound those by [`limits::LOADING`]. After an upgrade of the engine, that is every app.
    fn join(&self, tenant: Option<TenantName>) -> Result<(Place<'_>, Arc<Semaphore>), TurnError> {
        let mut lines = self.lines();
        if tenant.is_some() {
            let tenants = lines.iter().filter(|(tenant, _)| tenant.is_some());
            let all = tenants.map(|(_, line)| line.waiting).sum();
            full(all, limits::COMPILES_WAITING.default)?;
        }
        let line = lines.entry(tenant.clone()).or_insert_with(|| Line {
            waiting: 0,
            turn: Arc::new(Semaphore::new(1)),
        });
        if tenant.is_some() {
            full(line.waiting, limits::COMPILES_WAITING_TENANT.default)?;
        }
        line.waiting += 1;
        let turn = line.turn.clone();
        Ok((
            Place {
                turns: self,
                tenant,
            },
            turn,
        ))
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<Option<TenantName>, Line>> {
        self.lines
            .lock()
            .expect("nothing panics while the lines are locked")
    }
}

fn full(waiting: u64, limit: u64) -> Result<(), TurnError> {
    if waiting >= limit {
        Err(TurnError::QueueFull { waiting, limit })
    } else {
        Ok(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.turns.lines();
        if let Some(line) = lines.get_mut(&self.tenant) {
            line.waiting -= 1;
            if line.waiting == 0 {
                lines.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenant_compiles_one_at_a_time_and_cannot_take_every_place() {
        let turns = Turns::new();
        let name = |text: &str| -> TenantName { text.parse().unwrap() };
        let (alice, bob) = (name("alice"), name("bob"));
        let first = turns.take(Some(&alice)).await.unwrap();
        let mut places = Vec::new();
        for _ in 1..limits::COMPILES_WAITING_TENANT.default {
            places.push(turns.join(Some(alice.clone())).unwrap());
        }
        assert!(matches!(
            turns.join(Some(alice.clone())),
            Err(TurnError::QueueFull { .. })
        ));
        drop(places);
        let mut second = Box::pin(turns.take(Some(&alice)));
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        // A neighbour does not wait for her.
        drop(turns.take(Some(&bob)).await.unwrap());
        drop(first);
        drop(second.await.unwrap());
        assert_eq!(turns.waiting(), 0);
    }

    #[tokio::test]
    async fn only_so_many_compile_at_once() {
        let turns = Turns::new();
        let tenants: Vec<TenantName> = (0..=limits::COMPILES.default)
            .map(|number| format!("tenant-{number}").parse().unwrap())
            .collect();
        let (last, first) = tenants.split_last().unwrap();
        let mut held = Vec::new();
        for tenant in first {
            held.push(turns.take(Some(tenant)).await.unwrap());
        }
        let mut next = Box::pin(turns.take(Some(last)));
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut next).await.is_err());
        held.pop();
        next.await.unwrap();
    }

    /// When the engine was upgraded, every app's first request waits here at once; the seventeenth was refused, and its
    /// app with it for half a minute.
    #[tokio::test]
    async fn what_requests_wait_for_is_never_turned_away_and_takes_no_tenants_place() {
        let turns = Turns::new();
        let most = limits::COMPILES_WAITING.default;
        let places: Vec<_> = (0..2 * most).map(|_| turns.join(None).unwrap()).collect();
        let alice: TenantName = "alice".parse().unwrap();
        turns.take(Some(&alice)).await.unwrap();
        assert_eq!(turns.waiting(), 2 * most);
        drop(places);
    }
}
