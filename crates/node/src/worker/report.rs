//! What this worker has to say of its requests: log lines gathered in batches, and counts.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::pipe::{Histogram, SentMetrics, WorkerMetrics};
use model::trace::Traced;
use model::{Entry, LogStream, Outcome, Owner, TenantName, limits};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::line::{self, Done, Names};
use super::table::App;
use super::tally::{OUTCOMES, Served, Tally, by_outcome};

/// Apps in one metrics message: more would make a message that stalls the worker.
const APPS_PER_MESSAGE: usize = 256;

/// The worker's lines and counts.
#[derive(Default)]
pub struct Report {
    // Only the worker's one thread takes it, so it is never contended; an `Observer` must be `Sync` all the same.
    inner: Mutex<Inner>,
    /// A batch was begun, or is full.
    news: Notify,
    /// Seconds since the worker began.
    second: AtomicU32,
}

#[derive(Default)]
struct Inner {
    lines: Lines,
    tallies: HashMap<Owner, Arc<Tally>>,
    /// Those that counted something since the last metrics.
    changed: Vec<Arc<Tally>>,
    latency: Histogram,
    instantiate: Histogram,
    cold_starts: u64,
    unrouted: [u64; OUTCOMES],
    /// Traced requests that wait for the supervisor.
    traced: Vec<Traced>,
    traces_dropped: u64,
    /// What each tenant's guests wrote in this second.
    output: HashMap<TenantName, u64>,
}

/// Log lines that wait for the supervisor.
#[derive(Default)]
struct Lines {
    batch: Vec<u8>,
    /// When its first line came.
    begun: Option<Instant>,
    full: VecDeque<Vec<u8>>,
    /// A batch that was sent; its memory is the next one's.
    spare: Vec<u8>,
    full_bytes: usize,
    dropped: u64,
}

/// What a worker counts by looking.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    pub live_instances: u64,
    pub resident_apps: u64,
    pub connections: u64,
    pub sent: SentMetrics,
}

