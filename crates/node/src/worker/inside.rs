//! Requests that guests send to apps of their own tenant: they never leave the process. Each is a request like any other,
//! but that it does not wait for a slot: who waits holds one.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use capabilities::http::Outgoing;
use capabilities::http::client::{Call, Client as Sends, Counts, Network, RootsError, SendError};
use futures_util::FutureExt as _;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use model::pipe::{EgressSettings, SentMetrics};
use model::{AppId, AppName, Outcome, limits};
use runtime::{BodyError, Facts, ReplyBody, RequestBody, Truncated};
use tokio::sync::{mpsc, oneshot};

use super::exchange::{Beginning, Exchange};
use super::forward::Client;
use super::gate::Forwarded;
use super::report::now_ms;
use super::respond::{clean_head, clean_trailers, refusal};
use super::serve::{Worker, invoke, slot_now, text};
use super::table::App;

/// Where requests come from that do not come from outside.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How they are introduced.
pub fn client() -> Client {
    Client::new(HERE.ip(), "http")
}

/// Takes guests' requests to where they go: to the network, or to this worker.
pub struct WayOut {
    network: Network,
    inside: mpsc::UnboundedSender<Inside>,
}

impl WayOut {
    pub fn metrics(&self) -> SentMetrics {
        self.counts().metrics(self.network.idle())
    }
}

/// Those for this worker.
pub type Calls = mpsc::UnboundedReceiver<Inside>;

/// A request for an app of the same tenant.
pub struct Inside {
    call: Call,
    app: AppName,
    answer: oneshot::Sender<Result<Response<RequestBody>, SendError>>,
}

/// The way out, and what comes to this worker by it: each invocation has a few requests under way, so they are not many.
pub fn way_out(settings: &EgressSettings) -> Result<(Arc<WayOut>, Calls), RootsError> {
    let (inside, calls) = mpsc::unbounded_channel();
    let way_out = WayOut {
        network: Network::new(settings)?,
        inside,
    };
    Ok((Arc::new(way_out), calls))
}

#[async_trait]
impl Sends for WayOut {
    async fn send(&self, call: Call) -> Result<Response<RequestBody>, SendError> {
        let app = match call.to.app() {
            None => return self.network.send(call).await,
            Some(app) => app.map_err(|_| SendError::NoApp)?,
        };
        let gone = || SendError::Platform("the worker ends".to_owned());
        let (answer, answered) = oneshot::channel();
        let head = call.waits.head;
        let inside = Inside { call, app, answer };
        self.inside.send(inside).map_err(|_| gone())?;
        let answered = tokio::time::timeout(head, answered).await;
        let answered = answered.map_err(|_| SendError::HeadTimeout)?;
        answered.map_err(|_| gone())?
    }

    fn counts(&self) -> &Counts {
        self.network.counts()
    }
}

/// Answers what comes, each request in a task of its own.
pub async fn answer(worker: Rc<Worker>, mut calls: Calls) {
    while let Some(inside) = calls.recv().await {
        tokio::task::spawn_local(one(worker.clone(), inside));
    }
}

/// One request, until its reply was read or let go.
async fn one(worker: Rc<Worker>, inside: Inside) {
    let Inside {
        call,
        app,
        mut answer,
    } = inside;
    let caller = &call.caller;
    let id = AppId::new(caller.id.tenant.clone(), app);
    let found = worker.table.borrow().app(&id).cloned();
    // The caller's tenant may be gone, and another have its name.
    let is_its = |app: &Arc<App>| app.entry.incarnations.tenant == caller.incarnations.tenant;
    let Some(app) = found.filter(is_its) else {
        let _ = answer.send(Err(SendError::NoApp));
        return;
    };
    // On the heap: it is kilobytes, and the task around it is moved several times.
    let mut responding = Box::pin(respond(&worker, app, call));
    let response = tokio::select! {
        biased;
        // Who asked does not want to know any more.
        () = answer.closed() => return,
        response = &mut responding => response,
    };
    drop(responding);
    let (response, rest) = match response {
        Ok((response, exchange)) => {
            let (parts, mut body) = response.into_parts();
            let (handed, rest): (RequestBody, _) = if !body.has_body() || body.is_end_stream() {
                // Its guest goes on within its limits.
                (None, None)
            } else if let Some(whole) = at_once(&mut body) {
                exchange.sent(whole.len() as u64);
                let whole = Full::from(whole).map_err(|never| match never {});
                (Some(Box::pin(whole)), None)
            } else {
                let outgoing = Outgoing::new();
                let reader = outgoing.reader().map_err(|Truncated(_)| BodyError::Gone);
                (Some(Box::pin(reader)), Some((body, outgoing, exchange)))
            };
            (Response::from_parts(parts, handed), rest)
        }
        Err(refused) => {
            let line = |line: &'static str| -> RequestBody {
                let line = Full::from(line).map_err(|never| match never {});
                Some(Box::pin(line))
            };
            (refused.map(line), None)
        }
    };
    let _ = answer.send(Ok(response));
    if let Some((body, outgoing, exchange)) = rest {
        hand_on(body, &outgoing, &exchange).await;
    }
}

