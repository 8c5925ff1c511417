//! What is kept of an app once it was asked for: its counts, and the parts of its log lines that never change.

use std::sync::{Arc, Mutex, PoisonError};

use model::pipe::{AppMetrics, Histogram};
use model::{Entry, Outcome, Owner, Usage};

use super::quarantine::Quarantine;

/// An app's counts and its log lines' fixed parts, for one version of it.
pub struct Served {
    pub tally: Arc<Tally>,
    pub quarantine: Quarantine,
    /// The beginning of each log line, up to the time.
    pub line_begin: Box<str>,
    /// From the time to the request's id.
    pub line_middle: Box<str>,
}

impl Served {
    pub fn new(entry: &Entry, tally: Arc<Tally>) -> Self {
        let (tenant, app) = (&entry.id.tenant, &entry.id.app);
        let (version, digest) = (entry.version, entry.wasm);
        // Names and digests have no characters that JSON escapes.
        Self {
            line_begin: format!("{}\t{{\"time_ms\":", tally.owner).into(),
            tally,
            quarantine: Quarantine::default(),
            line_middle: format!(
                ",\"tenant\":\"{tenant}\",\"app\":\"{app}\",\"version\":{version},\"digest\":\"{digest}\",\"request\":\""
            )
            .into(),
        }
    }
}

/// One app's counts, over all its versions.
pub struct Tally {
    pub owner: Owner,
    // Only one thread ever asks for it, so it is never contended; an `Observer` must be `Sync` all the same.
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: [u64; OUTCOMES],
    cpu_us: u64,
    bytes_in: u64,
    bytes_out: u64,
    memory_peak_bytes: u64,
    latency: Histogram,
    changed: bool,
}

/// How many outcomes there are.
pub const OUTCOMES: usize = Outcome::ALL.len();

impl Tally {
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            counts: Mutex::default(),
        }
    }

    /// Counts one request; true if it is the first since the last [`Self::metrics`].
    pub fn count(&self, outcome: Outcome, usage: &Usage) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.requests[outcome as usize] += 1;
        counts.cpu_us += usage.cpu_us;
        counts.bytes_in += usage.bytes_in;
        counts.bytes_out += usage.bytes_out;
        counts.memory_peak_bytes = counts.memory_peak_bytes.max(usage.memory_bytes);
        counts.latency.count(usage.wall_us);
        !std::mem::replace(&mut counts.changed, true)
    }

    /// Counts CPU time that is no request's; true as with [`Self::count`].
    pub fn overhead(&self, cpu_us: u64) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.cpu_us += cpu_us;
        !std::mem::replace(&mut counts.changed, true)
    }

    pub fn metrics(&self) -> AppMetrics {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.changed = false;
        AppMetrics {
            owner: self.owner.clone(),
            requests: by_outcome(&counts.requests),
            cpu_us: counts.cpu_us,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            memory_peak_bytes: counts.memory_peak_bytes,
            latency: counts.latency.clone(),
        }
    }
}

/// The outcomes that were counted at all.
pub fn by_outcome(counts: &[u64; OUTCOMES]) -> Vec<(Outcome, u64)> {
    let counted = Outcome::ALL
        .iter()
        .map(|outcome| (*outcome, counts[*outcome as usize]));
    counted.filter(|(_, count)| *count > 0).collect()
}