/// The time, as of the kernel's last tick: 4 ms coarse and the cheapest there is.
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl Report {
    /// What is kept of an app that was asked for.
    pub fn served<'a>(&self, app: &'a App) -> &'a Served {
        app.served.get_or_init(|| {
            let owner = app.entry.owner();
            let mut inner = self.lock();
            let tally = inner.tallies.entry(owner.clone());
            let tally = tally.or_insert_with(|| Arc::new(Tally::new(owner)));
            Box::new(Served::new(&app.entry, tally.clone()))
        })
    }

    /// A request that met no app.
    pub fn unrouted(&self, outcome: Outcome) {
        self.lock().unrouted[outcome as usize] += 1;
    }

    /// A request of an app is over.
    pub fn finished(&self, served: &Served, names: Names<'_>, done: &Done<'_>) {
        let first = served.tally.count(done.outcome, done.usage);
        let mut inner = self.lock();
        inner.latency.count(done.usage.wall_us);
        if done.usage.instantiate_us > 0 {
            inner.instantiate.count(done.usage.instantiate_us);
        }
        inner.cold_starts += u64::from(done.cold);
        if first {
            inner.changed.push(served.tally.clone());
        }
        let wake = inner
            .lines
            .write(|batch| line::request(batch, served, now_ms(), names, done));
        drop(inner);
        self.wake_if(wake);
    }

    /// An app used so much CPU time that is no request's.
    pub fn overhead(&self, served: &Served, cpu_us: u64) {
        if served.tally.overhead(cpu_us) {
            self.lock().changed.push(served.tally.clone());
        }
    }

    /// A guest wrote a line, or the platform has one for the app's owner.
    pub fn output(&self, served: &Served, names: Names<'_>, stream: LogStream, text: &str) {
        let mut inner = self.lock();
        let tenant = &served.tally.owner.app.tenant;
        let written = match inner.output.get_mut(tenant) {
            Some(written) => written,
            None => inner.output.entry(tenant.clone()).or_default(),
        };
        *written += text.len() as u64;
        if *written > limits::LOG_RATE.default.bytes() {
            inner.lines.dropped += 1;
            return;
        }
        let wake = inner
            .lines
            .write(|batch| line::output(batch, served, now_ms(), names, stream, text));
        drop(inner);
        self.wake_if(wake);
    }

    /// The seconds for which an app is not to be run, because it failed too often; none if it may.
    pub fn quarantined(&self, app: &App) -> Option<u32> {
        let served = app.served.get()?;
        served.quarantine.left(self.second.load(Relaxed))
    }

    /// An invocation that ran is over: if the version has failed too often now, its owner is told.
    pub fn judge(&self, entry: &Entry, served: &Served, names: Names<'_>, outcome: Outcome) {
        let second = self.second.load(Relaxed);
        let Some(begun) = served.quarantine.count(second, outcome) else {
            return;
        };
        let text = format!(
            "`{}` version {} is in quarantine for {}: {} of its last {} invocations failed by its own fault, this one \
             with `{outcome}`; until then its requests are answered 503 `quarantined` here; a new deployment ends it at once",
            entry.id.app,
            entry.version,
            limits::QUARANTINE.default,
            begun.failed,
            begun.ended,
        );
        // Beside what the tenant may write: whoever floods its log must still learn this.
        let wake = self.lock().lines.write(|batch| {
            line::output(batch, served, now_ms(), names, LogStream::Platform, &text);
        });
        self.wake_if(wake);
    }

    /// A traced request is over.
    pub fn traced(&self, traced: Traced) {
        let mut inner = self.lock();
        if inner.traced.len() as u64 >= limits::TRACE_QUEUE.default {
            inner.traces_dropped += 1;
        } else {
            inner.traced.push(traced);
        }
    }

    /// As many traced requests as go into a message; none if none waits.
    pub fn traced_batch(&self) -> Option<Vec<Traced>> {
        let mut inner = self.lock();
        let most = inner.traced.len().min(limits::TRACE_BATCH.default as usize);
        let batch: Vec<Traced> = inner.traced.drain(..most).collect();
        (!batch.is_empty()).then_some(batch)
    }

    /// Waits for a batch that is full or old enough. Nothing is lost if the future is dropped.
    pub async fn batch(&self) -> Vec<u8> {
        loop {
            let news = self.news.notified();
            let begun = {
                let mut inner = self.lock();
                if let Some(full) = inner.lines.take_full() {
                    return full;
                }
                inner.lines.begun
            };
            let Some(begun) = begun else {
                news.await;
                continue;
            };
            let due = begun + limits::LOG_DELAY.default.duration();
            if timeout_at(due, news).await.is_err()
                && let Some(batch) = self.rest()
            {
                return batch;
            }
        }
    }

    /// What waits now, in order; none if nothing does.
    pub fn rest(&self) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        inner.lines.take_full().or_else(|| inner.lines.take_batch())
    }

    /// Takes back a batch that was sent.
    pub fn reuse(&self, mut batch: Vec<u8>) {
        batch.clear();
        self.lock().lines.spare = batch;
    }

    /// A second has passed; each tenant may write again.
    pub fn second(&self) {
        self.second.store(self.second.load(Relaxed) + 1, Relaxed);
        self.lock().output.clear();
    }

    /// Everything that was counted, and the apps that changed since the last time; in several messages if those
    /// are many.
    pub fn metrics(&self, gauges: Gauges) -> Vec<WorkerMetrics> {
        let mut inner = self.lock();
        let changed = std::mem::take(&mut inner.changed);
        let whole = WorkerMetrics {
            apps: Vec::new(),
            latency: inner.latency.clone(),
            instantiate: inner.instantiate.clone(),
            cold_starts: inner.cold_starts,
            unrouted: by_outcome(&inner.unrouted),
            log_lines_dropped: inner.lines.dropped,
            traces_dropped: inner.traces_dropped,
            live_instances: gauges.live_instances,
            resident_apps: gauges.resident_apps,
            connections: gauges.connections,
            sent: gauges.sent,
        };
        drop(inner);
        let mut chunks = changed.chunks(APPS_PER_MESSAGE);
        let first = chunks.next().unwrap_or_default();
        let with_apps = |tallies: &[Arc<Tally>]| WorkerMetrics {
            apps: tallies.iter().map(|tally| tally.metrics()).collect(),
            ..whole.clone()
        };
        [first].into_iter().chain(chunks).map(with_apps).collect()
    }

    /// Forgets the counts of an app that was removed; the supervisor has them.
    pub fn forget(&self, owner: &Owner) {
        self.lock().tallies.remove(owner);
    }

    fn wake_if(&self, wake: bool) {
        if wake {
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Appends a line, if there is room; true if someone should look.
    fn write(&mut self, append: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.full_bytes + self.batch.len() >= limits::LOG_QUEUE.default.as_usize() {
            self.dropped += 1;
            return false;
        }
        let begins = self.batch.is_empty();
        append(&mut self.batch);
        if begins {
            self.begun = Some(Instant::now());
        }
        if self.batch.len() < limits::LOG_BATCH.default.as_usize() {
            return begins;
        }
        if let Some(batch) = self.take_batch() {
            self.full_bytes += batch.len();
            self.full.push_back(batch);
        }
        true
    }

    fn take_full(&mut self) -> Option<Vec<u8>> {
        let full = self.full.pop_front()?;
        self.full_bytes -= full.len();
        Some(full)
    }

    fn take_batch(&mut self) -> Option<Vec<u8>> {
        self.begun = None;
        if self.batch.is_empty() {
            return None;
        }
        let next = std::mem::take(&mut self.spare);
        Some(std::mem::replace(&mut self.batch, next))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use model::{AppLimits, Digest, Entry, Granted, GuestKind, Replies, Usage, VersionNumber};

    use super::*;
    use crate::worker::request_id::RequestIds;

    fn app(id: &str) -> App {
        let entry = Arc::new(Entry {
            id: id.parse().unwrap(),
            incarnations: Default::default(),
            version: VersionNumber::new(1).unwrap(),
            revision: 1,
            kind: GuestKind::HttpComponent,
            wasm: Digest::of(b"x"),
            routes: vec![],
            grant: Granted::default(),
            limits: AppLimits::default(),
            reply: Replies::default(),
            reuse: None,
        });
        App {
            entry,
            served: Default::default(),
        }
    }

    fn done(usage: &Usage) -> Done<'_> {
        Done {
            method: "GET",
            authority: "a.test",
            path: "/",
            status: 200,
            outcome: Outcome::Ok,
            usage,
            cold: false,
            client: "::1",
        }
    }

    const NOTHING: Gauges = Gauges {
        live_instances: 0,
        resident_apps: 0,
        connections: 0,
        sent: SentMetrics {
            answered: 0,
            refused: 0,
            failed: 0,
            opened: 0,
            reused: 0,
            idle: 0,
        },
    };

    #[tokio::test]
    async fn lines_leave_after_a_moment_or_when_they_are_many() {
        let report = Report::default();
        let (app, id) = (app("alice/shop"), RequestIds::new(1).next(0));
        let served = report.served(&app);
        let before = Instant::now();
        report.output(served, Names::of(&id), LogStream::Stdout, "one");
        report.output(served, Names::of(&id), LogStream::Stdout, "two");
        let batch = String::from_utf8(report.batch().await).unwrap();
        assert_eq!(batch.lines().count(), 2);
        assert!(before.elapsed() >= Duration::from_millis(20));

        let long = "x".repeat(8 << 10);
        for _ in 0..8 {
            report.output(served, Names::of(&id), LogStream::Stdout, &long);
        }
        let full = report.batch().now_or_never().unwrap();
        assert_eq!(full.iter().filter(|b| **b == b'\n').count(), 8);
        assert!(report.rest().is_none());
    }

    #[test]
    fn a_tenant_that_writes_too_fast_loses_lines_and_no_other_does() {
        let report = Report::default();
        let (loud, calm) = (app("loud/a"), app("calm/a"));
        let (loud, calm) = (report.served(&loud), report.served(&calm));
        let id = RequestIds::new(1).next(0);
        let text = "x".repeat(8 << 10);
        for _ in 0..130 {
            report.output(loud, Names::of(&id), LogStream::Stdout, &text);
        }
        report.output(calm, Names::of(&id), LogStream::Stdout, &text);
        assert_eq!(report.metrics(NOTHING)[0].log_lines_dropped, 2);
        report.second();
        report.output(loud, Names::of(&id), LogStream::Stdout, &text);
        assert_eq!(report.metrics(NOTHING)[0].log_lines_dropped, 2);
        let mut lines = 0;
        while let Some(batch) = report.rest() {
            lines += batch.iter().filter(|b| **b == b'\n').count();
        }
        assert_eq!(lines, 130);
    }

    #[test]
    fn what_a_supervisor_does_not_take_is_dropped_and_counted() {
        let report = Report::default();
        let (app, id) = (app("alice/shop"), RequestIds::new(1).next(0));
        let served = report.served(&app);
        let usage = Usage::default();
        for _ in 0..20_000 {
            report.finished(served, Names::of(&id), &done(&usage));
        }
        let metrics = report.metrics(NOTHING).remove(0);
        let (mut lines, mut bytes) = (0, 0);
        while let Some(batch) = report.rest() {
            lines += batch.iter().filter(|b| **b == b'\n').count();
            bytes += batch.len();
        }
        assert!(bytes < limits::LOG_QUEUE.default.as_usize() + (64 << 10));
        assert!(metrics.log_lines_dropped > 0);
        assert_eq!(lines as u64 + metrics.log_lines_dropped, 20_000);
        assert_eq!(metrics.apps[0].requests, [(Outcome::Ok, 20_000)]);
    }

    #[test]
    fn what_no_request_used_is_counted_as_the_apps_and_as_no_request() {
        let report = Report::default();
        let app = app("alice/shop");
        report.overhead(report.served(&app), 5);
        let counted = report.metrics(NOTHING).remove(0);
        let found = &counted.apps[0];
        assert_eq!((found.cpu_us, found.requests.len()), (5, 0));
        assert!(report.metrics(NOTHING)[0].apps.is_empty());
    }

    #[test]
    fn metrics_tell_of_the_apps_that_changed() {
        let report = Report::default();
        let apps: Vec<_> = (0..600).map(|i| app(&format!("alice/app-{i}"))).collect();
        let id = RequestIds::new(1).next(0);
        let usage = Usage {
            cpu_us: 3,
            wall_us: 15,
            instantiate_us: 9,
            memory_bytes: 7,
            ..Usage::default()
        };
        for app in &apps {
            report.finished(report.served(app), Names::of(&id), &done(&usage));
        }
        report.unrouted(Outcome::NotFound);
        let messages = report.metrics(NOTHING);
        let told: Vec<_> = messages.iter().map(|m| m.apps.len()).collect();
        assert_eq!(told, [256, 256, 88]);
        for message in &messages {
            assert_eq!(
                (message.latency.count, message.instantiate.sum_us),
                (600, 5400)
            );
            assert_eq!(message.unrouted, [(Outcome::NotFound, 1)]);
        }
        report.finished(report.served(&apps[7]), Names::of(&id), &done(&usage));
        let again = report.metrics(NOTHING).remove(0);
        assert_eq!(again.apps.len(), 1);
        assert_eq!(again.apps[0].cpu_us, 6);
        assert_eq!(again.apps[0].memory_peak_bytes, 7);
        assert_eq!(
            (again.apps[0].latency.count, again.apps[0].latency.sum_us),
            (2, 30)
        );
        assert!(report.metrics(NOTHING)[0].apps.is_empty());
    }
}
