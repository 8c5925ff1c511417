//! An invocation's vital signs: CPU time against its budget, memory against its limit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use capabilities::calls::CallSink;
use model::{AppLimits, Usage, limits};
use wasmtime::{ResourceLimiter, UpdateDeadline};

use crate::clock::Turn;
use crate::turns::TURN_NS;

/// Hears the moments of one invocation, where its request is traced.
pub trait Tracer: CallSink {
    /// The instance was made, for this request.
    fn instantiated(&self, from: Instant, to: Instant);
    /// The guest was handed the request.
    fn began(&self, at: Instant);
}

/// Hears what an app uses that is no request's: what its reused instances cost while none is under way.
pub trait Overhead: Send + Sync + 'static {
    fn used(&self, cpu: Duration);
}

/// Shared between the store, which measures, and the task that polls it. One thread uses it at a time.
pub struct Vitals {
    /// What the app's manifest gives to one request.
    limit_ns: u64,
    budget_ns: AtomicU64,
    used_ns: AtomicU64,
    /// From how much on the guest waits for turns.
    long_ns: AtomicU64,
    /// Requests that share what is used, and how much each of them had of it in all.
    sharers: AtomicU64,
    shared_ns: AtomicU64,
    /// What was used while no request shared it.
    overhead_ns: AtomicU64,
    turn: Turn,
    /// How much of this turn has been shared out.
    turn_shared_ns: AtomicU64,
    over_budget: AtomicBool,
    memory_denied: AtomicBool,
    memory_peak: AtomicU64,
    instantiate_ns: AtomicU64,
    tracer: Option<Arc<dyn Tracer>>,
    /// The same one.
    calls: Option<Arc<dyn CallSink>>,
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vitals").field(&self.usage()).finish()
    }
}

impl Vitals {
    pub fn new(limits: &AppLimits, tracer: Option<Arc<dyn Tracer>>) -> Self {
        let limit_ns = limits.cpu.0.saturating_mul(1_000_000);
        Self {
            limit_ns,
            budget_ns: AtomicU64::new(limit_ns),
            used_ns: AtomicU64::new(0),
            long_ns: AtomicU64::new(TURN_NS),
            sharers: AtomicU64::new(0),
            shared_ns: AtomicU64::new(0),
            overhead_ns: AtomicU64::new(0),
            turn: Turn::default(),
            turn_shared_ns: AtomicU64::new(0),
            over_budget: AtomicBool::new(false),
            memory_denied: AtomicBool::new(false),
            memory_peak: AtomicU64::new(0),
            instantiate_ns: AtomicU64::new(0),
            calls: tracer.clone().map(|tracer| tracer as Arc<dyn CallSink>),
            tracer,
        }
    }

    /// The guest is about to run on this thread.
    pub fn begin_turn(&self) {
        self.turn.begin(self.is_long());
        self.turn_shared_ns.store(0, Relaxed);
    }

    /// Whether the guest has used enough to wait for a turn before it runs again.
    pub fn is_long(&self) -> bool {
        self.used_ns.load(Relaxed) >= self.long_ns.load(Relaxed)
    }

    /// The guest has stopped running; says for how long it ran. See [`Self::over_budget`] for whether it may again.
    pub fn end_turn(&self) -> u64 {
        let turn = self.turn.cpu_ns();
        let used = self.used_ns.load(Relaxed) + turn;
        self.used_ns.store(used, Relaxed);
        self.share(turn);
        if used > self.budget_ns.load(Relaxed) {
            self.over_budget.store(true, Relaxed);
        }
        turn
    }

    /// Shares out what the turn that goes on has used so far: who leaves amid it takes its part along.
    pub fn share_out(&self) {
        self.share(self.turn.cpu_ns());
    }

