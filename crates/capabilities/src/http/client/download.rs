//! The body of a reply, and the connection that it comes over: that waits for the next request once it was read to its end,
//! and is closed if it was not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use model::limits;

use super::dial::Connection;
use super::pool::{Key, Pool};
use crate::http::{BodyError, RequestBody, is_forbidden};

/// A connection on loan for one request. It waits for the next one if this one came to a good end in both directions;
/// if not, nobody is lent it any more, and it is closed when those who share it are through.
pub struct Lease {
    pub pool: Pool,
    pub key: Key,
    /// None once it was given back.
    pub connection: Option<Connection>,
    /// Whether all of the request's body was taken.
    pub uploaded: Arc<AtomicBool>,
}

impl Lease {
    /// The reply was read to its end.
    fn give_back(mut self) {
        if !self.uploaded.load(Relaxed) {
            return;
        }
        if let Some(connection) = self.connection.take()
            // One that is shared waits already.
            && connection.shared().is_none()
        {
            self.pool.keep(self.key.clone(), connection);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.pool.forget(&self.key, connection);
        }
    }
}

struct Download {
    incoming: Incoming,
    lease: Option<Lease>,
}

/// The body as it comes.
pub fn body(incoming: Incoming, lease: Lease) -> RequestBody {
    if incoming.is_end_stream() {
        lease.give_back();
        return None;
    }
    Some(Box::pin(Download {
        incoming,
        lease: Some(lease),
    }))
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match ready!(Pin::new(&mut this.incoming).poll_frame(context)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    if trailers.len() as u64 > limits::HEADER_FIELDS.default {
                        this.lease = None;
                        return Poll::Ready(Some(Err(BodyError::Malformed)));
                    }
                    clean(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.lease = None;
                Some(Err(match error.is_parse() {
                    true => BodyError::Malformed,
                    false => BodyError::Gone,
                }))
            }
            None => None,
        };
        let ended = frame.is_none() || this.incoming.is_end_stream();
        if ended && let Some(lease) = this.lease.take() {
            lease.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Takes away what belongs to one connection (RFC 9110 §7.6.1), and what the connection's own header names.
pub fn clean(headers: &mut http::HeaderMap) {
    let named = headers.get_all(http::header::CONNECTION).into_iter();
    let named = named.filter_map(|value| value.to_str().ok());
    let named: Vec<http::HeaderName> = named
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let ours = headers.keys().filter(|name| is_forbidden(name)).cloned();
    let gone: Vec<http::HeaderName> = ours.chain(named).collect();
    for name in gone {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_connection_does_not_reach_the_guest() {
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("midge-error", "ok"),
            ("content-type", "text/plain"),
            ("set-cookie", "a=b"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        clean(&mut headers);
        let mut left: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "set-cookie"]);
    }
}
