//! A connection to a checked address: TCP, TLS where the scheme says so, and the HTTP that both ends speak.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use model::{Destination, DestinationHost, HttpScheme, limits};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::{Reach, SendError};
use crate::http::{OutgoingReader, Truncated};

/// What is sent of a request's body.
pub struct Upload {
    body: Option<OutgoingReader>,
    ended: Arc<AtomicBool>,
}

impl Upload {
    pub fn new(body: Option<OutgoingReader>) -> Self {
        let ended = body.as_ref().is_none_or(Body::is_end_stream);
        Self {
            body,
            ended: Arc::new(AtomicBool::new(ended)),
        }
    }

    /// Says later whether all of it was taken.
    pub fn ended(&self) -> Arc<AtomicBool> {
        self.ended.clone()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Truncated;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if frame.is_none() || body.is_end_stream() {
            this.ended.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// An open connection. Closed when the last of those who share it drops it.
pub struct Connection {
    speaks: Speaks,
    running: Arc<Running>,
}

enum Speaks {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

/// The task that moves a connection's bytes, and those that it has begun for single requests.
struct Running {
    task: JoinHandle<()>,
    tasks: Tasks,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.tasks.all().abort_all();
    }
}

/// Tasks that end with their connection. hyper would let those of HTTP/2 go on for as long as one request's body is open.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn all(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let mut all = self.all();
        while all.try_join_next().is_some() {}
        all.spawn(task);
    }
}

/// Why certificates of authorities cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("it is not in the form of PEM: {0}")]
    Pem(String),
    #[error("a certificate in it cannot be read: {0}")]
    Certificate(String),
    #[error("no authority is trusted: neither the built-in ones nor any of the operator's")]
    None,
}