    /// Shares out what is new of so much in this turn.
    fn share(&self, turn: u64) {
        let before = self.turn_shared_ns.fetch_max(turn, Relaxed);
        let new = turn.saturating_sub(before);
        match new.checked_div(self.sharers.load(Relaxed)) {
            Some(each) => self.shared_ns.fetch_add(each, Relaxed),
            None => self.overhead_ns.fetch_add(new, Relaxed),
        };
    }

    /// What the engine asks in the middle of a turn, about once a millisecond.
    pub fn check_turn(&self) -> UpdateDeadline {
        let turn = self.turn.cpu_ns();
        if self.used_ns.load(Relaxed) + turn > self.budget_ns.load(Relaxed) {
            self.over_budget.store(true, Relaxed);
            UpdateDeadline::Interrupt
        } else if turn >= TURN_NS / 2 {
            // The next time it would be over by more than this.
            UpdateDeadline::Yield(1)
        } else {
            UpdateDeadline::Continue(1)
        }
    }

    /// Others worked for the guest for so long: it has so much less. What it used itself is counted apart.
    pub fn charge(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let left = self.budget_ns.load(Relaxed).saturating_sub(ns);
        self.budget_ns.store(left, Relaxed);
    }

    /// Another request shares the instance from now on, and brings a budget. The first after a rest begins anew.
    pub fn join(&self, budget_ns: u64) {
        if self.sharers.fetch_add(1, Relaxed) == 0 {
            self.used_ns.store(0, Relaxed);
            self.budget_ns.store(budget_ns, Relaxed);
            self.long_ns.store(TURN_NS, Relaxed);
        } else {
            self.budget_ns.fetch_add(budget_ns, Relaxed);
            self.long_ns.fetch_add(TURN_NS, Relaxed);
        }
    }

    /// One of the requests is over and takes along what it left of its budget. An instance that rests has one of its
    /// own: it is polled as well.
    pub fn leave(&self, left_ns: u64) {
        if self.sharers.fetch_sub(1, Relaxed) > 1 {
            let budget = self.budget_ns.load(Relaxed).saturating_sub(left_ns);
            self.budget_ns.store(budget, Relaxed);
        } else {
            self.used_ns.store(0, Relaxed);
            self.budget_ns.store(self.limit_ns, Relaxed);
        }
    }

    /// What each request that shared the instance from the beginning on would have had of what was used.
    pub fn shared_ns(&self) -> u64 {
        self.shared_ns.load(Relaxed)
    }

    /// What was used while no request shared the instance; where it is not shared, that is nobody's to ask.
    pub fn overhead(&self) -> Duration {
        Duration::from_nanos(self.overhead_ns.load(Relaxed))
    }

    pub fn over_budget(&self) -> bool {
        self.over_budget.load(Relaxed)
    }

    /// Whether the guest asked for more memory than it may have. It may have gone on all the same.
    pub fn memory_denied(&self) -> bool {
        self.memory_denied.load(Relaxed)
    }

    /// The instance is made, which was begun `from` then on.
    pub fn instantiated(&self, from: Instant) {
        let to = Instant::now();
        let time = to.duration_since(from);
        self.instantiate_ns.store(time.as_nanos() as u64, Relaxed);
        if let Some(tracer) = &self.tracer {
            tracer.instantiated(from, to);
            tracer.began(to);
        }
    }

    /// Who hears of calls to capabilities, if anyone.
    pub fn calls(&self) -> Option<&Arc<dyn CallSink>> {
        self.calls.as_ref()
    }

    /// What was used so far; bytes and wall time are others' to know.
    pub fn usage(&self) -> Usage {
        Usage {
            cpu_us: self.used_ns.load(Relaxed) / 1000,
            instantiate_us: self.instantiate_ns.load(Relaxed) / 1000,
            memory_bytes: self.memory_peak.load(Relaxed),
            ..Usage::default()
        }
    }
}

/// Sums an instance's memories and holds them to its app's limit.
#[derive(Debug)]
pub struct MemoryLimiter {
    limit: usize,
    held: usize,
    vitals: Arc<Vitals>,
}

