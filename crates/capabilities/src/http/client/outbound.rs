//! What one invocation may send: where its grants let it, so often, so many at once, for so long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use model::trace::SpanId;
use model::{Destination, Entry, HttpScheme, LogStream, Millis, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::download::clean;
use super::{Call, Client, SendError};
use crate::calls::{CallSink, Called};
use crate::http::{BodyError, Held, HostMemory, Incoming, OutgoingReader, Patience, ReceivedBody};
use crate::logs::{LineSink, Lines};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What an invocation has left of its requests; nothing until it has a cause. Those that share an instance share it.
#[derive(Default)]
pub struct Outbound {
    left: u64,
    /// Made with the first request: most invocations send none.
    at_once: Option<Arc<Semaphore>>,
    /// How often what the guest answers has gone through the platform.
    hops: u64,
    traceparent: Option<HeaderValue>,
}

/// Whose requests they are, who takes them along, and who hears of it.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    /// Whose request it is, and what that was granted.
    pub app: &'a Arc<Entry>,
    pub client: &'a Arc<dyn Client>,
    pub calls: Option<&'a Arc<dyn CallSink>>,
    /// Where the app's owner reads why a request was not answered.
    pub lines: &'a Arc<dyn LineSink>,
}

/// A request as a guest hands it over.
pub struct Asked {
    pub method: Method,
    /// Neither `http` nor `https` is none.
    pub scheme: Option<HttpScheme>,
    pub authority: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Option<OutgoingReader>,
    pub waits: Waits,
}

/// How long a guest waits for each part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    pub connect: Duration,
    pub head: Duration,
    pub body: Duration,
}

impl Waits {
    /// What a guest asks for, in nanoseconds, within our own bounds: from a millisecond on.
    pub fn within(connect: Option<u64>, head: Option<u64>, body: Option<u64>) -> Self {
        let clamp = |asked: Option<u64>, most: Millis| {
            let most = most.duration();
            let asked = asked.map_or(most, Duration::from_nanos);
            asked.clamp(Duration::from_millis(1), most)
        };
        Self {
            connect: clamp(connect, limits::SUBREQUEST_CONNECT.default),
            head: clamp(head, limits::SUBREQUEST_HEAD.default),
            body: clamp(body, limits::SUBREQUEST_BODY.default),
        }
    }
}

/// A reply as a guest reads it.
pub struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// What the host holds for them.
    pub headers_held: Held,
    pub body: Incoming,
}

/// A request under way. Dropping it ends the request.
pub struct Permitted(JoinHandle<Result<Received, SendError>>);

impl Outbound {
    /// For one that answers a request which has these headers and has gone through the platform so often.
    pub fn caused_by(hops: u64, headers: &HeaderMap) -> Self {
        Self {
            left: limits::SUBREQUESTS.default,
            at_once: None,
            hops,
            traceparent: headers.get(TRACEPARENT).cloned(),
        }
    }

    /// An instance that answers several requests was handed another, and has so many of them under way, which have gone
    /// through the platform so often at the most. It may send as many as each of them might.
    pub fn caused_by_another(&mut self, under_way: u64, hops: u64) {
        let each = limits::SUBREQUESTS.default;
        let most = each.saturating_mul(under_way);
        self.left = self.left.saturating_add(each).min(most);
        self.hops = hops;
    }

    /// Sends a request, within bounds. Must be called within a `tokio::task::LocalSet`.
    pub fn send(
        &mut self,
        asked: Asked,
        memory: &HostMemory,
        sender: Sender<'_>,
    ) -> Result<Permitted, SendError> {
        let voice = Voice {
            method: asked.method.clone(),
            scheme: asked.scheme,
            authority: asked.authority.clone(),
            lines: sender.lines.clone(),
        };
        let begun = self.begin(asked, &sender);
        let (call, span) = begun.inspect_err(|error| {
            sender.client.counts().refused();
            voice.explain(error);
        })?;
        let at_once = self.at_once.get_or_insert_with(|| {
            Arc::new(Semaphore::new(limits::SUBREQUESTS_AT_ONCE.default as usize))
        });
        let task = run(
            sender.client.clone(),
            call,
            at_once.clone(),
            memory.clone(),
            sender.calls.map(|calls| Told {
                calls: calls.clone(),
                span,
            }),
            voice,
        );
        Ok(Permitted(tokio::task::spawn_local(task)))
    }