/// TLS towards servers whose certificates lead to one of these authorities.
///
/// Sessions are not resumed: whether one can be would tell a tenant that another was there.
pub fn trusted(bundled: bool, pem: &str) -> Result<Arc<ClientConfig>, RootsError> {
    let mut roots = RootCertStore::empty();
    if bundled {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| RootsError::Pem(error.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|error| RootsError::Certificate(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(RootsError::None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what the default versions need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Connects to the first of `addresses` that takes us, before `deadline`.
///
/// # Errors
/// What the last of them said.
pub async fn dial(
    tls: &Arc<ClientConfig>,
    reach: &Reach,
    to: &Destination,
    addresses: &[IpAddr],
    deadline: Instant,
) -> Result<(Connection, IpAddr), SendError> {
    let mut failed = SendError::NoAddress;
    for (i, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let rest = (addresses.len() - i) as u32;
        match connect(reach, *address, to.port, left / rest).await {
            Ok(stream) => {
                let connection = tokio::time::timeout_at(deadline, speak(tls, to, stream)).await;
                let connection = connection.unwrap_or(Err(SendError::ConnectTimeout))?;
                return Ok((connection, *address));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn connect(
    reach: &Reach,
    address: IpAddr,
    port: u16,
    within: Duration,
) -> Result<TcpStream, SendError> {
    let address = SocketAddr::new(address, port);
    let connected = tokio::time::timeout(within, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => SendError::Refused,
        io::ErrorKind::TimedOut => SendError::ConnectTimeout,
        _ => SendError::Connect(error.to_string()),
    })?;
    // The one that was checked, and none that the network put in its place.
    let peer = stream.peer_addr().ok();
    if peer != Some(address) || !reach.permits(address.ip()) {
        return Err(SendError::Unreachable);
    }
    let failed = |error: io::Error| SendError::Connect(error.to_string());
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn speak(
    tls: &Arc<ClientConfig>,
    to: &Destination,
    stream: TcpStream,
) -> Result<Connection, SendError> {
    match to.scheme {
        HttpScheme::Http => http1(stream).await,
        HttpScheme::Https => {
            let name = match &to.host {
                DestinationHost::Name(name) => ServerName::try_from(name.clone())
                    .map_err(|error| SendError::Certificate(error.to_string()))?,
                DestinationHost::Address(address) => ServerName::from(*address),
            };
            let connector = TlsConnector::from(tls.clone());
            let stream = connector.connect(name, stream).await.map_err(judge_tls)?;
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => http2(stream).await,
                _ => http1(stream).await,
            }
        }
    }
}

fn judge_tls(error: io::Error) -> SendError {
    let cause = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(error)) => SendError::Certificate(error.to_string()),
        Some(error) => SendError::Tls(error.to_string()),
        None => SendError::Tls(error.to_string()),
    }
}

async fn http1<S>(stream: S) -> Result<Connection, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http1::Builder::new()
        .max_buf_size(limits::HEADER_BYTES.default.as_usize())
        .max_header_size(limits::HEADER_BYTES.default.as_usize())
        .max_headers(limits::HEADER_FIELDS.default as usize)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(judge)?;
    let tasks = Tasks::default();
    Ok(Connection::new(Speaks::Http1(sender), connection, tasks))
}

async fn http2<S>(stream: S) -> Result<Connection, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let window = |size: model::Size| u32::try_from(size.0).unwrap_or(u32::MAX);
    let tasks = Tasks::default();
    let handshake = http2::Builder::new(tasks.clone())
        .initial_stream_window_size(window(limits::BODY_CHUNK.default))
        .initial_connection_window_size(window(limits::HTTP2_WINDOW.default))
        .max_header_list_size(window(limits::HEADER_BYTES.default))
        .max_send_buf_size(limits::BODY_CHUNK.default.as_usize())
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(judge)?;
    Ok(Connection::new(Speaks::Http2(sender), connection, tasks))
}

impl Connection {
    fn new<E>(
        speaks: Speaks,
        connection: impl Future<Output = Result<(), E>> + Send + 'static,
        tasks: Tasks,
    ) -> Self {
        let task = tokio::task::spawn_local(async {
            // What goes wrong is said to whoever waits for a reply.
            let _ = connection.await;
        });
        Self {
            speaks,
            running: Arc::new(Running { task, tasks }),
        }
    }

    /// The same connection for another request at the same time, if it has room for more than one.
    pub fn shared(&self) -> Option<Self> {
        match &self.speaks {
            Speaks::Http1(_) => None,
            Speaks::Http2(sender) => Some(Self {
                speaks: Speaks::Http2(sender.clone()),
                running: self.running.clone(),
            }),
        }
    }

    /// Whether this is the same one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.running, &other.running)
    }

    pub fn is_closed(&self) -> bool {
        match &self.speaks {
            Speaks::Http1(sender) => sender.is_closed(),
            Speaks::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request and waits for the head of the reply.
    ///
    /// # Errors
    /// With the request, if nothing of it has left.
    pub async fn send(
        &mut self,
        request: http::Request<Upload>,
    ) -> Result<http::Response<Incoming>, TrySendError<http::Request<Upload>>> {
        match &mut self.speaks {
            Speaks::Http1(sender) => {
                // Where it cannot any more, the request comes back.
                let _ = sender.ready().await;
                sender.try_send_request(request).await
            }
            Speaks::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// What became of a request that hyper could not have answered.
pub fn judge(error: hyper::Error) -> SendError {
    if error.is_parse_too_large() {
        SendError::HeadTooLarge
    } else if error.is_parse() {
        SendError::Protocol(error.to_string())
    } else if error.is_user() {
        SendError::BodyUnfinished
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        SendError::Gone
    } else {
        let cause = std::error::Error::source(&error);
        // The connection's end, whichever way it comes; or the server's word that it has not looked at the request (RFC 9113
        // §8.7).
        let is_end = cause.is_none_or(|cause| {
            let unseen = cause.downcast_ref::<h2::Error>().is_some_and(|error| {
                error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
            });
            unseen || cause.is::<io::Error>()
        });
        match cause {
            Some(cause) if !is_end => SendError::Protocol(cause.to_string()),
            _ => SendError::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn someone_must_be_trusted() {
        assert!(matches!(trusted(false, ""), Err(RootsError::None)));
        assert!(trusted(true, "").is_ok());
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        assert!(trusted(false, &pem).is_ok());
        let cut = pem.replace("MII", "!!!");
        assert!(matches!(trusted(false, &cut), Err(RootsError::Pem(_))));
    }
}
