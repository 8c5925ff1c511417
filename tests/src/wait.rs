//! Waiting for a condition, and saying that a test cannot be run here.

use std::thread;
use std::time::{Duration, Instant};

/// What a machine that is busy with other things still manages.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `find` finds something; panics with `what` if it does not in time.
pub fn eventually<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {DEADLINE:?} in vain: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Says that a test was not run. `cargo xtask test` counts it, and in CI calls it a failure.
pub fn skip(what: &str, why: &str) {
    println!("skipped: {what}: {why}");
}
