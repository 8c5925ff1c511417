//! Compression of replies, where the manifest asks for it and the client takes it: what is compressed, and what a reply's
//! head then says. Nothing that is encoded already, that must not be changed, or that would not shrink.

mod accept;
mod coded;
mod coder;

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderName, HeaderValue, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use model::{Coding, limits};
use runtime::{ReplyBody, Truncated};

use super::exchange::Exchange;
pub use coded::Coded;
use coder::Coder;

/// Fields that say that the bytes are not ours to change: they are encoded, a part, or summed up.
const OF_THE_BYTES: [HeaderName; 6] = [
    CONTENT_ENCODING,
    CONTENT_RANGE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What one request and its app agree on; there is none where the app has compression off.
pub struct Agreed {
    coding: Option<Coding>,
    to_head: bool,
    places: Places,
}

impl Agreed {
    /// None if the app offers nothing.
    pub fn on(offered: &[Coding], request: &Parts, places: &Places) -> Option<Self> {
        if offered.is_empty() {
            return None;
        }
        Some(Self {
            coding: accept::choose(&request.headers, offered),
            to_head: request.method == Method::HEAD,
            places: places.clone(),
        })
    }

    /// The reply's body as it leaves, and its head made to fit it.
    pub fn body(
        self,
        status: StatusCode,
        headers: &mut HeaderMap,
        body: ReplyBody,
        exchange: &Arc<Exchange>,
    ) -> Leaving {
        let Some(coding) = self.settle(status, headers, body.size_hint().exact()) else {
            return Leaving::AsWritten(body);
        };
        if self.to_head {
            rewrite(headers, coding);
            return Leaving::Unsent(body);
        }
        let encoder = self.places.take().zip(Coder::new(coding).ok());
        let Some((place, coder)) = encoder else {
            return Leaving::AsWritten(body);
        };
        let promised = length(headers);
        rewrite(headers, coding);
        let coded = Coded::new(body, coder, promised, exchange.clone(), place);
        Leaving::Coded(Box::new(coded))
    }

    /// Whether a reply that begins with this head is to be compressed, and how. `ended` is its length where the guest has
    /// ended it already. Says in the head that it depends on what the client takes, where it does.
    fn settle(
        &self,
        status: StatusCode,
        headers: &mut HeaderMap,
        ended: Option<u64>,
    ) -> Option<Coding> {
        let unchanged = status == StatusCode::NOT_MODIFIED;
        if headers.contains_key(CONTENT_ENCODING)
            || !(shrinks(headers) || unchanged_of_any(status, headers))
        {
            return None;
        }
        vary(headers);
        let coding = self.coding?;
        if unchanged {
            // What the client kept bears the tag that it was sent with.
            weaken(headers);
            return None;
        }
        let bodiless = status == StatusCode::NO_CONTENT || status.is_informational();
        let fixed = status == StatusCode::PARTIAL_CONTENT
            || OF_THE_BYTES.iter().any(|name| headers.contains_key(name))
            || must_not_be_transformed(headers);
        // A guest that writes nothing to a HEAD has said nothing of the length.
        let ended = ended.filter(|length| !(self.to_head && *length == 0));
        let small = length(headers)
            .or(ended)
            .is_some_and(|length| length < limits::COMPRESS_SMALLEST.default.bytes());
        (!bodiless && !fixed && !small).then_some(coding)
    }
}

/// A reply's body on its way out.
pub enum Leaving {
    AsWritten(ReplyBody),
    /// The reply to a HEAD, whose head says what it would be if it were sent.
    Unsent(ReplyBody),
    Coded(Box<Coded>),
}

impl Leaving {
    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        match self {
            Self::AsWritten(body) | Self::Unsent(body) => Pin::new(body).poll_frame(context),
            Self::Coded(coded) => coded.poll_frame(context),
        }
    }

    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::AsWritten(body) | Self::Unsent(body) => body.is_end_stream(),
            Self::Coded(coded) => coded.is_end_stream(),
        }
    }

    /// How long a compressed body becomes is not known before its end.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::AsWritten(body) => body.size_hint(),
            Self::Unsent(_) | Self::Coded(_) => SizeHint::default(),
        }
    }
}

