//! A collector as telemetry is sent to one: OTLP over HTTP as protobuf, kept for the test to look at.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::eventually;

/// A running collector. Dropping it ends it.
pub struct Collector {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _end: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Received>,
    /// What it answers; 0: nothing, ever.
    status: AtomicU16,
}

/// What came, oldest first.
#[derive(Debug, Default, Clone)]
pub struct Received {
    pub resources: Vec<Resource>,
    pub spans: Vec<Span>,
    pub metrics: Vec<Metric>,
    pub logs: Vec<LogRecord>,
    /// Requests of any kind, also those that were refused.
    pub requests: usize,
    /// What is not OTLP over HTTP as protobuf.
    pub wrong: Vec<String>,
}

impl Collector {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("it is an address"))
    }

    /// Starts one at an address where, say, another was before.
    pub fn at(address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("it was bound");
        listener.set_nonblocking(true).expect("a socket obeys");
        let shared = Arc::new(Shared::default());
        shared.status.store(200, Ordering::Relaxed);
        let (end, ended) = oneshot::channel();
        let serving = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime can be made");
            runtime.block_on(async {
                let serve = serve(listener, serving);
                tokio::select! {
                    () = serve => {}
                    _ = ended => {}
                }
            });
        });
        Self {
            address,
            shared,
            _end: end,
        }
    }

    /// What `telemetry.otlp` names it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers everything with this status from now on; with 0, not at all.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    pub fn received(&self) -> Received {
        let received = self.shared.received().clone();
        assert!(received.wrong.is_empty(), "{:?}", received.wrong);
        received
    }

    /// Waits until `find` finds something in what came.
    pub fn eventually<T>(&self, what: &str, mut find: impl FnMut(&Received) -> Option<T>) -> T {
        eventually(what, || find(&self.received()))
    }

    /// The spans of a trace, given as hexadecimal, once its request's own span is there: all come together.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        self.eventually(&format!("the trace {id} is there"), |received| {
            let spans = received.spans.iter();
            let found: Vec<Span> = spans
                .filter(|span| hex(&span.trace_id) == id)
                .cloned()
                .collect();
            (!found.is_empty()).then_some(found)
        })
    }
}

impl Received {
    /// The newest value of a counter or gauge with these attributes.
    pub fn value(&self, name: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        let metrics = self.metrics.iter().rev();
        metrics.filter(|m| m.name == name).find_map(|metric| {
            let points = match metric.data.as_ref()? {
                Data::Sum(sum) => &sum.data_points,
                Data::Gauge(gauge) => &gauge.data_points,
                _ => return None,
            };
            let wanted = |all: &[KeyValue]| {
                attributes
                    .iter()
                    .all(|(key, value)| attribute(all, key).as_deref() == Some(*value))
            };
            let point = points.iter().find(|point| wanted(&point.attributes))?;
            match point.value? {
                number_data_point::Value::AsInt(value) => Some(value as f64),
                number_data_point::Value::AsDouble(value) => Some(value),
            }
        })
    }
}

impl Shared {
    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a request says, if it is to be answered well.
    fn take(&self, path: &str, kind: &str, body: &Bytes, keep: bool) {
        let mut received = self.received();
        received.requests += 1;
        if kind != "application/x-protobuf" {
            received.wrong.push(format!("{path} as `{kind}`"));
        }
        if !keep {
            return;
        }
        let kept = match path {
            "/v1/traces" => read(body).map(|r: ExportTraceServiceRequest| {
                for of in r.resource_spans {
                    received.resources.extend(of.resource);
                    let scopes = of.scope_spans.into_iter();
                    received.spans.extend(scopes.flat_map(|scope| scope.spans));
                }
            }),
            "/v1/metrics" => read(body).map(|r: ExportMetricsServiceRequest| {
                for of in r.resource_metrics {
                    received.resources.extend(of.resource);
                    let scopes = of.scope_metrics.into_iter();
                    let metrics = scopes.flat_map(|scope| scope.metrics);
                    received.metrics.extend(metrics);
                }
            }),
            "/v1/logs" => read(body).map(|r: ExportLogsServiceRequest| {
                for of in r.resource_logs {
                    received.resources.extend(of.resource);
                    let scopes = of.scope_logs.into_iter();
                    let logs = scopes.flat_map(|scope| scope.log_records);
                    received.logs.extend(logs);
                }
            }),
            other => Err(format!("nothing is at `{other}`")),
        };
        if let Err(wrong) = kept {
            received.wrong.push(wrong);
        }
    }
}

fn read<M: Message + Default>(body: &Bytes) -> Result<M, String> {
    M::decode(body.clone()).map_err(|error| error.to_string())
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("it is registered");
    // They end with this.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let answer = service_fn(move |request| answer(shared.clone(), request));
            let connection = http1::Builder::new();
            let _ = connection
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(http::header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let Ok(body) = body.collect().await else {
        return Ok(Response::default());
    };
    let status = shared.status.load(Ordering::Relaxed);
    shared.take(parts.uri.path(), kind, &body.to_bytes(), status == 200);
    if status == 0 {
        std::future::pending::<()>().await;
    }
    // All kinds of answers have this form.
    let said = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess::default()),
    };
    let mut response = Response::new(Full::new(said.encode_to_vec().into()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a test names statuses well");
    Ok(response)
}

/// The text of an attribute, a number or truth as its digits or word.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    said(found.value.as_ref())
}

/// The text of a value.
pub fn said(value: Option<&AnyValue>) -> Option<String> {
    match value?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Bytes as their digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