impl MemoryLimiter {
    pub fn new(limits: &AppLimits, vitals: Arc<Vitals>) -> Self {
        Self {
            limit: limits.memory.as_usize(),
            held: 0,
            vitals,
        }
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let held = (self.held - current.min(self.held)).saturating_add(desired);
        // Growing beyond what the module itself declared is a plain failure, not a limit of ours.
        if most.is_some_and(|most| desired > most) {
            return Ok(false);
        }
        if held > self.limit {
            self.vitals.memory_denied.store(true, Relaxed);
            return Ok(false);
        }
        self.held = held;
        self.vitals.memory_peak.fetch_max(held as u64, Relaxed);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired as u64 <= limits::TABLE_ELEMENTS.default)
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES.default as usize
    }

    fn tables(&self) -> usize {
        limits::TABLES.default as usize
    }

    fn memories(&self) -> usize {
        limits::MEMORIES.default as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Millis, Size};

    fn limits(cpu: Millis, memory: Size) -> AppLimits {
        AppLimits {
            cpu,
            memory,
            ..AppLimits::default()
        }
    }

    #[test]
    fn memories_are_summed_and_a_denial_is_remembered() {
        let limits = limits(Millis(1), Size::mib(2));
        let vitals = Arc::new(Vitals::new(&limits, None));
        let mut limiter = MemoryLimiter::new(&limits, vitals.clone());
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(!vitals.memory_denied());
        assert!(
            !limiter
                .memory_growing(1 << 20, (1 << 20) + 65536, None)
                .unwrap()
        );
        assert!(vitals.memory_denied());
        assert_eq!(vitals.usage().memory_bytes, 2 << 20);
    }

    #[test]
    fn a_turn_ends_when_the_budget_is_spent() {
        let vitals = Vitals::new(&limits(Millis(2), Size::mib(1)), None);
        vitals.begin_turn();
        assert!(matches!(vitals.check_turn(), UpdateDeadline::Continue(_)));
        while vitals.check_turn_is_mild() {}
        assert!(vitals.over_budget());
        assert!(!vitals.is_long());
        assert!(vitals.end_turn() >= 2_000_000);
        assert!(vitals.is_long());
        assert!(vitals.usage().cpu_us >= 2000);
    }

    #[test]
    fn what_others_do_for_a_guest_leaves_it_less() {
        let vitals = Vitals::new(&limits(Millis(1000), Size::mib(1)), None);
        vitals.charge(Duration::from_millis(999));
        vitals.begin_turn();
        assert!(!vitals.over_budget());
        vitals.charge(Duration::from_secs(1));
        vitals.end_turn();
        assert!(vitals.over_budget());
        assert!(vitals.usage().cpu_us < 999_000);
    }

    #[test]
    fn who_leaves_amid_a_turn_takes_its_part_along_and_nothing_is_lost() {
        let spin = |vitals: &Vitals| {
            for _ in 0..200 {
                std::hint::black_box(vitals.check_turn());
            }
        };
        let vitals = Vitals::new(&limits(Millis(1000), Size::mib(1)), None);
        vitals.join(1);
        vitals.join(1);
        vitals.begin_turn();
        spin(&vitals);
        vitals.share_out();
        let first = vitals.shared_ns();
        vitals.leave(0);
        spin(&vitals);
        vitals.share_out();
        let second = vitals.shared_ns() - first;
        vitals.leave(0);
        spin(&vitals);
        let turn = vitals.end_turn();
        let overhead = vitals.overhead().as_nanos() as u64;
        assert!(first > 0 && second > 0 && overhead > 0);
        // Of a time that is shared by two, one nanosecond at the most is nobody's.
        assert!((turn - 1..=turn).contains(&(2 * first + second + overhead)));
    }

    impl Vitals {
        fn check_turn_is_mild(&self) -> bool {
            !matches!(self.check_turn(), UpdateDeadline::Interrupt)
        }
    }
}
