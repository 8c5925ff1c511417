//! Outcome → response: the only place of error pages and codes; and the last look at a guest's own head.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use model::Outcome;
use runtime::{ReplyBody, Truncated};

use super::compress::{Agreed, Leaving};
use super::connections::{Admitted, Link};
use super::exchange::Exchange;
use super::gate::is_length;
use super::outgoing::Piece;
use super::request_id::RequestId;

const REQUEST_ID: HeaderName = HeaderName::from_static("midge-request-id");
const ERROR: HeaderName = HeaderName::from_static("midge-error");

/// A reply's body: the guest's, or a line of the platform's.
pub struct Reply {
    content: Content,
    link: Rc<Link>,
    /// Over HTTP/2, what its pieces keep until they have left.
    stream: Option<Rc<Admitted>>,
    exchange: Option<Arc<Exchange>>,
    bytes: u64,
}

enum Content {
    Line(Option<&'static str>),
    Guest {
        body: Leaving,
        /// Whether the head says how long it is; then the body's own idea must not count beside it.
        sized: bool,
        /// Why the body will not be whole, until hyper has written what came before.
        cut: Option<Truncated>,
    },
}

/// Hands on a guest's reply, cleaned; or, if it is none that HTTP knows, refuses in its stead.
pub fn pass(
    response: Response<ReplyBody>,
    exchange: Arc<Exchange>,
    link: Rc<Link>,
    agreed: Option<Agreed>,
) -> Response<Reply> {
    let (mut parts, body) = response.into_parts();
    let Some(sized) = clean_head(&mut parts, &body) else {
        drop(body);
        return refuse(Outcome::BadResponse, exchange.id, Some(exchange), link);
    };
    let body = match agreed {
        None => Leaving::AsWritten(body),
        Some(agreed) => agreed.body(parts.status, &mut parts.headers, body, &exchange),
    };
    parts.headers.insert(REQUEST_ID, id_value(&exchange.id));
    exchange.replied(parts.status.as_u16());
    link.replying();
    let reply = Reply {
        content: Content::Guest {
            body,
            sized,
            cut: None,
        },
        link,
        stream: None,
        exchange: Some(exchange),
        bytes: 0,
    };
    Response::from_parts(parts, reply)
}

/// Takes from a guest's head what is not for who asked. None if it is no reply's; else whether it says how long the body
/// is.
pub fn clean_head(parts: &mut http::response::Parts, body: &ReplyBody) -> Option<bool> {
    let sized = check(parts.status, &mut parts.headers).filter(|_| !body.is_missing())?;
    remove_what_ends_here(&mut parts.headers);
    Some(sized)
}

/// The platform's own reply to a request of this id: a status, a code and a line, the same for everyone.
pub fn refusal(outcome: Outcome, id: &RequestId) -> Response<&'static str> {
    let mut response = Response::new(line(outcome));
    *response.status_mut() =
        StatusCode::from_u16(outcome.status()).expect("every outcome's status is a status");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ERROR, HeaderValue::from_static(outcome.code()));
    headers.insert(REQUEST_ID, id_value(id));
    if outcome == Outcome::Overloaded {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The same over a connection.
pub fn refuse(
    outcome: Outcome,
    id: RequestId,
    exchange: Option<Arc<Exchange>>,
    link: Rc<Link>,
) -> Response<Reply> {
    if let Some(exchange) = &exchange {
        exchange.refused(outcome);
        exchange.replied(outcome.status());
    }
    link.replying();
    let mut response = refusal(outcome, &id).map(|line| Reply {
        content: Content::Line(Some(line)),
        link,
        stream: None,
        exchange,
        bytes: 0,
    });
    let headers = response.headers_mut();
    if ends_connection(outcome) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The reply over HTTP/2, where hyper must be told that one has no body: to a HEAD, or of a status that has none.
pub fn over_http2(
    mut response: Response<Reply>,
    to_head: bool,
    stream: Rc<Admitted>,
) -> Response<Reply> {
    response.body_mut().stream = Some(stream);
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    if !to_head && !bodiless.contains(&response.status()) {
        return response;
    }
    let nothing = Content::Line(None);
    match std::mem::replace(&mut response.body_mut().content, nothing) {
        Content::Line(Some(line)) => {
            let length = HeaderValue::from(line.len());
            response.headers_mut().insert(CONTENT_LENGTH, length);
        }
        // Its guest goes on within its limits.
        Content::Line(None) | Content::Guest { .. } => {}
    }
    response
}

/// The refusal of a version in quarantine, which is run again in so many seconds.
pub fn refuse_quarantined(
    seconds: u32,
    exchange: Arc<Exchange>,
    link: Rc<Link>,
) -> Response<Reply> {
    let mut response = refuse(Outcome::Quarantined, exchange.id, Some(exchange), link);
    let seconds = HeaderValue::from(seconds);
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

/// A refusal of hyper's own, which it makes of what it cannot read, in the form of [`refuse`]; none if `head` is
/// anything else. It says already that the connection ends.
pub fn complete(head: &[u8], id: impl FnOnce() -> RequestId) -> Option<Bytes> {
    let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let outcome = match status {
        b"400" => Outcome::BadRequest,
        b"414" => Outcome::TargetTooLong,
        b"431" => Outcome::HeadersTooLarge,
        _ => return None,
    };
    let head = std::str::from_utf8(head).ok()?;
    let lines = head.strip_suffix("\r\n\r\n")?;
    let (before, after) = lines.split_once("\r\ncontent-length: 0")?;
    // Whatever went through `refuse` or `pass` has an id.
    if lines.contains(REQUEST_ID.as_str()) {
        return None;
    }
    let (code, line, id) = (outcome.code(), line(outcome), id());
    let (length, id) = (line.len(), id.as_str());
    Some(Bytes::from(format!(
        "{before}{after}\r\n{CONTENT_TYPE}: text/plain\r\n{CACHE_CONTROL}: no-store\r\n{ERROR}: {code}\r\n\
         {REQUEST_ID}: {id}\r\n{CONTENT_LENGTH}: {length}\r\n\r\n{line}"
    )))
}

/// Whether what follows on the connection cannot be trusted to be a request.
fn ends_connection(outcome: Outcome) -> bool {
    match outcome {
        Outcome::BadRequest
        | Outcome::RequestTimeout
        | Outcome::TargetTooLong
        | Outcome::ExpectationFailed
        | Outcome::HeadersTooLarge
        | Outcome::ClientGone => true,
        Outcome::Ok
        | Outcome::NotFound
        | Outcome::Misdirected
        | Outcome::LoopDetected
        | Outcome::Trap
        | Outcome::NoResponse
        | Outcome::BadResponse
        | Outcome::CpuLimit
        | Outcome::MemoryLimit
        | Outcome::WallLimit
        | Outcome::Quarantined
        | Outcome::Overloaded
        | Outcome::Unavailable
        | Outcome::Internal => false,
    }
}

/// What the client reads. Nothing of the app, its version or its failure.
fn line(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok\n",
        Outcome::BadRequest => "the request breaks a rule of HTTP\n",
        Outcome::NotFound => "nothing answers at this address\n",
        Outcome::RequestTimeout => "the request took too long to arrive\n",
        Outcome::Misdirected => "this connection is for another host\n",
        Outcome::TargetTooLong => "the address is too long\n",
        Outcome::ExpectationFailed => "the only expectation known here is `100-continue`\n",
        Outcome::HeadersTooLarge => "the request's headers are too large\n",
        Outcome::ClientGone => "the request ended before its end\n",
        Outcome::LoopDetected => "the request goes in a circle\n",
        Outcome::Trap
        | Outcome::NoResponse
        | Outcome::BadResponse
        | Outcome::CpuLimit
        | Outcome::MemoryLimit
        | Outcome::WallLimit => "the app failed\n",
        Outcome::Quarantined => "the app failed too often; it is tried again in a moment\n",
        Outcome::Overloaded => "too many requests at once; retry in a moment\n",
        Outcome::Unavailable => "the app is not available\n",
        Outcome::Internal => "the platform failed\n",
    }
}

/// None if this head is no reply's; else whether it says how long the body is.
fn check(status: StatusCode, headers: &mut HeaderMap) -> Option<bool> {
    if status.is_informational() {
        return None;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).into_iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => return Some(false),
        (Some(length), None) if is_length(length.as_bytes()) => {}
        _ => return None,
    }
    // RFC 9110 §8.6: not with a 204.
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
        return Some(false);
    }
    Some(true)
}

