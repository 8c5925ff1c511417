//! Servers that guests send requests to: real ones over HTTP/1.1, HTTP/2 and TLS, and ones that say whatever a test wants.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::tls::{Certificate, server_config};

/// A running server. Dropping it ends it.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _end: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    under_way: AtomicU64,
    most_under_way: AtomicU64,
    heads: Mutex<Vec<String>>,
}

/// How a server speaks.
#[derive(Clone, Copy)]
enum Manner {
    Well,
    /// See [`Origin::hoarding`].
    Hoards,
    /// See [`Origin::leaving`].
    Leaves {
        after: u64,
        in_words: bool,
    },
}

type Body = BoxBody<Bytes, Infallible>;

impl Origin {
    /// Over cleartext, which is HTTP/1.1.
    pub fn start() -> Self {
        Self::serving(None, Manner::Well)
    }

    /// Over TLS, speaking these protocols.
    pub fn secure(certificate: &Certificate, protocols: &[&str]) -> Self {
        let config = server_config(certificate, protocols);
        Self::serving(Some(TlsAcceptor::from(Arc::new(config))), Manner::Well)
    }

    /// Over TLS and HTTP/2, answering each request at once with nothing, and never taking a byte of its body.
    pub fn hoarding(certificate: &Certificate) -> Self {
        Self::over_http2(certificate, Manner::Hoards)
    }

    /// Over TLS and HTTP/2, answering so many requests of each connection and leaving at the next one: with a word of it
    /// (`GOAWAY`), or without.
    pub fn leaving(certificate: &Certificate, after: u64, in_words: bool) -> Self {
        Self::over_http2(certificate, Manner::Leaves { after, in_words })
    }

    fn over_http2(certificate: &Certificate, manner: Manner) -> Self {
        let config = server_config(certificate, &["h2"]);
        Self::serving(Some(TlsAcceptor::from(Arc::new(config))), manner)
    }

    fn serving(tls: Option<TlsAcceptor>, manner: Manner) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it was bound");
        listener.set_nonblocking(true).expect("a socket obeys");
        let shared = Arc::new(Shared::default());
        let (end, ended) = oneshot::channel();
        let serving = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime can be made").block_on(async {
                tokio::select! {
                    () = accept(listener, tls, manner, serving) => {}
                    _ = ended => {}
                }
            });
        });
        Self {
            address,
            shared,
            _end: end,
        }
    }

    /// How many connections there were in all.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// How many of them are open.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Relaxed)
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// The most that were under way at once: until the last byte of the reply was taken.
    pub fn most_under_way(&self) -> u64 {
        self.shared.most_under_way.load(Relaxed)
    }

    /// The heads of requests as they came, newest last, each as `METHOD TARGET VERSION` and a line for each header.
    pub fn heads(&self) -> Vec<String> {
        let heads = self.shared.heads.lock();
        heads.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts one for as long as it lives.
struct Counted(Arc<Shared>, fn(&Shared) -> &AtomicU64);

impl Counted {
    fn new(shared: &Arc<Shared>, which: fn(&Shared) -> &AtomicU64) -> Self {
        which(shared).fetch_add(1, Relaxed);
        Self(shared.clone(), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Relaxed);
    }
}

async fn accept(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    manner: Manner,
    shared: Arc<Shared>,
) {
    let listener = TcpListener::from_std(listener).expect("a runtime takes a socket");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        shared.connections.fetch_add(1, Relaxed);
        let (tls, shared) = (tls.clone(), shared.clone());
        tokio::spawn(async move {
            let _open = Counted::new(&shared, |shared| &shared.open);
            match tls {
                None => speak(stream, shared.clone()).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        match manner {
                            Manner::Well => speak(stream, shared.clone()).await,
                            Manner::Hoards => hoard(stream).await,
                            Manner::Leaves { after, in_words } => {
                                leave(stream, after, in_words, &shared).await;
                            }
                        }
                    }
                }
            }
        });
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, shared.clone()));
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Clients come and go.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// Answers each request with nothing, and holds on to what comes.
async fn hoard(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut held = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let sent = respond.send_response(Response::new(()), true);
        held.push((request.into_body(), sent));
    }
}

