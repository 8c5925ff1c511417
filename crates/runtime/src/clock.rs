//! The CPU time of a turn, without a system call for most.
//!
//! A thread's CPU clock is a system call, half a microsecond of the twenty that a small invocation takes; the monotonic
//! clock is not. So a turn that was short is charged the time that passed, and only one that was longer what the CPU clock
//! says of it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::time::{ClockId, clock_gettime};

/// Turns shorter than this are charged the time that passed, unless they are to be exact. That is too much by what else the
/// core did meanwhile; no turn is charged too much by more than this, and none too little.
const SHORT_NS: u64 = 100_000;

/// When a turn began. One thread uses it at a time.
#[derive(Debug, Default)]
pub struct Turn {
    began_ns: AtomicU64,
    /// What the thread's CPU clock said then, or less than [`SHORT_NS`] before.
    cpu_ns: AtomicU64,
    exact: AtomicBool,
}

/// What the two clocks said at one moment.
#[derive(Clone, Copy)]
struct Reading {
    passed_ns: u64,
    cpu_ns: u64,
}

thread_local! {
    /// The newest reading of this thread's CPU clock.
    static NEWEST: Cell<Reading> = const { Cell::new(Reading { passed_ns: 0, cpu_ns: 0 }) };
}

impl Turn {
    /// It begins now, on this thread; `exact` if it is charged by the CPU clock alone, however short.
    pub fn begin(&self, exact: bool) {
        let now = passed_ns();
        let mut newest = NEWEST.get();
        if exact || now.saturating_sub(newest.passed_ns) >= SHORT_NS {
            newest = Reading::at(now);
        }
        self.exact.store(exact, Relaxed);
        self.began_ns.store(now, Relaxed);
        self.cpu_ns.store(newest.cpu_ns, Relaxed);
    }

    /// The CPU time since it began.
    pub fn cpu_ns(&self) -> u64 {
        let now = passed_ns();
        let passed = now.saturating_sub(self.began_ns.load(Relaxed));
        if passed < SHORT_NS && !self.exact.load(Relaxed) {
            return passed;
        }
        let used = Reading::at(now).cpu_ns - self.cpu_ns.load(Relaxed);
        used.min(passed)
    }
}

impl Reading {
    fn at(passed_ns: u64) -> Self {
        let reading = Self {
            passed_ns,
            cpu_ns: cpu_ns(),
        };
        NEWEST.set(reading);
        reading
    }
}

fn cpu_ns() -> u64 {
    ns(ClockId::ThreadCPUTime)
}

fn passed_ns() -> u64 {
    ns(ClockId::Monotonic)
}

fn ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn spin(time: Duration) {
        let began = cpu_ns();
        while cpu_ns() - began < time.as_nanos() as u64 {}
    }

    #[test]
    fn sleep_costs_nothing_and_work_what_it_took() {
        let turn = Turn::default();
        for _ in 0..20 {
            turn.begin(false);
            let before = cpu_ns();
            std::thread::sleep(Duration::from_millis(2));
            spin(Duration::from_millis(1));
            let used = cpu_ns() - before;
            let charged = turn.cpu_ns();
            assert!(
                charged >= used && charged <= used + SHORT_NS,
                "{used} {charged}"
            );
        }
    }

    #[test]
    fn short_turns_sum_to_the_time_they_took() {
        let (turn, mut charged) = (Turn::default(), 0);
        let began = Instant::now();
        for _ in 0..2_000 {
            turn.begin(false);
            spin(Duration::from_micros(5));
            charged += turn.cpu_ns();
        }
        let passed = began.elapsed().as_nanos() as u64;
        // Each spun for so long; not all of the time that passed was theirs.
        assert!(charged >= 2_000 * 5_000, "{charged}");
        assert!(charged <= passed, "{charged} {passed}");
    }
}
