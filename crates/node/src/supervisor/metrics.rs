//! What an operator sees: the counts of every worker, the dead ones too, as Prometheus text.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use model::api::AppUsage;
use model::pipe::{AppMetrics, Histogram, WorkerMetrics};
use model::{AppId, Catalog, Fault, Generation, Outcome};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

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
    apps: HashMap<AppId, AppMetrics>,
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
    /// Log lines that no file took.
    pub log_lines_dropped: u64,
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
            .extend(apps.into_iter().map(|app| (app.id.clone(), app)));
    }

    /// The slot's worker is gone: its counts stay, what it held does not.
    pub fn end(&self, slot: usize) {
        let mut workers = self.workers();
        let ended = std::mem::take(&mut workers.present[slot]);
        workers.past.add(ended);
        let past = &mut workers.past.worker;
        (past.live_instances, past.resident_apps, past.connections) = (0, 0, 0);
    }

    /// Everything as Prometheus text (OpenMetrics). Apps that the catalog no longer has are forgotten.
    pub fn text(&self, facts: Facts, catalog: &Catalog) -> String {
        let sum = self.sum(catalog);
        let mut registry = Registry::with_prefix("midge");
        registry.register_collector(Box::new(Seen { facts, sum }));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes all text");
        text
    }

    /// What each app of the catalog did and used, in no order.
    pub fn usage(&self, catalog: &Catalog) -> Vec<AppUsage> {
        let sum = self.sum(catalog);
        sum.apps.into_values().map(usage).collect()
    }

    /// Of all workers. Apps that the catalog no longer has are forgotten.
    fn sum(&self, catalog: &Catalog) -> Counts {
        let mut workers = self.workers();
        for counts in workers.all() {
            counts.apps.retain(|id, _| catalog.get(id).is_some());
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
        mine.live_instances += theirs.live_instances;
        mine.resident_apps += theirs.resident_apps;
        mine.connections += theirs.connections;
    }
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
        tenant: app.id.tenant,
        app: app.id.app,
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

/// One moment's sum, ready to be written.
struct Seen {
    facts: Facts,
    sum: Counts,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.fmt(f)
    }
}

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_apps(encoder)?;
        self.encode_workers(encoder)?;
        self.encode_facts(encoder)
    }
}

impl Seen {
    fn encode_apps(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut apps: Vec<_> = self.sum.apps.values().collect();
        apps.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let named = |app: &AppMetrics| {
            let (tenant, app) = (app.id.tenant.to_string(), app.id.app.to_string());
            [("tenant", tenant), ("app", app)]
        };

        let help = "Requests that met an app, by how they ended";
        let mut family = counter(encoder, "requests", help, None)?;
        for app in &apps {
            for (outcome, count) in &app.requests {
                let labels = (named(app), [("outcome", outcome.code())]);
                count_one(family.encode_family(&labels)?, *count)?;
            }
        }
        let help = "CPU time of apps' invocations, host functions included";
        let mut family = counter(encoder, "app_cpu", help, Some(&Unit::Seconds))?;
        for app in &apps {
            let labels = named(app);
            let seconds = app.cpu_us as f64 / 1e6;
            let mut one = family.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        let help = "Request body bytes that apps were handed";
        let mut family = counter(encoder, "app_received", help, Some(&Unit::Bytes))?;
        for app in &apps {
            count_one(family.encode_family(&named(app))?, app.bytes_in)?;
        }
        let help = "Reply body bytes that apps wrote";
        let mut family = counter(encoder, "app_sent", help, Some(&Unit::Bytes))?;
        for app in &apps {
            count_one(family.encode_family(&named(app))?, app.bytes_out)?;
        }
        let help = "From apps' requests' heads to the ends of their replies, summed";
        let mut family = counter(encoder, "app_duration", help, Some(&Unit::Seconds))?;
        for app in &apps {
            let labels = named(app);
            let seconds = app.latency.sum_us as f64 / 1e6;
            let mut one = family.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        let help = "The most linear memory that one invocation of an app held";
        let unit = Some(&Unit::Bytes);
        let mut family =
            encoder.encode_descriptor("app_memory_peak", help, unit, MetricType::Gauge)?;
        for app in &apps {
            let labels = named(app);
            family
                .encode_family(&labels)?
                .encode_gauge(&app.memory_peak_bytes)?;
        }
        Ok(())
    }

    fn encode_workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sum = &self.sum.worker;
        let help = "Requests that met no app, by how they ended";
        let mut family = counter(encoder, "unrouted_requests", help, None)?;
        for (outcome, count) in &sum.unrouted {
            count_one(
                family.encode_family(&[("outcome", outcome.code())])?,
                *count,
            )?;
        }
        let help = "From a request's head to the end of its reply";
        histogram(encoder, "request_duration", help, &sum.latency)?;
        let help = "The time to make an instance";
        histogram(encoder, "instantiate_duration", help, &sum.instantiate)?;
        let help = "Requests for which an app had to be loaded";
        count_one(
            counter(encoder, "cold_starts", help, None)?,
            sum.cold_starts,
        )?;
        let help = "Instances that are live now";
        gauge(encoder, "live_instances", help, sum.live_instances)?;
        let help = "Apps that are loaded now, summed over workers";
        gauge(encoder, "resident_apps", help, sum.resident_apps)?;
        let help = "Client connections that are open now";
        gauge(encoder, "connections", help, sum.connections)
    }

    fn encode_facts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let facts = self.facts;
        let help = "Log lines that were lost: a worker's queue was full or its tenant logged too fast, or no file took them";
        let mut family = counter(encoder, "log_lines_dropped", help, None)?;
        for (by, lines) in [
            ("worker", self.sum.worker.log_lines_dropped),
            ("files", facts.log_lines_dropped),
        ] {
            count_one(family.encode_family(&[("by", by)])?, lines)?;
        }
        let help = "Workers that should be running";
        gauge(encoder, "workers", help, facts.workers as u64)?;
        let help = "Workers that ended and were replaced";
        let restarts = counter(encoder, "worker_restarts", help, None)?;
        count_one(restarts, facts.worker_restarts)?;
        let help = "The catalog's generation that this node holds";
        gauge(encoder, "catalog_generation", help, facts.generation)?;
        let help = "Apps in the catalog";
        gauge(encoder, "catalog_apps", help, facts.apps as u64)
    }
}

fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    unit: Option<&'a Unit>,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Counter)
}

fn count_one(mut metric: MetricEncoder<'_>, count: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, f64>(&count, None)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    durations: &Histogram,
) -> fmt::Result {
    let bounds = Histogram::BOUNDS_US
        .iter()
        .map(|us| *us as f64 / 1e6)
        .chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(durations.buckets).collect();
    let sum = durations.sum_us as f64 / 1e6;
    encoder
        .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(sum, durations.count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::example;

    const FACTS: Facts = Facts {
        generation: 7,
        apps: 2,
        workers: 2,
        worker_restarts: 1,
        log_lines_dropped: 3,
    };

    fn app(number: u64, requests: &[(Outcome, u64)]) -> AppMetrics {
        AppMetrics {
            id: example::entry(number, 1).id.clone(),
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
        let text = metrics.text(FACTS, &catalog);
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
            r#"midge_log_lines_dropped_total{by="worker"} 6"#,
            r#"midge_log_lines_dropped_total{by="files"} 3"#,
            "midge_worker_restarts_total 1",
            "midge_catalog_generation 7",
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
        assert_eq!(first.latency_sum_us, 3000);
    }
}
