//! What an operator sees: the counts of every worker, the dead ones too.

mod families;
mod text;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use model::api::AppUsage;
use model::pipe::{AppMetrics, SentMetrics, WorkerMetrics};
use model::{Catalog, Fault, Generation, Outcome, Owner};

use families::Seen;
pub use families::{Family, Labels, Unit, Values, bounds_seconds};
pub use text::text;

/// What the name of everything counted begins with.
pub const PREFIX: &str = "midge";

/// The counts of all workers.
pub struct Metrics {
    workers: Mutex<Workers>,
}

#[derive(Clone)]
struct Workers {
    /// What workers counted that are gone.
    past: Counts,
    /// By slot, what the present worker counted since it began.
    present: Vec<Counts>,
}

#[derive(Clone, Default)]
struct Counts {
    apps: HashMap<Owner, AppMetrics>,
    /// Everything else; `apps` is empty here.
    worker: WorkerMetrics,
}

/// What the supervisor knows itself.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub generation: Generation,
    pub apps: usize,
    pub workers: usize,
    pub worker_restarts: u64,
    pub log_lines_dropped: Unwritten,
    pub not_exported: NotExported,
    /// Whether the key-value stores take no more changes.
    pub stores_failed: bool,
}

/// Log lines that were not written, by where to.
#[derive(Debug, Clone, Copy)]
pub struct Unwritten {
    pub files: u64,
    pub stdout: u64,
}

/// What was to go to the collector and was dropped.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotExported {
    /// Requests that were traced.
    pub traces: u64,
    pub logs: u64,
    /// Times that metrics were not taken.
    pub metrics: u64,
}

impl Metrics {
    pub fn new(slots: usize) -> Self {
        Self {
            workers: Mutex::new(Workers {
                past: Counts::default(),
                present: vec![Counts::default(); slots],
            }),
        }
    }

    /// Takes a worker's newest counts: all of them since it began, of apps only those that changed.
    pub fn take(&self, slot: usize, mut newest: WorkerMetrics) {
        let apps = std::mem::take(&mut newest.apps);
        let mut workers = self.workers();
        let counts = &mut workers.present[slot];
        counts.worker = newest;
        counts
            .apps
            .extend(apps.into_iter().map(|app| (app.owner.clone(), app)));
    }

    /// The slot's worker is gone: its counts stay, what it held does not.
    pub fn end(&self, slot: usize) {
        let mut workers = self.workers();
        let ended = std::mem::take(&mut workers.present[slot]);
        workers.past.add(ended);
        let past = &mut workers.past.worker;
        (past.live_instances, past.resident_apps, past.connections) = (0, 0, 0);
        past.sent.idle = 0;
    }

    /// What each app of the catalog did and used, in no order.
    pub fn usage(&self, catalog: &Catalog) -> Vec<AppUsage> {
        let sum = self.sum(catalog);
        sum.apps.into_values().map(usage).collect()
    }

    /// Everything as it is now. Apps that the catalog no longer has are forgotten.
    pub fn families(&self, facts: Facts, catalog: &Catalog) -> Vec<Family> {
        let sum = self.sum(catalog);
        Seen { facts, sum }.families()
    }

    /// Of all workers. Apps that the catalog no longer has are forgotten, those too whose name another has now.
    fn sum(&self, catalog: &Catalog) -> Counts {
        let mut workers = self.workers();
        for counts in workers.all() {
            counts.apps.retain(|owner, _| {
                let entry = catalog.get(&owner.app);
                entry.is_some_and(|entry| entry.incarnations.app == owner.incarnation)
            });
        }
        let mut sum = workers.past.clone();
        for counts in &workers.present {
            sum.add(counts.clone());
        }
        sum
    }

    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers
            .lock()
            .expect("nothing panics while the counts are locked")
    }
}

