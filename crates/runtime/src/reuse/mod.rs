//! Instances that answer more than one request, where an app's own manifest asks for it: never across apps or versions.
//!
//! An instance ([`instance`]) is a task with a slot and a store. Requests ([`request`]) are handed to it while it is open
//! and has room. Each has its own deadline and its own account of CPU time, and is under way until its guest's task is
//! through with it ([`serve`], [`task`]): what that task does after the reply is the request's. One that is given up, or
//! that is late, ends alone and closes the instance, which goes as soon as it is closed and nothing is under way: what
//! only a guest's abandoned tasks would go on with is freed. A failure of the instance ends all that are under way.

mod instance;
mod request;
mod serve;
mod task;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use capabilities::http::{Answer, Incoming};
use model::{AppId, Reuse, Revision, TenantName, VersionNumber};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Engine;
use crate::reply::Guest;
use crate::run::{Invocation, Observer, new_request};
use instance::{Live, Making};
use request::Request;
pub use request::Shared;
use serve::Call;

type Key = (AppId, VersionNumber, Revision);

/// The instances of one worker that may take more requests. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub struct Instances(Rc<RefCell<HashMap<Key, Vec<Rc<Live>>>>>);

impl Instances {
    /// Hands a request to an instance of its app's version that has room, or to a new one, which takes its slot.
    pub fn hand(
        &self,
        engine: &Engine,
        reuse: Reuse,
        invocation: Invocation,
        incoming: Incoming,
        answer: oneshot::Sender<Answer>,
    ) -> Guest {
        let Invocation {
            entry,
            code,
            request,
            facts,
            observer,
            tracer,
            slot,
            began,
        } = invocation;
        let key = (entry.id.clone(), entry.version, entry.revision);
        let budget_ns = entry.limits.cpu.0.saturating_mul(1_000_000);
        let deadline = Instant::from_std(began) + entry.limits.wall.duration();
        let live = self.find(&key).unwrap_or_else(|| {
            let making = Making { entry, code, slot };
            self.begin(engine.clone(), key, reuse, making, &*observer)
        });
        let (parts, _) = request.into_parts();
        let hops = facts.hops;
        let offered = new_request(parts, facts, incoming.clone());
        let account = live.account(budget_ns);
        let request = Request::new(deadline, hops, account, incoming, observer, tracer);
        let request = Rc::new(request);
        live.hand(Call {
            offered,
            answer,
            request: request.clone(),
        });
        Guest::shared(Shared::new(request, live))
    }

    /// An instance that has room.
    fn find(&self, key: &Key) -> Option<Rc<Live>> {
        let all = self.0.borrow();
        let found = all.get(key)?.iter().find(|live| live.has_room());
        found.cloned()
    }

    /// Lets go of every instance that has nothing to do, of one tenant's apps or of all; their slots come free in a moment.
    pub fn shed(&self, of: Option<&TenantName>) {
        let all = self.0.borrow();
        let shed = all
            .iter()
            .filter(|((id, ..), _)| of.is_none_or(|tenant| id.tenant == *tenant));
        for live in shed.flat_map(|(_, live)| live) {
            if live.rests() {
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
        observer: &dyn Observer,
    ) -> Rc<Live> {
        let live = Rc::new(Live::new(reuse, &making.entry.limits, observer));
        let mut all = self.0.borrow_mut();
        all.entry(key.clone()).or_default().push(live.clone());
        let registered = Registered {
            all: self.clone(),
            key,
            live: live.clone(),
        };
        tokio::task::spawn_local(instance::run(engine, making, live.clone(), registered));
        live
    }
}

/// An instance's place among those that may take more; given up with its task.
struct Registered {
    all: Instances,
    key: Key,
    live: Rc<Live>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = self.all.0.borrow_mut();
        if let Some(lives) = all.get_mut(&self.key) {
            lives.retain(|live| !Rc::ptr_eq(live, &self.live));
            if lives.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}
