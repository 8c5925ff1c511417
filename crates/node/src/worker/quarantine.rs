//! Quarantine: a version that keeps failing by its own fault is not run for a while, so that whoever shares its
//! worker has the time and the slots that it would burn. Pure: the second comes from outside.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use model::{Fault, Outcome, limits};

const WINDOW: usize = (limits::QUARANTINE_WINDOW.default.0 / 1000) as usize;
const TIME: u32 = (limits::QUARANTINE.default.0 / 1000) as u32;

/// How one version's invocations ended lately, second by second, and how long it is not to be run.
///
/// Only the worker's one thread uses it; its parts are atomic because an `Observer` must be `Sync`, and relaxed loads
/// and stores cost what plain ones do.
#[derive(Default)]
pub struct Quarantine {
    /// The first second in which the version is run again.
    until: AtomicU32,
    /// The newest second of the window.
    newest: AtomicU32,
    ended: [AtomicU32; WINDOW],
    failed: [AtomicU32; WINDOW],
}

/// What made a quarantine begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Invocations within the window that ended by the app's fault.
    pub failed: u64,
    /// All of them.
    pub ended: u64,
}

impl Quarantine {
    /// The seconds that are left of it; none if the version may run.
    pub fn left(&self, second: u32) -> Option<u32> {
        let left = self.until.load(Relaxed).saturating_sub(second);
        (left > 0).then_some(left)
    }

    /// Counts an invocation that ran; says so if a quarantine begins with it.
    pub fn count(&self, second: u32, outcome: Outcome) -> Option<Begun> {
        // What was in flight when it began says nothing new.
        if self.left(second).is_some() {
            return None;
        }
        self.advance(second);
        let place = second as usize % WINDOW;
        add(&self.ended[place]);
        if !is_failure(outcome) {
            return None;
        }
        add(&self.failed[place]);
        let sum = |counts: &[AtomicU32]| {
            counts
                .iter()
                .map(|count| u64::from(count.load(Relaxed)))
                .sum()
        };
        let begun = Begun {
            failed: sum(&self.failed),
            ended: sum(&self.ended),
        };
        let often = begun.failed >= limits::QUARANTINE_FAULTS.default;
        let mostly = begun.failed * 100 >= begun.ended * limits::QUARANTINE_SHARE.default;
        if !(often && mostly) {
            return None;
        }
        self.until.store(second.saturating_add(TIME), Relaxed);
        self.clear();
        Some(begun)
    }

    /// Makes `second` the newest of the window.
    fn advance(&self, second: u32) {
        let newest = self.newest.load(Relaxed);
        if second == newest {
            return;
        }
        self.newest.store(second, Relaxed);
        if (second.saturating_sub(newest) as usize) >= WINDOW {
            return self.clear();
        }
        for passed in newest + 1..=second {
            let place = passed as usize % WINDOW;
            self.ended[place].store(0, Relaxed);
            self.failed[place].store(0, Relaxed);
        }
    }

    fn clear(&self) {
        for count in self.ended.iter().chain(&self.failed) {
            count.store(0, Relaxed);
        }
    }
}

/// Whether it speaks against the version. Whoever sends or reads slowly can make any app run out of wall time, which
/// costs its neighbours nothing but a slot of its tenant's: a stranger must not put an app in quarantine by waiting.
/// And what was refused in quarantine, or because it went in a circle, was not run.
fn is_failure(outcome: Outcome) -> bool {
    let excused = matches!(
        outcome,
        Outcome::WallLimit | Outcome::Quarantined | Outcome::LoopDetected
    );
    outcome.fault() == Some(Fault::App) && !excused
}

fn add(count: &AtomicU32) {
    count.store(count.load(Relaxed).saturating_add(1), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts `(second, how many, outcome)`; in which second a quarantine begins, and of what.
    fn play(quarantine: &Quarantine, steps: &[(u32, u32, Outcome)]) -> Option<(u32, u64, u64)> {
        for (second, times, outcome) in steps {
            for _ in 0..*times {
                if let Some(begun) = quarantine.count(*second, *outcome) {
                    return Some((*second, begun.failed, begun.ended));
                }
            }
        }
        None
    }

    #[test]
    fn it_begins_when_failures_are_many_and_half_of_all_within_the_window() {
        use Outcome::{CpuLimit, MemoryLimit, Ok, Trap};
        let check = |steps: &[(u32, u32, Outcome)], expected: Option<(u32, u64, u64)>| {
            assert_eq!(play(&Quarantine::default(), steps), expected, "{steps:?}");
        };
        check(&[(0, 99, Trap)], None);
        check(&[(0, 100, Trap)], Some((0, 100, 100)));
        check(&[(7, 50, Trap), (8, 50, MemoryLimit)], Some((8, 100, 100)));
        // Half of all is enough, less is not.
        check(&[(3, 100, Ok), (3, 100, Trap)], Some((3, 100, 200)));
        check(&[(3, 101, Ok), (3, 100, Trap)], None);
        check(&[(3, 101, Ok), (3, 101, Trap)], Some((3, 101, 202)));
        // One in a thousand goes on being served, however long.
        let patient: Vec<_> = (0..2000)
            .map(|i| (i / 100, 1, if i % 1000 == 7 { CpuLimit } else { Ok }))
            .collect();
        check(&patient, None);
        // The window slides: 50 seconds before and 50 now are 100 within it, or not.
        check(&[(10, 50, Trap), (19, 50, Trap)], Some((19, 100, 100)));
        check(&[(10, 50, Trap), (20, 50, Trap)], None);
        check(&[(10, 50, Trap), (30, 50, Trap)], None);
        // What was good long ago does not excuse.
        check(&[(10, 5000, Ok), (20, 100, Trap)], Some((20, 100, 100)));
    }

    #[test]
    fn only_the_apps_own_failures_count() {
        for outcome in Outcome::ALL {
            let found = play(&Quarantine::default(), &[(5, 200, *outcome)]).is_some();
            let expected = matches!(
                outcome,
                Outcome::Trap
                    | Outcome::NoResponse
                    | Outcome::BadResponse
                    | Outcome::CpuLimit
                    | Outcome::MemoryLimit
            );
            assert_eq!(found, expected, "{outcome}");
        }
    }

    #[test]
    fn it_ends_after_its_time_and_counts_from_nothing() {
        let quarantine = Quarantine::default();
        assert_eq!(quarantine.left(0), None);
        assert!(play(&quarantine, &[(5, 100, Outcome::Trap)]).is_some());
        assert_eq!(quarantine.left(5), Some(10));
        assert_eq!(quarantine.left(14), Some(1));
        // What was in flight ends meanwhile.
        assert_eq!(play(&quarantine, &[(6, 500, Outcome::Trap)]), None);
        assert_eq!(quarantine.left(15), None);
        assert_eq!(play(&quarantine, &[(15, 99, Outcome::Trap)]), None);
        let again = play(&quarantine, &[(16, 1, Outcome::Trap)]);
        assert_eq!(again, Some((16, 100, 100)));
        assert_eq!(quarantine.left(16), Some(10));
    }
}