    fn begin(
        &mut self,
        asked: Asked,
        sender: &Sender<'_>,
    ) -> Result<(Call, Option<SpanId>), SendError> {
        if sender.app.grant.http.is_empty() {
            return Err(SendError::NotGranted("https://HOST".to_owned()));
        }
        let scheme = asked.scheme.ok_or(SendError::Scheme)?;
        let to = Destination::parse(scheme, &asked.authority)?;
        // Before all else, so that nothing can be learnt of what is not granted.
        if !sender.app.grant.covers(&to) {
            return Err(SendError::NotGranted(to.to_string()));
        }
        if matches!(asked.method, Method::CONNECT | Method::TRACE) {
            return Err(SendError::Method(asked.method));
        }
        let target = match asked.target.as_str() {
            "" => PathAndQuery::from_static("/"),
            "*" if asked.method == Method::OPTIONS => PathAndQuery::from_static("*"),
            text if text.starts_with('/') => text.parse().map_err(|_| SendError::Malformed)?,
            text if text.starts_with('?') => {
                let text = format!("/{text}");
                text.parse().map_err(|_| SendError::Malformed)?
            }
            _ => return Err(SendError::Malformed),
        };
        self.left = self.left.checked_sub(1).ok_or(SendError::TooMany)?;
        let hops = self.hops + 1;
        let mut headers = asked.headers;
        // Those of a request that came in may be among them.
        clean(&mut headers);
        let mut span = None;
        // A guest may say itself what its request is a part of.
        if !headers.contains_key(TRACEPARENT) {
            let child = sender.calls.and_then(|calls| calls.child());
            span = child.map(|child| child.span);
            let child = child.and_then(|child| HeaderValue::from_bytes(&child.value()).ok());
            if let Some(parent) = child.or_else(|| self.traceparent.clone()) {
                headers.insert(TRACEPARENT, parent);
            }
        }
        // A request without a body has no length to promise.
        if asked.body.is_none() {
            headers.remove(CONTENT_LENGTH);
        }
        let call = Call {
            caller: sender.app.clone(),
            to,
            method: asked.method,
            target,
            headers,
            body: asked.body,
            waits: asked.waits,
            hops,
        };
        Ok((call, span))
    }
}

/// Who hears of a call, and as which span.
struct Told {
    calls: Arc<dyn CallSink>,
    span: Option<SpanId>,
}

/// Tells an app's owner what became of a request.
struct Voice {
    method: Method,
    scheme: Option<HttpScheme>,
    authority: String,
    lines: Arc<dyn LineSink>,
}

impl Voice {
    fn explain(&self, error: &SendError) {
        let (method, authority) = (&self.method, &self.authority);
        let scheme = self.scheme.map_or("", HttpScheme::as_str);
        let text =
            format!("the request {method} {scheme}://{authority} was not answered: {error}\n");
        let lines = Lines::new(self.lines.clone(), LogStream::Platform);
        lines.write(text.as_bytes());
        lines.finish();
    }
}

async fn run(
    client: Arc<dyn Client>,
    call: Call,
    at_once: Arc<Semaphore>,
    memory: HostMemory,
    told: Option<Told>,
    voice: Voice,
) -> Result<Received, SendError> {
    let from = told.as_ref().map(|_| Instant::now());
    let answered = answer(&*client, call, at_once, &memory).await;
    client.counts().count(&answered);
    if let (Some(told), Some(from)) = (told, from) {
        told.calls.called(Called {
            name: "http.send",
            from,
            to: Instant::now(),
            span: told.span,
        });
    }
    answered.inspect_err(|error| voice.explain(error))
}

