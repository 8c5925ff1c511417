//! The body of a reply on its way to the guest: bounded in length, with a deadline on each piece; its connection waits for
//! the next request once it was read to its end, and is closed if it was not.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use model::limits;

use super::dial::Connection;
use super::pool::{Key, Pool};
use crate::http::{BodyError, Patience, RequestBody, is_forbidden};

/// Where a connection goes when its reply was read to the end.
pub struct Lease {
    pub pool: Pool,
    pub key: Key,
    pub connection: Connection,
}

impl Lease {
    /// The reply was read to its end.
    fn give_back(self) {
        // One that is shared waits already.
        if self.connection.shared().is_none() {
            self.pool.keep(self.key, self.connection);
        }
    }
}

struct Download {
    incoming: Incoming,
    left: u64,
    patience: Patience,
    lease: Option<Lease>,
}

/// The body as guests read it.
pub fn body(incoming: Incoming, between: Duration, lease: Lease) -> RequestBody {
    if incoming.is_end_stream() {
        lease.give_back();
        return None;
    }
    Some(Box::pin(Download {
        incoming,
        left: limits::SUBREQUEST_REPLY.default.bytes(),
        patience: Patience::new(between),
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
        let polled = Pin::new(&mut this.incoming).poll_frame(context);
        let Ok(frame) = ready!(this.patience.poll(context, polled)) else {
            this.lease = None;
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        };
        let frame = match frame {
            Some(Ok(mut frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                if length > this.left {
                    this.lease = None;
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                this.left -= length;
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
                let malformed = error.is_parse();
                Some(Err(match malformed {
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
