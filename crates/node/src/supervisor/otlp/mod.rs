//! Traces, log lines and metrics on their way to a collector: OTLP over HTTP, as protobuf.
//!
//! Everything that waits is bounded, every send has a deadline, and what is dropped is counted: a collector that is slow
//! or gone costs its own records and nothing else. The messages are those of `opentelemetry-proto`; why the SDK is not
//! used stands in `docs/decisions/telemetry.md`.

mod collector;
mod points;
mod queue;
mod records;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Uri;
use model::trace::{SampleRatio, Traced};
use model::{Millis, limits};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Notice;
use super::metrics::{Family, NotExported};
use collector::{Collector, Signal};
use queue::Queue;

/// Where the collector is, and what it is to get.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpSettings {
    /// `http` and a host; `/v1/traces` and the like are added to its path.
    pub collector: Uri,
    /// Whether requests have traces, and which share is recorded of those that bring no decision.
    pub traces: Option<SampleRatio>,
    /// How often metrics are sent, if they are.
    pub metrics: Option<Millis>,
    /// Whether log lines are sent.
    pub logs: bool,
}

/// What takes records for the collector without waiting.
pub struct Export {
    collector: Collector,
    resource: Resource,
    begun_ns: u64,
    traces: Queue<Traced>,
    logs: Queue<Bytes>,
    metrics_dropped: AtomicU64,
}

/// The tasks that send. Dropped, they end at once.
pub struct Exporting {
    export: Arc<Export>,
    tasks: JoinSet<()>,
}

impl Export {
    /// Begins to send for the node of this name.
    pub fn start(settings: &OtlpSettings, node: &str, notice: Notice) -> (Arc<Self>, Exporting) {
        let export = Arc::new(Self {
            collector: Collector::new(&settings.collector, notice),
            resource: resource(node),
            begun_ns: now_ns(),
            traces: Queue::default(),
            logs: Queue::default(),
            metrics_dropped: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(send_traces(export.clone()));
        tasks.spawn(send_logs(export.clone()));
        let exporting = Exporting {
            export: export.clone(),
            tasks,
        };
        (export, exporting)
    }

    pub fn traced(&self, requests: Vec<Traced>) {
        for request in requests {
            let bytes = spans::cost(&request);
            self.traces.put(request, bytes);
        }
    }

    /// A line of the log: one JSON [`model::LogRecord`].
    pub fn log(&self, record: Bytes) {
        let bytes = record.len() as u64;
        self.logs.put(record, bytes);
    }

    /// Sends all counts. Those of the next time make up for those that are not taken, so they are sent only once.
    pub async fn send_metrics(&self, families: Vec<Family>) {
        let resource = &self.resource;
        for body in points::requests(families, resource, self.begun_ns, now_ns()) {
            if self
                .collector
                .send_once(Signal::Metrics, body)
                .await
                .is_err()
            {
                self.metrics_dropped.fetch_add(1, Relaxed);
                return;
            }
        }
    }

    pub fn dropped(&self) -> NotExported {
        NotExported {
            traces: self.traces.dropped(),
            logs: self.logs.dropped(),
            metrics: self.metrics_dropped.load(Relaxed),
        }
    }
}

impl Exporting {
    /// Sends what waits and the last counts, within [`limits::OTLP_LAST`].
    pub async fn finish(mut self, counts: Option<Vec<Family>>) {
        self.export.traces.close();
        self.export.logs.close();
        self.export.collector.hurry();
        let last = async {
            if let Some(counts) = counts {
                self.export.send_metrics(counts).await;
            }
            while self.tasks.join_next().await.is_some() {}
        };
        // What is not taken by then ends with this process.
        let _ = timeout(limits::OTLP_LAST.default.duration(), last).await;
    }
}

async fn send_traces(export: Arc<Export>) {
    while let Some(batch) = export.traces.batch().await {
        let body = spans::request(&batch, &export.resource);
        let sent = export.collector.send(Signal::Traces, body).await;
        export.traces.sent(batch.len() as u64, sent);
    }
}

async fn send_logs(export: Arc<Export>) {
    while let Some(batch) = export.logs.batch().await {
        let body = records::request(&batch, &export.resource);
        let sent = export.collector.send(Signal::Logs, body).await;
        export.logs.sent(batch.len() as u64, sent);
    }
}

/// Who says all this.
fn resource(node: &str) -> Resource {
    Resource {
        attributes: vec![
            text("service.name", "midge"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", node),
            text("host.name", node),
            // Tells the two apart that run during an upgrade.
            number("process.pid", std::process::id().into()),
        ],
        ..Resource::default()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "midge".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// What is above 2⁶³ - 1 is said to be that.
fn number(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
