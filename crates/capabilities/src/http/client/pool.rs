//! Connections that wait for the next request of the tenant that opened them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Destination, Incarnation, TenantName, limits};
use tokio::time::Instant;

use super::dial::Connection;

/// How often those that have waited long enough are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What a connection is good for: a request of this tenant's to this address, as the same host under the same scheme. The
/// operator's rules are not part of it, because they hold for as long as the worker lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub tenant: TenantName,
    /// Which one of its name.
    pub incarnation: Incarnation,
    pub to: Destination,
    pub address: IpAddr,
}

/// The idle connections of a worker. Clones share them.
#[derive(Clone, Default)]
pub struct Pool(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    idle: HashMap<Key, Vec<Idle>>,
    count: u64,
    tenants: HashMap<TenantName, u64>,
    sweeping: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A connection for this, if one waits. One that is shared goes on waiting for others.
    pub fn take(&self, key: &Key) -> Option<Connection> {
        let mut state = self.lock();
        loop {
            let waiting = state.idle.get_mut(key)?;
            let newest = waiting.last_mut()?;
            if !newest.connection.is_closed()
                && let Some(shared) = newest.connection.shared()
            {
                newest.since = Instant::now();
                return Some(shared);
            }
            let idle = waiting.pop()?;
            state.lost(key);
            if !idle.connection.is_closed() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection for the next request, unless its tenant has enough of them. Must be called within a
    /// `tokio::task::LocalSet`.
    pub fn keep(&self, key: Key, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut state = self.lock();
        let of_tenant = state.tenants.get(&key.tenant).copied().unwrap_or(0);
        if of_tenant >= limits::IDLE_CONNECTIONS_TENANT.default {
            state.drop_oldest(|other| other.tenant == key.tenant);
        } else if state.count >= limits::IDLE_CONNECTIONS.default {
            state.drop_oldest(|_| true);
        }
        *state.tenants.entry(key.tenant.clone()).or_default() += 1;
        state.count += 1;
        state.idle.entry(key).or_default().push(Idle {
            connection,
            since: Instant::now(),
        });
        if !std::mem::replace(&mut state.sweeping, true) {
            tokio::task::spawn_local(self.clone().sweep());
        }
    }

    /// Lends a connection to nobody any more. Who has it may finish.
    pub fn forget(&self, key: &Key, connection: &Connection) {
        let mut state = self.lock();
        let Some(waiting) = state.idle.get_mut(key) else {
            return;
        };
        let place = waiting
            .iter()
            .position(|idle| idle.connection.is(connection));
        if let Some(place) = place {
            waiting.remove(place);
            state.lost(key);
        }
    }

    /// How many wait.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// Lets go of those that have waited long enough, until none is left.
    async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let mut state = self.lock();
            let keep = limits::IDLE_CONNECTION.default.duration();
            state.retain(|idle| idle.since.elapsed() < keep && !idle.connection.is_closed());
            if state.count == 0 {
                state.sweeping = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// One of them waits no longer.
    fn lost(&mut self, key: &Key) {
        self.count -= 1;
        if let Some(count) = self.tenants.get_mut(&key.tenant) {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&key.tenant);
            }
        }
        if self.idle.get(key).is_some_and(Vec::is_empty) {
            self.idle.remove(key);
        }
    }

    fn drop_oldest(&mut self, of: impl Fn(&Key) -> bool) {
        let firsts = self.idle.iter().filter(|(key, _)| of(key));
        let oldest = firsts.min_by_key(|(_, waiting)| waiting.first().map(|idle| idle.since));
        let Some(key) = oldest.map(|(key, _)| key.clone()) else {
            return;
        };
        if let Some(waiting) = self.idle.get_mut(&key) {
            waiting.remove(0);
            self.lost(&key);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Idle) -> bool) {
        let mut gone = Vec::new();
        for (key, waiting) in &mut self.idle {
            let before = waiting.len();
            waiting.retain(&keep);
            gone.extend((waiting.len()..before).map(|_| key.clone()));
        }
        for key in gone {
            self.lost(&key);
        }
    }
}