/// Makes the head that of the reply in this coding.
fn rewrite(headers: &mut HeaderMap, coding: Coding) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    weaken(headers);
}

/// The length that the head says.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A 304 need not say its type: it may be of any.
fn unchanged_of_any(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::NOT_MODIFIED && !headers.contains_key(CONTENT_TYPE)
}

/// Whether the type is one whose bytes get fewer: text, and what is written like text.
fn shrinks(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let Some((kind, sub)) = essence.split_once('/') else {
        return false;
    };
    const APPLICATIONS: [&str; 6] = [
        "json",
        "javascript",
        "xml",
        "wasm",
        "x-ndjson",
        "x-javascript",
    ];
    kind == "text"
        || sub.ends_with("+json")
        || sub.ends_with("+xml")
        || kind == "application" && APPLICATIONS.contains(&sub)
}

/// Says that the reply depends on what the client takes.
fn vary(headers: &mut HeaderMap) {
    let names = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .any(|name| name == "*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str()))
    };
    if !headers.get_all(VARY).iter().any(names) {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// The same tag for what means the same, but is not the same bytes.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG) else {
        return;
    };
    if tag.as_bytes().starts_with(b"\"") {
        let weak = [b"W/", tag.as_bytes()].concat();
        let weak = HeaderValue::from_bytes(&weak).expect("two more letters fit a value");
        headers.insert(ETAG, weak);
    }
}

fn must_not_be_transformed(headers: &HeaderMap) -> bool {
    let forbids = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        let mut directives = text.split(',').map(str::trim);
        directives.any(|directive| directive.eq_ignore_ascii_case("no-transform"))
    };
    headers.get_all(CACHE_CONTROL).iter().any(forbids)
}

/// How many replies may be compressed at once in this worker.
#[derive(Clone, Default)]
pub struct Places(Rc<Cell<u64>>);

impl Places {
    /// A place for one more; none if all are taken.
    pub fn take(&self) -> Option<Place> {
        if self.0.get() >= limits::COMPRESSED.default {
            return None;
        }
        self.0.set(self.0.get() + 1);
        Some(Place(self.0.clone()))
    }
}

