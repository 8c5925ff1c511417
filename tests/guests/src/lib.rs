//! What the component guests share: a reply in parts, and the request's path taken apart.

pub mod config;
pub mod kv;

use std::io::{Read, Write};

use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
    Trailers,
};
use wasip2::io::streams::{InputStream, OutputStream};

/// A reply whose head has left.
pub struct Reply {
    body: OutgoingBody,
    stream: OutputStream,
}

impl Reply {
    /// Sends the head.
    pub fn begin(out: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> Self {
        let fields = Fields::new();
        for (name, value) in headers {
            fields
                .append(name, value.as_bytes())
                .expect("a header that may be sent");
        }
        let response = OutgoingResponse::new(fields);
        response
            .set_status_code(status)
            .expect("a status that exists");
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream is taken once");
        Self { body, stream }
    }

    /// Writes some of the body; false if the client is gone.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Makes what was written leave now; false if the client is gone.
    pub fn flush(&mut self) -> bool {
        Write::flush(&mut self.stream).is_ok()
    }

    /// Ends the body.
    pub fn end(self, trailers: Option<Trailers>) {
        drop(self.stream);
        // A client that went away is no failure of the guest.
        let _ = OutgoingBody::finish(self.body, trailers);
    }
}

/// Sends a whole reply of text.
pub fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let mut reply = Reply::begin(out, status, &[("content-type", "text/plain")]);
    reply.write(text.as_bytes());
    reply.end(None);
}

/// The segments of the request's path, without its query.
pub fn segments(request: &IncomingRequest) -> Vec<String> {
    let path = request.path_with_query().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    path.split('/').skip(1).map(str::to_owned).collect()
}

/// The request's query, percent-decoded.
pub fn query(request: &IncomingRequest) -> String {
    let path = request.path_with_query().unwrap_or_default();
    decoded(path.split_once('?').map_or("", |(_, query)| query))
}

pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%');
        let byte = escaped.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// The number in the path's segment `index`, else `otherwise`.
pub fn number(request: &IncomingRequest, index: usize, otherwise: u64) -> u64 {
    segments(request)
        .get(index)
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// The request's body, to read from.
pub struct Body {
    stream: InputStream,
    body: IncomingBody,
}

impl Body {
    pub fn of(request: &IncomingRequest) -> Self {
        let body = request.consume().expect("the body is taken once");
        let stream = body.stream().expect("the stream is taken once");
        Self { stream, body }
    }

    /// The next piece; none at the end.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<usize> {
        Read::read(&mut self.stream, buffer)
            .ok()
            .filter(|length| *length > 0)
    }

    /// The trailers after the body, if it had some.
    pub fn trailers(self) -> Option<Trailers> {
        drop(self.stream);
        let future = IncomingBody::finish(self.body);
        future.subscribe().block();
        future.get()?.ok()?.ok()?
    }
}

/// Makes a function the component's handler.
#[macro_export]
macro_rules! handler {
    ($function:expr) => {
        struct Handler;

        impl wasip2::exports::http::incoming_handler::Guest for Handler {
            fn handle(
                request: wasip2::http::types::IncomingRequest,
                out: wasip2::http::types::ResponseOutparam,
            ) {
                $function(request, out)
            }
        }

        wasip2::http::proxy::export!(Handler);
    };
}