/// Answers so many requests with nothing, and leaves at the next one.
async fn leave(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    after: u64,
    in_words: bool,
    shared: &Shared,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    for _ in 0..after {
        let Some(Ok((_, mut respond))) = connection.accept().await else {
            return;
        };
        shared.requests.fetch_add(1, Relaxed);
        // Clients come and go.
        let _ = respond.send_response(Response::new(()), true);
    }
    if connection.accept().await.is_some() && in_words {
        connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        let _ = poll_fn(|context| connection.poll_closed(context)).await;
    }
}

/// `/echo` tells what came, `/status/N` has that status, `/bytes/N` so many bytes in pieces, `/late/MS` a head after that
/// time, `/drip/MS` a byte each so often for ever, `/trailers` trailers, `/upload` the length of what came, `/mirror` what
/// came as it comes.
async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    shared.requests.fetch_add(1, Relaxed);
    let under_way = Counted::new(&shared, |shared| &shared.under_way);
    let now = shared.under_way.load(Relaxed);
    shared.most_under_way.fetch_max(now, Relaxed);
    let (parts, body) = request.into_parts();
    let mut head = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    for (name, value) in &parts.headers {
        head += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let kept = shared.heads.lock();
    kept.unwrap_or_else(PoisonError::into_inner)
        .push(head.clone());
    let path = parts.uri.path().to_owned();
    let (what, number) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let number: u64 = number.parse().unwrap_or(0);
    let text = |text: String| Full::from(text).boxed();
    let body = match what {
        "status" => {
            let mut response = Response::new(text(String::new()));
            *response.status_mut() = StatusCode::from_u16(number as u16).expect("a status");
            return Ok(response);
        }
        "late" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            text("at last".to_owned())
        }
        "upload" => {
            let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
            text(format!("{length} bytes"))
        }
        "mirror" => body
            .map_err(|_| unreachable!("tests that mirror send whole bodies"))
            .boxed(),
        "trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("7"));
            let sent = async { Some(Ok(trailers)) };
            let mut response = Response::new(Full::from("body").with_trailers(sent).boxed());
            let name = HeaderValue::from_static("x-sum");
            response.headers_mut().insert("trailer", name);
            return Ok(response);
        }
        "bytes" | "drip" => {
            let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
            let drips = what == "drip";
            tokio::spawn(async move {
                let _under_way = under_way;
                let mut left = if drips { u64::MAX } else { number };
                while left > 0 {
                    let length = if drips { 1 } else { left.min(16_384) };
                    let piece = Bytes::from(vec![b'x'; length as usize]);
                    if sender.send_data(piece).await.is_err() {
                        return;
                    }
                    left -= length;
                    if drips {
                        tokio::time::sleep(Duration::from_millis(number)).await;
                    }
                }
            });
            return Ok(Response::new(body.boxed()));
        }
        _ => {
            let body = body.collect().await.map(|body| body.to_bytes());
            let body = body.unwrap_or_default();
            text(format!("{head}\n{}", String::from_utf8_lossy(&body)))
        }
    };
    Ok(Response::new(body))
}

/// A server that does to each connection what a test says, after it has read the head of a request.
pub struct Odd {
    pub address: SocketAddr,
}

impl Odd {
    /// Each connection has a thread of its own.
    pub fn start(speak: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it was bound");
        let speak = Arc::new(speak);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let speak = speak.clone();
                thread::spawn(move || {
                    let mut stream = stream;
                    // Whoever goes away in the midst is what some tests want.
                    let _ = read_head(&mut stream).and_then(|()| speak(stream));
                });
            }
        });
        Self { address }
    }

    /// Says these bytes, then keeps the connection open for a while.
    pub fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |mut stream| {
            stream.write_all(&bytes)?;
            // Until the other side has had enough of it.
            let _ = stream.read(&mut [0; 1]);
            Ok(())
        })
    }
}

fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    Ok(())
}