/// One of those; given back when dropped.
pub struct Place(Rc<Cell<u64>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines<'a> = &'a [(&'static str, &'static str)];

    fn map(lines: Lines<'_>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn settled(
        agreed: &Agreed,
        status: u16,
        lines: Lines<'_>,
        ended: Option<u64>,
    ) -> (bool, HeaderMap) {
        let mut headers = map(lines);
        let status = StatusCode::from_u16(status).unwrap();
        let coding = agreed.settle(status, &mut headers, ended);
        if let Some(coding) = coding {
            rewrite(&mut headers, coding);
        }
        (coding.is_some(), headers)
    }

    fn agreed(coding: Option<Coding>) -> Agreed {
        Agreed {
            coding,
            to_head: false,
            places: Places::default(),
        }
    }

    fn gzip() -> Agreed {
        agreed(Some(Coding::Gzip))
    }

    #[test]
    fn only_what_may_shrink_and_may_change_is_compressed() {
        let check =
            |status: u16, lines: Lines<'_>, ended: Option<u64>, coded: bool, varies: bool| {
                let (found, headers) = settled(&gzip(), status, lines, ended);
                assert_eq!(found, coded, "{status} {lines:?} {ended:?}");
                assert_eq!(headers.contains_key(CONTENT_ENCODING) && found, coded);
                assert_eq!(headers.contains_key(VARY), varies, "{status} {lines:?}");
            };
        let text = ("content-type", "text/html; charset=utf-8");
        check(200, &[text], None, true, true);
        check(404, &[text], None, true, true);
        for kind in [
            "TEXT/event-stream",
            "application/json",
            "application/problem+json ; x=y",
            "image/svg+xml",
            "application/wasm",
            "text/javascript",
        ] {
            check(200, &[("content-type", kind)], None, true, true);
        }
        for kind in [
            "image/png",
            "application/zip",
            "application/octet-stream",
            "video/mp4",
            "font/woff2",
            "json",
            "",
        ] {
            check(200, &[("content-type", kind)], None, false, false);
        }
        check(200, &[], None, false, false);
        // Lengths.
        check(200, &[text, ("content-length", "1023")], None, false, true);
        check(200, &[text, ("content-length", "1024")], None, true, true);
        check(200, &[text], Some(1023), false, true);
        check(200, &[text], Some(1024), true, true);
        check(200, &[text], Some(0), false, true);
        // What is not ours to change.
        check(200, &[text, ("content-encoding", "br")], None, false, false);
        check(
            200,
            &[text, ("content-encoding", "identity")],
            None,
            false,
            false,
        );
        for fixed in [
            ("cache-control", "max-age=1, No-Transform"),
            ("content-range", "bytes 0-9/10"),
            ("content-digest", "sha-256=:x:"),
            ("repr-digest", "sha-256=:x:"),
        ] {
            check(200, &[text, fixed], None, false, true);
        }
        check(
            200,
            &[text, ("cache-control", "max-age=1")],
            None,
            true,
            true,
        );
        check(206, &[text], None, false, true);
        check(204, &[text], None, false, true);
        check(304, &[text], None, false, true);
        check(304, &[], None, false, true);
        check(304, &[("content-type", "image/png")], None, false, false);
    }

    #[test]
    fn a_client_that_takes_nothing_is_told_that_others_may() {
        let lines = [
            ("content-type", "text/css"),
            ("etag", "\"1\""),
            ("vary", "Origin"),
        ];
        let (coded, headers) = settled(&agreed(None), 200, &lines, None);
        assert!(!coded);
        assert_eq!(headers["etag"], "\"1\"");
        let varies: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(varies, ["Origin", "accept-encoding"]);
    }

    #[test]
    fn a_head_has_the_fields_that_its_get_would_have() {
        let head = &Agreed {
            to_head: true,
            ..gzip()
        };
        let text = ("content-type", "text/plain");
        assert!(settled(head, 200, &[text], Some(0)).0);
        assert!(!settled(head, 200, &[text], Some(9)).0);
        assert!(!settled(head, 200, &[text, ("content-length", "9")], Some(0)).0);
        assert!(settled(head, 200, &[text, ("content-length", "9000")], Some(0)).0);
    }

    #[test]
    fn the_head_says_what_has_become_of_the_bytes() {
        let check = |lines: Lines<'_>, status: u16, name: &str, expected: Option<&str>| {
            let with_type = [lines, &[("content-type", "text/css")]].concat();
            let (_, headers) = settled(&gzip(), status, &with_type, None);
            let found = headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{status} {lines:?}");
        };
        check(&[], 200, "content-encoding", Some("gzip"));
        check(&[("content-length", "5000")], 200, "content-length", None);
        check(&[("accept-ranges", "bytes")], 200, "accept-ranges", None);
        check(&[("etag", "\"1\"")], 200, "etag", Some("W/\"1\""));
        check(&[("etag", "W/\"1\"")], 200, "etag", Some("W/\"1\""));
        check(&[("etag", "1")], 200, "etag", Some("1"));
        check(&[("etag", "\"1\"")], 304, "etag", Some("W/\"1\""));
        check(&[("etag", "\"1\"")], 206, "etag", Some("\"1\""));
        check(&[("vary", "*")], 200, "vary", Some("*"));
        check(
            &[("vary", "a, Accept-Encoding")],
            200,
            "vary",
            Some("a, Accept-Encoding"),
        );
    }

    #[test]
    fn no_more_are_compressed_at_once_than_there_are_places() {
        let places = Places::default();
        let mut taken: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!(taken.len() as u64, limits::COMPRESSED.default);
        taken.pop();
        assert!(places.take().is_some());
    }
}