impl Workers {
    fn all(&mut self) -> impl Iterator<Item = &mut Counts> {
        self.present.iter_mut().chain([&mut self.past])
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        for (id, app) in other.apps {
            match self.apps.get_mut(&id) {
                Some(mine) => add_app(mine, &app),
                None => {
                    self.apps.insert(id, app);
                }
            }
        }
        let (mine, theirs) = (&mut self.worker, other.worker);
        mine.latency.add(&theirs.latency);
        mine.instantiate.add(&theirs.instantiate);
        mine.cold_starts += theirs.cold_starts;
        add_outcomes(&mut mine.unrouted, &theirs.unrouted);
        mine.log_lines_dropped += theirs.log_lines_dropped;
        mine.traces_dropped += theirs.traces_dropped;
        mine.live_instances += theirs.live_instances;
        mine.resident_apps += theirs.resident_apps;
        mine.connections += theirs.connections;
        add_sent(&mut mine.sent, theirs.sent);
    }
}

fn add_sent(mine: &mut SentMetrics, theirs: SentMetrics) {
    mine.answered += theirs.answered;
    mine.refused += theirs.refused;
    mine.failed += theirs.failed;
    mine.opened += theirs.opened;
    mine.reused += theirs.reused;
    mine.idle += theirs.idle;
}

fn add_app(mine: &mut AppMetrics, theirs: &AppMetrics) {
    add_outcomes(&mut mine.requests, &theirs.requests);
    mine.cpu_us += theirs.cpu_us;
    mine.bytes_in += theirs.bytes_in;
    mine.bytes_out += theirs.bytes_out;
    mine.memory_peak_bytes = mine.memory_peak_bytes.max(theirs.memory_peak_bytes);
    mine.latency.add(&theirs.latency);
}

fn usage(app: AppMetrics) -> AppUsage {
    let by = |fault: Fault| {
        let failed = app.requests.iter();
        let failed = failed.filter(|(outcome, _)| outcome.fault() == Some(fault));
        failed.map(|(_, count)| count).sum()
    };
    let mut latency = app.latency.buckets.to_vec();
    let filled = latency.iter().rposition(|count| *count > 0);
    latency.truncate(filled.map_or(0, |last| last + 1));
    AppUsage {
        requests: app.requests.iter().map(|(_, count)| count).sum(),
        app_errors: by(Fault::App),
        platform_errors: by(Fault::Platform),
        cpu_us: app.cpu_us,
        memory_peak_bytes: app.memory_peak_bytes,
        bytes_in: app.bytes_in,
        bytes_out: app.bytes_out,
        latency,
        latency_sum_us: app.latency.sum_us,
        latency_max_us: app.latency.max_us,
        tenant: app.owner.app.tenant,
        app: app.owner.app.app,
    }
}

