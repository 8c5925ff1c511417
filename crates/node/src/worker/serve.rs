//! One request, from its head to its reply: gate, route, quarantine, slot, code, run. Each step that refuses has an outcome.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use capabilities::config::Secrets;
use capabilities::http::client::hops;
use http::header::HeaderValue;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use model::pipe::ToSupervisor;
use model::{Host, Outcome, TenantName, limits};
use runtime::{
    Code, Engine, Facts, Instances, Invocation, Overloaded, Pool, ReplyBody, RequestBody, Slot,
};

use super::compress::{Agreed, Places};
use super::connections::{Connections, Link};
use super::exchange::{Beginning, Exchange};
use super::forward::Client;
use super::gate::{self, Forwarded};
use super::inside::WayOut;
use super::outbox::Outbox;
use super::report::{Report, now_ms};
use super::request_id::RequestIds;
use super::residents::Residents;
use super::respond::{Reply, pass, refuse, refuse_quarantined};
use super::table::{Table, canonical_host};
use super::tls::Tls;
use super::trace::{Trace, Tracing};
use super::upload;

/// What every request of this worker shares.
pub struct Worker {
    pub engine: Engine,
    /// Where guests' requests go.
    pub way_out: Arc<WayOut>,
    /// Who those come from that stay inside.
    pub inside: Client,
    /// As the engine's guests find them.
    pub secrets: Secrets,
    pub pool: Pool,
    pub instances: Instances,
    pub forwarded: Forwarded,
    pub table: RefCell<Table>,
    /// Whose apps answer requests for hosts that no app has.
    pub default_host: Option<Host>,
    /// Whether a proxy introduces every client.
    pub proxied: bool,
    pub tls: Tls,
    pub residents: Residents<Code>,
    pub connections: Rc<Connections>,
    pub compressed: Places,
    pub report: Arc<Report>,
    /// None if the operator wants no traces.
    pub tracing: Option<Tracing>,
    pub request_ids: RequestIds,
    pub outbox: Outbox,
}

/// Answers one request.
///
/// hyper drops the future if the client goes away, which ends the invocation.
pub async fn serve(
    worker: Rc<Worker>,
    link: Rc<Link>,
    request: Request<Incoming>,
) -> Response<Reply> {
    let began = Instant::now();
    link.serving();
    let id = worker.request_ids.next(now_ms());
    let (mut parts, incoming) = request.into_parts();
    let admitted = gate::admit(&mut parts, worker.forwarded);
    let found = admitted.and_then(|authority| {
        let host = canonical_host(text(&authority));
        if link.ends.server_name().is_some_and(|name| name != host) {
            return Err(Outcome::Misdirected);
        }
        let (table, path) = (worker.table.borrow(), parts.uri.path());
        let app = match (table.find(&host, path), &worker.default_host) {
            // A host that an app has is its tenant's, whatever the path.
            (None, Some(default)) if !table.knows(&host) => table.find(default.as_str(), path),
            (found, _) => found,
        };
        Ok((app.ok_or(Outcome::NotFound)?, authority))
    });
    let hops = hops(&parts.headers);
    let found = found.and_then(|found| match hops < limits::SUBREQUEST_LOOPS.default {
        true => Ok(found),
        false => Err(Outcome::LoopDetected),
    });
    let (app, authority) = match found {
        Ok(found) => found,
        Err(outcome) => {
            worker.report.unrouted(outcome);
            return refuse(outcome, id, None, link);
        }
    };
    let beginning = Beginning {
        id,
        trace: worker.begin_trace(&parts.headers, began),
        app,
        method: &parts.method,
        uri: &parts.uri,
        authority: &authority,
        client: &link.ends.client.text,
        began,
    };
    let exchange = Arc::new(Exchange::begin(&worker.report, beginning));
    if let Some(seconds) = worker.report.quarantined(&exchange.app) {
        return refuse_quarantined(seconds, exchange, link);
    }
    let offered = &exchange.app.entry.reply.compress;
    let agreed = Agreed::on(offered, &parts, &worker.compressed);
    let answered = async {
        let slot = slot(&worker, &exchange.app.entry.id.tenant).await;
        let slot = slot.map_err(|Overloaded| Outcome::Overloaded)?;
        let ends = &link.ends;
        let scheme = ends
            .client
            .sign(&mut parts.headers, &authority, worker.forwarded);
        let facts = Facts {
            request_id: id.as_str().to_owned(),
            scheme,
            authority: text(&authority).to_owned(),
            client: ends.peer,
            server: ends.server,
            hops,
        };
        let request = Request::from_parts(parts, upload::body(incoming));
        invoke(&worker, &exchange, slot, facts, request).await
    };
    match answered.await {
        Ok(response) => pass(response, exchange, link, agreed),
        Err(outcome) => refuse(outcome, id, Some(exchange), link),
    }
}

