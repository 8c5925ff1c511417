//! The platform itself: how it is, what it measures, what the API is, and a copy of everything.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use model::AppId;
use model::api::{PlatformUsage, Status, Verb};
use model::pipe::Histogram;
use tokio::sync::mpsc;

use super::gate;
use super::problem::Refused;
use crate::auth::{Caller, Reach};
use crate::backup;
use crate::control::Platform;
use crate::records::apps;

type Control = State<Arc<Platform>>;

/// `GET /healthz`: this process answers.
pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the catalog is published, and a node serves all that was deployed before this start.
pub(super) async fn ready(State(platform): Control) -> Result<&'static str, Refused> {
    let reports = platform.distribution.reports();
    let ready = reports
        .borrow()
        .values()
        .any(|node| node.status.generation >= platform.first_generation);
    if ready {
        return Ok("ready\n");
    }
    let detail = "no node serves what is deployed yet; ask again in a moment";
    Err(Refused::new(
        503,
        "not-ready",
        "the platform is not ready",
        detail,
    ))
}

/// `GET /v1/status`
pub(super) async fn status(
    State(platform): Control,
    caller: Caller,
) -> Result<axum::Json<Status>, Refused> {
    caller.check(Verb::Read, Reach::Platform)?;
    let apps = platform.records.read(apps::count).await?;
    let reports = platform.distribution.reports();
    let nodes = reports
        .borrow()
        .values()
        .map(|r| r.status.clone())
        .collect();
    Ok(axum::Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        generation: platform.deployer.generation(),
        domain: platform.settings.domain.clone(),
        apps,
        nodes,
    }))
}

/// `GET /metrics`: Prometheus text, the control plane's and then the node's.
pub(super) async fn metrics(
    State(platform): Control,
    request: Request,
) -> Result<Response, Refused> {
    if !platform.settings.open_metrics {
        let caller = gate::caller(&platform, &request).await?;
        caller.check(Verb::Read, Reach::Platform)?;
    }
    let apps = platform.records.read(apps::count).await?;
    let mut text = String::new();
    for (name, help, value) in [
        ("midge_control_apps", "Apps of the platform", apps),
        (
            "midge_control_catalog_generation",
            "The newest generation of the catalog",
            platform.deployer.generation(),
        ),
        (
            "midge_control_compiles_waiting",
            "Compiles that run or wait for their turn",
            platform.natives.turns.waiting(),
        ),
        (
            "midge_control_changes_under_way",
            "API changes that are not answered yet",
            platform.changes.len() as u64,
        ),
    ] {
        let written = write!(
            text,
            "# HELP {name} {help}.\n# TYPE {name} gauge\n{name} {value}\n"
        );
        written.expect("a string takes all text");
    }
    text.push_str(&(platform.settings.metrics)());
    let kind = if text.ends_with("# EOF\n") {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// `GET /v1/usage`: of the apps within the caller's scope.
pub(super) async fn usage(State(platform): Control, caller: Caller) -> axum::Json<PlatformUsage> {
    let mut apps = (platform.settings.usage)();
    apps.retain(|usage| {
        let id = AppId {
            tenant: usage.tenant.clone(),
            app: usage.app.clone(),
        };
        caller.check(Verb::Read, Reach::App(&id)).is_ok()
    });
    apps.sort_unstable_by(|a, b| (&a.tenant, &a.app).cmp(&(&b.tenant, &b.app)));
    axum::Json(PlatformUsage {
        at_ms: platform.now(),
        latency_bounds_us: Histogram::BOUNDS_US.to_vec(),
        apps,
    })
}

/// The API's description.
pub(super) const OPENAPI: &str = include_str!("../../openapi.json");

/// `GET /v1/openapi.json`
pub(super) async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}

/// `POST /v1/backup`: an archive, which is whole only if the reply ends well.
pub(super) async fn backup(State(platform): Control, caller: Caller) -> Result<Response, Refused> {
    caller.check(Verb::Admin, Reach::Platform)?;
    let backup = backup::prepare(&platform).await?;
    let (pieces, mut written) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let writer = io::BufWriter::with_capacity(64 << 10, Pieces(pieces.clone()));
        if let Err(error) = backup.write_to(writer) {
            // The archive breaks off, and so does the reply; a client that has gone needs no word of it.
            let _ = pieces.blocking_send(Err(io::Error::other(error)));
        }
    });
    let stream = futures_util::stream::poll_fn(move |context| written.poll_recv(context));
    let headers = [
        (CONTENT_TYPE, "application/x-tar"),
        (
            CONTENT_DISPOSITION,
            "attachment; filename=\"midge-backup.tar\"",
        ),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Hands on what is written, as fast as the client takes it.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.0.blocking_send(Ok(piece)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
