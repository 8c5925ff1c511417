//! What is counted, by name, with help and unit: for whoever shows it.

use model::pipe::{AppMetrics, Histogram};
pub use prometheus_client::registry::Unit;

use super::{Counts, Facts};

/// Counts of one name, as they are at one moment.
#[derive(Debug)]
pub struct Family {
    /// Without the platform's prefix, a unit or what says that it is a counter.
    pub name: &'static str,
    pub help: &'static str,
    pub unit: Option<Unit>,
    pub values: Values,
}

/// What the counts of a family are.
#[derive(Debug)]
pub enum Values {
    /// Only grow.
    Counted(Vec<(Labels, u64)>),
    /// Seconds, of which there are only more.
    CountedSeconds(Vec<(Labels, f64)>),
    /// How many there are now, or were at the most.
    Present(Vec<(Labels, u64)>),
    Durations(Histogram),
}

/// What tells the counts of a family apart.
pub type Labels = Vec<(&'static str, String)>;

/// One moment's sum.
pub(super) struct Seen {
    pub(super) facts: Facts,
    pub(super) sum: Counts,
}

impl Seen {
    pub fn families(&self) -> Vec<Family> {
        let mut families = self.of_apps();
        families.extend(self.of_workers());
        families.extend(self.of_the_node());
        families
    }

    fn of_apps(&self) -> Vec<Family> {
        let mut apps: Vec<_> = self.sum.apps.values().collect();
        apps.sort_unstable_by(|a, b| a.owner.app.cmp(&b.owner.app));
        let named = |app: &AppMetrics| -> Labels {
            let (tenant, app) = (
                app.owner.app.tenant.to_string(),
                app.owner.app.app.to_string(),
            );
            vec![("tenant", tenant), ("app", app)]
        };
        let of_each = |count: fn(&AppMetrics) -> u64| {
            Values::Counted(apps.iter().map(|app| (named(app), count(app))).collect())
        };
        let mut requests = Vec::new();
        for app in &apps {
            for (outcome, count) in &app.requests {
                let mut labels = named(app);
                labels.push(("outcome", outcome.code().to_owned()));
                requests.push((labels, *count));
            }
        }
        let seconds = |us: fn(&AppMetrics) -> u64| {
            let seconds = apps.iter().map(|app| (named(app), us(app) as f64 / 1e6));
            Values::CountedSeconds(seconds.collect())
        };
        let peaks = apps.iter().map(|app| (named(app), app.memory_peak_bytes));
        vec![
            Family {
                name: "requests",
                help: "Requests that met an app, by how they ended",
                unit: None,
                values: Values::Counted(requests),
            },
            Family {
                name: "app_cpu",
                help: "CPU time of apps' invocations, host functions included",
                unit: Some(Unit::Seconds),
                values: seconds(|app| app.cpu_us),
            },
            Family {
                name: "app_received",
                help: "Request body bytes that apps were handed",
                unit: Some(Unit::Bytes),
                values: of_each(|app| app.bytes_in),
            },
            Family {
                name: "app_sent",
                help: "Reply body bytes that apps wrote",
                unit: Some(Unit::Bytes),
                values: of_each(|app| app.bytes_out),
            },
            Family {
                name: "app_duration",
                help: "From apps' requests' heads to the ends of their replies, summed",
                unit: Some(Unit::Seconds),
                values: seconds(|app| app.latency.sum_us),
            },
            Family {
                name: "app_memory_peak",
                help: "The most linear memory that one invocation of an app held",
                unit: Some(Unit::Bytes),
                values: Values::Present(peaks.collect()),
            },
        ]
    }

    fn of_workers(&self) -> Vec<Family> {
        let sum = &self.sum.worker;
        let unrouted = sum.unrouted.iter();
        let unrouted = unrouted.map(|(outcome, count)| (outcome.code(), *count));
        vec![
            counted_by(
                "unrouted_requests",
                "Requests that met no app, by how they ended",
                "outcome",
                unrouted,
            ),
            durations(
                "request_duration",
                "From a request's head to the end of its reply",
                &sum.latency,
            ),
            durations(
                "instantiate_duration",
                "The time to make an instance",
                &sum.instantiate,
            ),
            counted(
                "cold_starts",
                "Requests for which an app had to be loaded",
                sum.cold_starts,
            ),
            present(
                "live_instances",
                "Instances that are live now",
                sum.live_instances,
            ),
            present(
                "resident_apps",
                "Apps that are loaded now, summed over workers",
                sum.resident_apps,
            ),
            present(
                "connections",
                "Client connections that are open now",
                sum.connections,
            ),
            counted_by(
                "sent_requests",
                "Requests that guests sent: answered, refused by the platform, or failed elsewhere",
                "result",
                [
                    ("answered", sum.sent.answered),
                    ("refused", sum.sent.refused),
                    ("failed", sum.sent.failed),
                ],
            ),
            counted(
                "opened_connections",
                "Connections that were opened for requests of guests",
                sum.sent.opened,
            ),
            counted(
                "reused_connections",
                "Requests of guests that went over a connection that waited",
                sum.sent.reused,
            ),
            present(
                "idle_connections",
                "Connections that wait for a request of a guest now",
                sum.sent.idle,
            ),
        ]
    }

    fn of_the_node(&self) -> Vec<Family> {
        let (facts, worker) = (self.facts, &self.sum.worker);
        vec![
            counted_by(
                "log_lines_dropped",
                "Log lines that were lost: a worker's queue was full or its tenant logged too fast, no file took them, \
                 or standard output was not read",
                "by",
                [
                    ("worker", worker.log_lines_dropped),
                    ("files", facts.log_lines_dropped.files),
                    ("stdout", facts.log_lines_dropped.stdout),
                ],
            ),
            counted_by(
                "telemetry_dropped",
                "What the collector did not get: traced requests, log lines, and times that metrics were sent",
                "kind",
                [
                    ("traces", worker.traces_dropped + facts.not_exported.traces),
                    ("logs", facts.not_exported.logs),
                    ("metrics", facts.not_exported.metrics),
                ],
            ),
            present(
                "workers",
                "Workers that should be running",
                facts.workers as u64,
            ),
            counted(
                "worker_restarts",
                "Workers that ended and were replaced",
                facts.worker_restarts,
            ),
            present(
                "catalog_generation",
                "The catalog's generation that this node holds",
                facts.generation,
            ),
            present("catalog_apps", "Apps in the catalog", facts.apps as u64),
            present(
                "stores_failed",
                "1 if the key-value stores take no more changes, because their disk failed",
                u64::from(facts.stores_failed),
            ),
        ]
    }
}

fn counted(name: &'static str, help: &'static str, count: u64) -> Family {
    Family {
        name,
        help,
        unit: None,
        values: Values::Counted(vec![(Labels::new(), count)]),
    }
}

fn counted_by(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    counts: impl IntoIterator<Item = (&'static str, u64)>,
) -> Family {
    let counts = counts.into_iter();
    let labelled = counts.map(|(value, count)| (vec![(label, value.to_owned())], count));
    Family {
        name,
        help,
        unit: None,
        values: Values::Counted(labelled.collect()),
    }
}

fn present(name: &'static str, help: &'static str, value: u64) -> Family {
    Family {
        name,
        help,
        unit: None,
        values: Values::Present(vec![(Labels::new(), value)]),
    }
}

fn durations(name: &'static str, help: &'static str, durations: &Histogram) -> Family {
    Family {
        name,
        help,
        unit: Some(Unit::Seconds),
        values: Values::Durations(durations.clone()),
    }
}

/// The upper bounds of durations' buckets but the last, which has none.
pub fn bounds_seconds() -> impl Iterator<Item = f64> {
    Histogram::BOUNDS_US.iter().map(|us| *us as f64 / 1e6)
}
