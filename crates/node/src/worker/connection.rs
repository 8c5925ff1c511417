//! One client connection, over HTTP/1.1 or HTTP/2: which of them it is, and hyper's part of it.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use bytes::BytesMut;
use http::{Method, Request};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::{Outcome, limits};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join};
use tokio::net::TcpStream;

use super::connections::{Admitted, Link};
use super::proxied::{Introduced, introduced};
use super::respond;
use super::serve::{Worker, serve};
use super::stream::Screened;

/// What a client that speaks HTTP/2 says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes read at once until it is clear what the client speaks.
const FIRST_READ: usize = 1024;

/// What a listening socket's connections begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
}

impl Transport {
    /// As a URL names it.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls => "https",
        }
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Serves a connection to its end.
pub async fn run(
    worker: Rc<Worker>,
    http1: Rc<http1::Builder>,
    mut tcp: TcpStream,
    peer: SocketAddr,
    transport: Transport,
) {
    let Ok(server) = tcp.local_addr() else {
        return;
    };
    let mut admitted = worker.connections.admit(peer, server, transport);
    if worker.proxied {
        match admitted.link().while_live(introduced(&mut tcp)).await {
            Some(Ok(Some(Introduced { peer, server }))) => {
                let client = worker.connections.admit(peer, server, transport);
                client.link().introduced(admitted.link());
                admitted = client;
            }
            Some(Ok(None)) => {}
            Some(Err(_)) | None => return,
        }
    }
    match transport {
        Transport::Plain => over_tcp(worker, &http1, tcp, admitted).await,
        // On the heap, here and below: who speaks plain HTTP/1.1 pays for no other.
        Transport::Tls => Box::pin(over_tls(worker, &http1, tcp, admitted)).await,
    }
}

async fn over_tcp(
    worker: Rc<Worker>,
    http1: &http1::Builder,
    mut tcp: TcpStream,
    admitted: Admitted,
) {
    let spoken = admitted.link().while_live(spoken(&mut tcp)).await;
    let Some(Ok((protocol, came))) = spoken else {
        return;
    };
    admitted.link().read();
    match protocol {
        Protocol::Http1 => over_http1(worker, http1, tcp, came, admitted).await,
        Protocol::Http2 => {
            let (read, write) = tcp.into_split();
            let io = join(Cursor::new(came).chain(read), write);
            Box::pin(over_http2(worker, io, admitted)).await;
        }
    }
}

async fn over_tls(worker: Rc<Worker>, http1: &http1::Builder, tcp: TcpStream, admitted: Admitted) {
    let accepted = admitted.link().while_live(async {
        tcp.readable().await?;
        admitted.link().read();
        worker.tls.accept(tcp).await
    });
    let accepted = accepted.await;
    // Who could not agree with us was told so by TLS.
    let Some(Ok(tls)) = accepted else {
        return;
    };
    let (_, session) = tls.get_ref();
    if let Some(name) = session.server_name() {
        admitted.link().ends.named(name);
    }
    if session.alpn_protocol() == Some(b"h2") {
        over_http2(worker, tls, admitted).await;
    } else {
        over_http1(worker, http1, tls, BytesMut::new(), admitted).await;
    }
}

/// What the client speaks, and what it has said so far.
async fn spoken(io: &mut (impl AsyncRead + Unpin)) -> io::Result<(Protocol, BytesMut)> {
    let mut came = BytesMut::new();
    loop {
        came.reserve(FIRST_READ);
        if io.read_buf(&mut came).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = came.len().min(PREFACE.len());
        if came[..length] != PREFACE[..length] {
            return Ok((Protocol::Http1, came));
        }
        if length == PREFACE.len() {
            return Ok((Protocol::Http2, came));
        }
    }
}

/// How hyper reads heads of HTTP/1.1. Its own limit of 100 header fields is [`limits::REQUEST_FIELDS`]: to name the same
/// number would make it allocate for every request.
pub fn http1() -> http1::Builder {
    let head = limits::REQUEST_HEAD.default.as_usize();
    let mut protocol = http1::Builder::new();
    protocol
        // Who closes its half has gone: its guest should not run on.
        .half_close(false)
        .max_buf_size(head)
        .max_header_size(head);
    protocol
}

async fn over_http1(
    worker: Rc<Worker>,
    protocol: &http1::Builder,
    io: impl AsyncRead + AsyncWrite + Unpin,
    came: BytesMut,
    admitted: Admitted,
) {
    let link = admitted.link().clone();
    let stream = Screened::new(io, came, link.clone(), worker.clone());
    let report = worker.report.clone();
    let service = service_fn(move |request| {
        let reply = serve(worker.clone(), admitted.link().clone(), request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let connection = pin!(protocol.serve_connection(stream, service));
    let finish = http1::Connection::graceful_shutdown;
    // hyper has answered these itself.
    match link.drive(connection, finish).await {
        Some(Err(error)) if error.is_parse_too_large() => report.unrouted(Outcome::HeadersTooLarge),
        Some(Err(error)) if error.is_parse() => report.unrouted(Outcome::BadRequest),
        Some(Err(_) | Ok(())) | None => {}
    }
}

/// How hyper speaks HTTP/2. The gate holds heads to our own limit: hyper's is beyond it, and answered without a body.
fn http2(streams: Streams) -> http2::Builder<Streams> {
    let bytes = |size: model::Size| size.bytes() as u32;
    let mut protocol = http2::Builder::new(streams);
    protocol
        .max_concurrent_streams(limits::HTTP2_STREAMS.default as u32)
        .initial_stream_window_size(bytes(limits::HTTP2_STREAM_WINDOW.default))
        .initial_connection_window_size(bytes(limits::HTTP2_WINDOW.default))
        .max_send_buf_size(limits::HTTP2_STREAM_WINDOW.default.as_usize())
        .max_header_list_size(2 * bytes(limits::REQUEST_HEAD.default));
    protocol
}

async fn over_http2(
    worker: Rc<Worker>,
    io: impl AsyncRead + AsyncWrite + Unpin,
    admitted: Admitted,
) {
    let link = admitted.link().clone();
    link.multiplex();
    let streams = Streams::default();
    let begun = streams.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let to_head = request.method() == Method::HEAD;
        let connection = admitted.link();
        let reply = (!connection.takes_no_more()).then(|| {
            let stream = Rc::new(connection.stream());
            begun.0.set(Some(stream.clone()));
            (
                serve(worker.clone(), stream.link().clone(), request),
                stream,
            )
        });
        async move {
            // RFC 9113 §8.7: it may be asked again elsewhere.
            let (reply, stream) = reply.ok_or(h2::Error::from(h2::Reason::REFUSED_STREAM))?;
            Ok::<_, h2::Error>(respond::over_http2(reply.await, to_head, stream))
        }
    });
    let connection = pin!(http2(streams).serve_connection(TokioIo::new(io), service));
    link.drive(connection, http2::Connection::graceful_shutdown)
        .await;
}

/// Runs each request of one connection in a task of its own: hyper makes its reply and hands it here at once.
#[derive(Clone, Default)]
struct Streams(Rc<Cell<Option<Rc<Admitted>>>>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some(admitted) = self.0.take() else {
            // One that is refused.
            tokio::task::spawn_local(stream);
            return;
        };
        tokio::task::spawn_local(async move {
            let link: Rc<Link> = admitted.link().clone();
            // If it is dropped before its end, the client is told so.
            link.drive(pin!(stream), |_| {}).await;
            link.write_out();
            drop(admitted);
        });
    }
}