async fn answer(
    client: &dyn Client,
    mut call: Call,
    at_once: Arc<Semaphore>,
    memory: &HostMemory,
) -> Result<Received, SendError> {
    let began = Instant::now();
    let turn = tokio::time::timeout(call.waits.connect, at_once.acquire_owned()).await;
    let turn = turn.map_err(|_| SendError::Busy)?;
    let turn = turn.expect("it is never closed");
    call.waits.connect = call.waits.connect.saturating_sub(began.elapsed());
    let between = call.waits.body;
    let (parts, body) = client.send(call).await?.into_parts();
    let fields = parts.headers.iter();
    let bytes = fields
        .map(|(n, v)| n.as_str().len() + v.len() + FIELD)
        .sum();
    let headers_held = memory.hold(bytes).map_err(|_| SendError::Memory)?;
    let body = match body {
        None => None,
        Some(body) => {
            let held = memory.hold(limits::BODY_CHUNK.default.as_usize());
            let bounded = Bounded {
                body,
                left: limits::SUBREQUEST_REPLY.default.bytes(),
                patience: Patience::new(between),
                _turn: turn,
                _held: held.map_err(|_| SendError::Memory)?,
            };
            Some(Box::pin(bounded) as ReceivedBody)
        }
    };
    Ok(Received {
        status: parts.status,
        headers: parts.headers,
        headers_held,
        body: Incoming::new(body),
    })
}

/// What a field takes beside its name and value.
const FIELD: usize = 128;

/// A reply's body: bounded in length, with a deadline on each piece. It keeps its request's place among those under way.
struct Bounded {
    body: ReceivedBody,
    left: u64,
    patience: Patience,
    _turn: OwnedSemaphorePermit,
    /// For the piece that waits.
    _held: Held,
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = this.body.as_mut().poll_frame(context);
        let Ok(frame) = ready!(this.patience.poll(context, polled)) else {
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        };
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            match this.left.checked_sub(length) {
                Some(left) => this.left = left,
                None => return Poll::Ready(Some(Err(BodyError::TooLarge))),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Future for Permitted {
    type Output = Result<Received, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(ended.unwrap_or_else(|error| Err(SendError::Platform(error.to_string()))))
    }
}

impl Drop for Permitted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_may_send_as_many_as_each_of_its_requests_might() {
        let each = limits::SUBREQUESTS.default;
        let mut outbound = Outbound::default();
        outbound.caused_by_another(1, 3);
        assert_eq!((outbound.left, outbound.hops), (each, 3));
        outbound.caused_by_another(2, 4);
        assert_eq!((outbound.left, outbound.hops), (2 * each, 4));
        outbound.left = 5;
        // Only those that are under way count, however many there were.
        outbound.caused_by_another(1, 0);
        assert_eq!(outbound.left, each);
        outbound.left = 5;
        outbound.caused_by_another(3, 0);
        assert_eq!(outbound.left, each + 5);
        outbound.caused_by_another(u64::MAX, 0);
        assert_eq!(outbound.left, 2 * each + 5);
    }

    #[test]
    fn a_guest_waits_within_bounds() {
        let check = |asked: Option<u64>, expected_ms: u64| {
            let waits = Waits::within(asked, asked, asked);
            assert_eq!(
                waits.connect,
                Duration::from_millis(expected_ms.min(10_000))
            );
            assert_eq!(waits.head, Duration::from_millis(expected_ms));
            assert_eq!(waits.body, waits.head);
        };
        check(None, 30_000);
        check(Some(0), 1);
        check(Some(1), 1);
        check(Some(u64::MAX), 30_000);
        check(Some(5_000_000_000), 5_000);
    }
}