/// Connections are ours, and so are headers that begin with `midge-`.
fn remove_what_ends_here(headers: &mut HeaderMap) {
    let ours = |name: &&HeaderName| match name.as_str().as_bytes() {
        b"connection" | b"keep-alive" | b"te" | b"transfer-encoding" | b"upgrade" => true,
        [b'p', rest @ ..] => rest.starts_with(b"roxy-"),
        [b'm', rest @ ..] => rest.starts_with(b"idge-"),
        _ => false,
    };
    let gone: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Removes trailers that only a head may have: they would frame, route or authorize what has been said already (RFC 9110
/// §6.5.1). hyper does so over HTTP/1.1 alone.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    remove_what_ends_here(trailers);
    let only_in_a_head = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("content-")
            || matches!(
                name,
                "authorization"
                    | "cache-control"
                    | "host"
                    | "max-forwards"
                    | "set-cookie"
                    | "trailer"
            )
    };
    let gone: Vec<HeaderName> = trailers.keys().filter(only_in_a_head).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

fn id_value(id: &RequestId) -> HeaderValue {
    HeaderValue::from_bytes(id.as_bytes()).expect("an id is ASCII letters and digits")
}

impl Body for Reply {
    type Data = Piece;
    type Error = Truncated;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Truncated>>> {
        let this = &mut *self;
        let stream = &this.stream;
        match &mut this.content {
            Content::Line(line) => Poll::Ready(line.take().map(|line| {
                let bytes = Bytes::from_static(line.as_bytes());
                Ok(Frame::data(Piece::new(bytes, stream.clone())))
            })),
            Content::Guest { body, cut, .. } => {
                if let Some(truncated) = cut.take() {
                    return Poll::Ready(Some(Err(truncated)));
                }
                if let Some(outgoing) = this.link.outgoing() {
                    ready!(outgoing.poll_room(context));
                }
                this.link.wants_body();
                let mut frame = ready!(body.poll_frame(context));
                match &mut frame {
                    Some(Ok(frame)) => {
                        this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                        if let Some(trailers) = frame.trailers_mut() {
                            clean_trailers(trailers);
                        }
                        this.link.has_body();
                    }
                    Some(Err(Truncated(outcome))) => {
                        if let Some(exchange) = &this.exchange {
                            exchange.refused(*outcome);
                        }
                        // At an error hyper throws away what it has not written: the head and the bytes that the
                        // guest sent in time. It writes them when a body has nothing for it.
                        *cut = Some(Truncated(*outcome));
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    None => {}
                }
                let piece = |bytes| Piece::new(bytes, stream.clone());
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Line(line) => line.is_none(),
            Content::Guest { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Line(line) => SizeHint::with_exact(line.map_or(0, str::len) as u64),
            // hyper would write the head's length and count by the body's.
            Content::Guest { sized: true, .. } => SizeHint::default(),
            Content::Guest { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let written = match &self.content {
            Content::Guest {
                body: Leaving::Coded(coded),
                ..
            } => coded.taken(),
            Content::Guest { .. } | Content::Line(_) => self.bytes,
        };
        if let Some(exchange) = &self.exchange {
            exchange.sent(written);
        }
        // Who has the last piece need not ask whether another follows.
        let whole = self.is_end_stream();
        self.link.replied(whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = lines.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    #[test]
    fn a_head_that_could_be_framed_in_two_ways_is_no_reply() {
        let check =
            |status: u16, lines: &[(&'static str, &'static str)], expected: Option<bool>| {
                let mut map = HeaderMap::new();
                for (name, value) in lines {
                    map.append(*name, HeaderValue::from_static(value));
                }
                let found = super::check(StatusCode::from_u16(status).unwrap(), &mut map);
                assert_eq!(found, expected, "{status} {lines:?}");
                if found == Some(false) {
                    assert!(!map.contains_key(CONTENT_LENGTH));
                }
            };
        check(200, &[], Some(false));
        check(200, &[("content-length", "5")], Some(true));
        check(304, &[("content-length", "5")], Some(true));
        check(204, &[("content-length", "5")], Some(false));
        check(
            200,
            &[("content-length", "5"), ("content-length", "5")],
            None,
        );
        for odd in [
            "",
            "+5",
            "-1",
            "5,5",
            "0x5",
            " 5",
            "5.0",
            "99999999999999999999",
        ] {
            check(200, &[("content-length", odd)], None);
        }
        check(100, &[], None);
        check(101, &[("upgrade", "websocket")], None);
        check(199, &[], None);
        check(999, &[], Some(false));
    }

    #[test]
    fn a_guest_says_nothing_of_connections_or_in_our_name() {
        let mut map = headers(&[
            ("connection", "close"),
            ("keep-alive", "timeout=1"),
            ("proxy-authenticate", "x"),
            ("te", "trailers"),
            ("transfer-encoding", "gzip"),
            ("upgrade", "h2c"),
            ("midge-error", "ok"),
            ("midge-request-id", "1"),
            ("trailer", "checksum"),
            ("content-type", "text/html"),
            ("set-cookie", "a=b"),
        ]);
        remove_what_ends_here(&mut map);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort();
        assert_eq!(left, ["content-type", "set-cookie", "trailer"]);
    }

    #[test]
    fn trailers_of_a_guest_do_not_change_what_its_head_has_said() {
        let names = [
            "checksum",
            "content-length",
            "content-type",
            "cache-control",
            "host",
            "authorization",
            "set-cookie",
            "trailer",
            "transfer-encoding",
            "connection",
            "midge-error",
        ];
        let mut map = headers(&names.map(|name| (name, "1")));
        clean_trailers(&mut map);
        assert_eq!(map.keys().collect::<Vec<_>>(), ["checksum"]);
    }

    #[test]
    fn only_what_hyper_says_by_itself_is_completed() {
        let id = || super::super::request_id::RequestIds::new(1).next(0);
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
            content-length: 0\r\ndate: now\r\n\r\n";
        let text = complete(bare, id).unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, line(Outcome::HeadersTooLarge));
        let lines: Vec<&str> = head.lines().skip(1).collect();
        for expected in [
            "connection: close",
            "date: now",
            "midge-error: headers-too-large",
            &format!("content-length: {}", body.len()),
        ] {
            assert!(lines.contains(&expected), "{text}");
        }
        assert_eq!(text.matches("content-length").count(), 1);
        for other in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\nmidge-request-id: x\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nhello",
            b"hello",
            b"",
        ] {
            assert!(complete(other, id).is_none());
        }
    }

    #[test]
    fn every_outcome_has_a_line_of_its_own_kind() {
        for outcome in Outcome::ALL {
            let text = line(*outcome);
            assert!(text.ends_with('\n') && text.is_ascii() && text.len() < 80);
            assert!(StatusCode::from_u16(outcome.status()).is_ok());
        }
    }
}