fn add_outcomes(mine: &mut Vec<(Outcome, u64)>, theirs: &[(Outcome, u64)]) {
    for (outcome, count) in theirs {
        match mine.iter_mut().find(|(mine, _)| mine == outcome) {
            Some((_, sum)) => *sum += count,
            None => mine.push((*outcome, *count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::pipe::Histogram;

    use super::*;
    use crate::supervisor::example;

    const FACTS: Facts = Facts {
        generation: 7,
        apps: 2,
        workers: 2,
        worker_restarts: 1,
        log_lines_dropped: Unwritten {
            files: 3,
            stdout: 4,
        },
        not_exported: NotExported {
            traces: 5,
            logs: 6,
            metrics: 7,
        },
        stores_failed: true,
    };

    fn app(number: u64, requests: &[(Outcome, u64)]) -> AppMetrics {
        AppMetrics {
            owner: example::entry(number, 1).owner(),
            requests: requests.to_vec(),
            cpu_us: 500_000,
            bytes_in: 10,
            bytes_out: 20,
            memory_peak_bytes: 1000 * (number + 1),
            latency: latency(1500),
        }
    }

    fn latency(us: u64) -> Histogram {
        let mut latency = Histogram::default();
        latency.count(us);
        latency
    }

    fn worker(apps: Vec<AppMetrics>) -> WorkerMetrics {
        let mut worker = WorkerMetrics {
            apps,
            cold_starts: 1,
            unrouted: vec![(Outcome::NotFound, 4)],
            live_instances: 5,
            log_lines_dropped: 2,
            traces_dropped: 1,
            sent: SentMetrics {
                answered: 3,
                refused: 1,
                idle: 2,
                ..SentMetrics::default()
            },
            ..WorkerMetrics::default()
        };
        worker.latency.count(150);
        worker
    }

    #[test]
    fn the_living_and_the_dead_are_summed() {
        let catalog = Catalog::build(7, [example::entry(0, 1), example::entry(1, 1)]);
        let metrics = Metrics::new(2);
        metrics.take(0, worker(vec![app(0, &[(Outcome::Ok, 5)])]));
        metrics.take(
            0,
            worker(vec![app(0, &[(Outcome::Ok, 6), (Outcome::Trap, 1)])]),
        );
        metrics.take(
            1,
            worker(vec![
                app(0, &[(Outcome::Ok, 1)]),
                app(1, &[(Outcome::Ok, 2)]),
            ]),
        );
        metrics.end(0);
        metrics.take(0, worker(vec![app(9, &[(Outcome::Ok, 9)])]));
        let text = text(metrics.families(FACTS, &catalog));
        for line in [
            "# TYPE midge_requests counter",
            r#"midge_requests_total{tenant="alice",app="app-0",outcome="ok"} 7"#,
            r#"midge_requests_total{tenant="alice",app="app-0",outcome="trap"} 1"#,
            r#"midge_requests_total{tenant="alice",app="app-1",outcome="ok"} 2"#,
            r#"midge_app_cpu_seconds_total{tenant="alice",app="app-0"} 1.0"#,
            r#"midge_app_received_bytes_total{tenant="alice",app="app-0"} 20"#,
            r#"midge_app_sent_bytes_total{tenant="alice",app="app-0"} 40"#,
            r#"midge_app_duration_seconds_total{tenant="alice",app="app-0"} 0.003"#,
            r#"midge_app_memory_peak_bytes{tenant="alice",app="app-1"} 2000"#,
            r#"midge_unrouted_requests_total{outcome="not-found"} 12"#,
            r#"midge_request_duration_seconds_bucket{le="0.0001"} 0"#,
            r#"midge_request_duration_seconds_bucket{le="0.0002"} 3"#,
            r#"midge_request_duration_seconds_bucket{le="+Inf"} 3"#,
            "midge_request_duration_seconds_count 3",
            "midge_cold_starts_total 3",
            "midge_live_instances 10",
            r#"midge_sent_requests_total{result="answered"} 9"#,
            r#"midge_sent_requests_total{result="failed"} 0"#,
            "midge_idle_connections 4",
            r#"midge_log_lines_dropped_total{by="worker"} 6"#,
            r#"midge_log_lines_dropped_total{by="files"} 3"#,
            r#"midge_log_lines_dropped_total{by="stdout"} 4"#,
            r#"midge_telemetry_dropped_total{kind="traces"} 8"#,
            r#"midge_telemetry_dropped_total{kind="logs"} 6"#,
            r#"midge_telemetry_dropped_total{kind="metrics"} 7"#,
            "midge_worker_restarts_total 1",
            "midge_catalog_generation 7",
            "midge_stores_failed 1",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} in:\n{text}"
            );
        }
        assert!(!text.contains("app-9"), "an app that is gone is forgotten");

        let mut usage = metrics.usage(&catalog);
        usage.sort_by(|a, b| a.app.cmp(&b.app));
        assert_eq!(usage.len(), 2);
        let first = &usage[0];
        assert_eq!(
            (first.requests, first.app_errors, first.platform_errors),
            (8, 1, 0)
        );
        assert_eq!((first.cpu_us, first.memory_peak_bytes), (1_000_000, 1000));
        assert_eq!(first.latency, [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!((first.latency_sum_us, first.latency_max_us), (3000, 1500));
    }
}