/// Has the app answer, or says why it does not.
async fn respond(
    worker: &Worker,
    app: Arc<App>,
    call: Call,
) -> Result<(Response<ReplyBody>, Arc<Exchange>), Response<&'static str>> {
    let began = Instant::now();
    let id = worker.request_ids.next(now_ms());
    let authority = HeaderValue::try_from(call.to.authority()).expect("it was parsed from ASCII");
    let uri = Uri::from(call.target);
    let mut headers = call.headers;
    let caller: Arc<str> = format!("{}.app.internal", call.caller.id.app).into();
    let exchange = Arc::new(Exchange::begin(
        &worker.report,
        Beginning {
            id,
            trace: worker.begin_trace(&headers, began),
            app,
            method: &call.method,
            uri: &uri,
            authority: &authority,
            client: &caller,
            began,
        },
    ));
    let refuse = |outcome: Outcome| {
        exchange.refused(outcome);
        exchange.replied(outcome.status());
        refusal(outcome, &id)
    };
    if call.hops >= limits::SUBREQUEST_LOOPS.default {
        return Err(refuse(Outcome::LoopDetected));
    }
    if worker.report.quarantined(&exchange.app).is_some() {
        return Err(refuse(Outcome::Quarantined));
    }
    let slot = slot_now(worker, &exchange.app.entry.id.tenant);
    let slot = slot.ok_or_else(|| refuse(Outcome::Overloaded))?;
    headers.insert(HOST, authority.clone());
    // What the caller says of whom it asks for is believed: it is of the same tenant.
    let scheme = worker
        .inside
        .sign(&mut headers, &authority, Forwarded::Believed);
    let facts = Facts {
        request_id: id.as_str().to_owned(),
        scheme,
        authority: text(&authority).to_owned(),
        client: HERE,
        server: HERE,
        hops: call.hops,
    };
    let body: RequestBody = call.body.filter(|body| !body.is_end_stream()).map(|body| {
        let body = body.map_err(|Truncated(_)| BodyError::Gone);
        Box::pin(body) as _
    });
    let mut request = Request::new(body);
    *request.method_mut() = call.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let response = invoke(worker, &exchange, slot, facts, request).await;
    let (mut parts, body) = response.map_err(refuse)?.into_parts();
    if clean_head(&mut parts, &body).is_none() {
        return Err(refuse(Outcome::BadResponse));
    }
    exchange.replied(parts.status.as_u16());
    Ok((Response::from_parts(parts, body), exchange))
}

/// All of a reply's body, if its guest has written it by now: of a short one, most have before anyone looks.
fn at_once(body: &mut ReplyBody) -> Option<Bytes> {
    let length = body.size_hint().exact()?;
    if length > limits::BODY_CHUNK.default.bytes() {
        return None;
    }
    let whole = body.collect().now_or_never()?.ok()?;
    Some(whole.to_bytes())
}

/// Hands a reply's body to who asked, as fast as it is read.
async fn hand_on(mut body: ReplyBody, outgoing: &Outgoing, exchange: &Exchange) {
    let mut waiting = Bytes::new();
    let ended = poll_fn(|context| {
        loop {
            // Nobody reads any more.
            if outgoing.poll_left(context).is_ready() {
                return Poll::Ready(None);
            }
            ready!(outgoing.poll_room(context));
            let Ok(room) = outgoing.room() else {
                return Poll::Ready(None);
            };
            let piece = waiting.split_to(waiting.len().min(room));
            if !piece.is_empty() {
                let written = outgoing.write(piece);
                written.expect("its room was asked for, and it is open");
                continue;
            }
            match ready!(Pin::new(&mut body).poll_frame(context)) {
                None => return Poll::Ready(Some(Ok(None))),
                Some(Err(truncated)) => return Poll::Ready(Some(Err(truncated))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => waiting = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame.into_trailers().ok()))),
                },
            }
        }
    });
    match ended.await {
        None => {}
        Some(Ok(mut trailers)) => {
            trailers.iter_mut().for_each(clean_trailers);
            outgoing.finish(trailers);
        }
        Some(Err(Truncated(outcome))) => {
            exchange.refused(outcome);
            outgoing.fail(outcome);
        }
    }
    exchange.sent(outgoing.written());
}