impl Worker {
    /// The trace of a request that has these headers, where requests have traces.
    pub fn begin_trace(&self, headers: &HeaderMap, began: Instant) -> Option<Box<Trace>> {
        let tracing = self.tracing.as_ref()?;
        let second = self.connections.second();
        Some(Box::new(tracing.begin(headers, began, second)))
    }
}

/// Has the app answer in this slot.
pub async fn invoke(
    worker: &Worker,
    exchange: &Arc<Exchange>,
    slot: Slot,
    facts: Facts,
    mut request: Request<RequestBody>,
) -> Result<Response<ReplyBody>, Outcome> {
    exchange.has_slot();
    let code = code(worker, exchange).await?;
    exchange.pass_trace(facts.scheme, request.headers_mut());
    // What hyper left there is of the connection, not of the request.
    request.extensions_mut().clear();
    let invocation = Invocation {
        entry: exchange.app.entry.clone(),
        code,
        request,
        facts,
        observer: exchange.clone(),
        tracer: exchange.tracer(),
        slot,
        began: exchange.began,
    };
    runtime::run(&worker.engine, &worker.instances, invocation).await
}

/// A slot that is free now; where none is, instances that only wait for requests begin to make way: everybody's, unless it is
/// the tenant alone that gets no more.
pub fn slot_now(worker: &Worker, tenant: &TenantName) -> Option<Slot> {
    let slot = worker.pool.take(tenant);
    if slot.is_none() {
        let alone = !worker.pool.is_short();
        worker.instances.shed(alone.then_some(tenant));
    }
    slot
}

/// A slot, or a short wait for one.
async fn slot(worker: &Worker, tenant: &TenantName) -> Result<Slot, Overloaded> {
    match slot_now(worker, tenant) {
        Some(slot) => Ok(slot),
        None => worker.pool.acquire(tenant).await,
    }
}

/// The app's code, loaded if it must be.
async fn code(worker: &Worker, exchange: &Exchange) -> Result<Arc<Code>, Outcome> {
    let entry = &exchange.app.entry;
    let key = (entry.wasm, entry.kind);
    let second = worker.connections.second();
    if let Some(code) = worker.residents.find(&key, second) {
        return Ok(code);
    }
    exchange.cold();
    let loading = Instant::now();
    let ask = || {
        worker.outbox.put(ToSupervisor::WantNative {
            wasm: entry.wasm,
            setting: entry.kind.setting(),
        });
    };
    let loaded = worker.residents.load(key, second, ask).await;
    exchange.loaded(loading);
    loaded.map_err(|missing| {
        exchange.explain(&format!(
            "`{}` version {} cannot run: {missing}",
            entry.id.app, entry.version
        ));
        missing.outcome()
    })
}

/// What the gate, or we, made of ASCII.
pub fn text(authority: &HeaderValue) -> &str {
    authority
        .to_str()
        .expect("the gate lets only ASCII through")
}
