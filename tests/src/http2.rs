//! HTTP/2, with prior knowledge or over TLS: a client that keeps the rules, for tests that know nothing of `async`. What breaks the
//! rules is in [`frames`].

pub mod frames;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

pub use h2::Reason;

use crate::client::PATIENCE;
use crate::{Head, Reply};

/// Bytes of a reply that may come before the test takes them.
pub const WINDOW: u32 = 64 << 10;

/// The same, of all replies of a connection: more than they come to, so that one that is not taken holds up no other.
const WINDOW_OF_ALL: u32 = 64 << 20;

/// A connection to one host of a server. It says and hears something only while a test waits for something.
pub struct Http2 {
    runtime: Rc<Runtime>,
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    host: String,
}

/// A request that is under way.
pub struct Stream {
    runtime: Rc<Runtime>,
    sender: SendStream<Bytes>,
    reading: Reading,
}

/// A reply, as far as it has come.
enum Reading {
    Head(ResponseFuture),
    Body(RecvStream),
}

/// Header fields as a test writes them.
pub type Fields<'a> = &'a [(&'a str, &'a str)];

impl Http2 {
    pub fn open(address: SocketAddr, host: &str) -> io::Result<Self> {
        Self::over(Scheme::HTTP, host, tcp(address))
    }

    /// A connection over what `opening` comes to.
    pub(crate) fn over<S>(
        scheme: Scheme,
        host: &str,
        opening: impl Future<Output = io::Result<S>>,
    ) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (sender, connection) = wait(&runtime, async {
            let stream = opening.await?;
            let mut client = client::Builder::new();
            client
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW_OF_ALL)
                // Until the server has said how many it takes.
                .initial_max_send_streams(100);
            client.handshake(stream).await.map_err(io::Error::other)
        })?;
        // Its errors are those of its streams.
        runtime.spawn(connection);
        Ok(Self {
            runtime: Rc::new(runtime),
            sender,
            scheme,
            host: host.to_owned(),
        })
    }

    /// Names another host from now on.
    pub fn host(&mut self, host: &str) {
        host.clone_into(&mut self.host);
    }

    pub fn get(&mut self, path: &str) -> io::Result<Reply> {
        self.request("GET", path, &[], b"")
    }

    /// Asks and waits for the whole reply. The body is sent beside the reading, and no further than the reply's end.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: Fields<'_>,
        body: &[u8],
    ) -> io::Result<Reply> {
        if body.is_empty() {
            return self.ask(method, path, fields)?.reply();
        }
        let mut stream = self.begin(method, path, fields)?;
        wait(&self.runtime, async {
            let mut reply = pin!(stream.reading.reply());
            let sending = async {
                send(&mut stream.sender, body).await?;
                stream.sender.send_data(Bytes::new(), true)
            };
            tokio::select! {
                reply = &mut reply => reply,
                // Who answers without having read everything may say that it wants no more.
                _ = sending => reply.await,
            }
            .map_err(io::Error::other)
        })
    }

    /// Sends a request that has no body.
    pub fn ask(&mut self, method: &str, path: &str, fields: Fields<'_>) -> io::Result<Stream> {
        self.send(method, path, fields, true)
    }

    /// Sends the head of a request whose body follows.
    pub fn begin(&mut self, method: &str, path: &str, fields: Fields<'_>) -> io::Result<Stream> {
        self.send(method, path, fields, false)
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        fields: Fields<'_>,
        is_all: bool,
    ) -> io::Result<Stream> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.host.as_str())
            .path_and_query(path)
            .build()
            .map_err(io::Error::other)?;
        let request = Request::builder().method(method).uri(uri);
        let mut request = request.body(()).map_err(io::Error::other)?;
        *request.headers_mut() = map(fields)?;
        wait(&self.runtime, async {
            poll_fn(|context| self.sender.poll_ready(context))
                .await
                .map_err(io::Error::other)?;
            let sent = self.sender.send_request(request, is_all);
            let (response, sender) = sent.map_err(io::Error::other)?;
            yield_now().await;
            Ok(Stream {
                runtime: self.runtime.clone(),
                sender,
                reading: Reading::Head(response),
            })
        })
    }
}

impl Stream {
    /// Sends a piece of the body; waits as long as the server takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        wait(&self.runtime, async {
            send(&mut self.sender, bytes)
                .await
                .map_err(io::Error::other)?;
            yield_now().await;
            Ok(())
        })
    }

    /// Sends pieces of the body until the server has taken none for so long, or `most` bytes; how many it took.
    pub fn offer(&mut self, piece: &[u8], most: usize, patience: Duration) -> io::Result<usize> {
        let mut taken = 0;
        self.runtime.block_on(async {
            while taken < most {
                match timeout(patience, send(&mut self.sender, piece)).await {
                    Ok(sent) => sent.map_err(io::Error::other)?,
                    Err(_) => break,
                }
                taken += piece.len();
            }
            Ok(taken)
        })
    }

    /// Ends the body.
    pub fn finish(&mut self) -> io::Result<()> {
        let ended = self.sender.send_data(Bytes::new(), true);
        self.said(ended)
    }

    /// Ends the body with trailers.
    pub fn finish_with(&mut self, trailers: Fields<'_>) -> io::Result<()> {
        let ended = self.sender.send_trailers(map(trailers)?);
        self.said(ended)
    }

    /// Gives the request up.
    pub fn cancel(mut self) {
        self.sender.send_reset(Reason::CANCEL);
        let _ = self.said(Ok(()));
    }

    /// Reads the reply's head.
    pub fn head(&mut self) -> io::Result<Head> {
        wait(&self.runtime, async {
            self.reading.head().await.map_err(io::Error::other)
        })
    }

    /// The next piece of the reply's body; none at its end.
    pub fn piece(&mut self) -> io::Result<Option<Bytes>> {
        wait(&self.runtime, async {
            self.reading.piece().await.map_err(io::Error::other)
        })
    }

    /// Reads the rest of the reply's body into `body`, as far as it comes; returns its trailers.
    pub fn body(&mut self, body: &mut Vec<u8>) -> io::Result<Vec<(String, String)>> {
        wait(&self.runtime, async {
            self.reading.rest(body).await.map_err(io::Error::other)
        })
    }

    /// Reads the whole reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        wait(&self.runtime, async {
            self.reading.reply().await.map_err(io::Error::other)
        })
    }

    /// Has what was said leave.
    fn said(&self, result: Result<(), h2::Error>) -> io::Result<()> {
        result.map_err(io::Error::other)?;
        self.runtime.block_on(yield_now());
        Ok(())
    }
}

impl Reading {
    async fn head(&mut self) -> Result<Head, h2::Error> {
        let Self::Head(response) = self else {
            panic!("a reply's head is read once");
        };
        let (parts, body) = response.await?.into_parts();
        *self = Self::Body(body);
        Ok(Head {
            status: parts.status.as_u16(),
            headers: list(&parts.headers),
        })
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let body = self.stream();
        let piece = match body.data().await {
            // An end may come as a frame of nothing.
            Some(Ok(piece)) if piece.is_empty() && body.is_end_stream() => return Ok(None),
            Some(Ok(piece)) => piece,
            // The reply is whole, and no more of the request is wanted (RFC 9113 §8.1).
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => return Ok(None),
            Some(Err(error)) => return Err(error),
            None => return Ok(None),
        };
        body.flow_control().release_capacity(piece.len())?;
        Ok(Some(piece))
    }

    async fn rest(&mut self, body: &mut Vec<u8>) -> Result<Vec<(String, String)>, h2::Error> {
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        let trailers = match self.stream().trailers().await {
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => None,
            trailers => trailers?,
        };
        Ok(trailers.as_ref().map(list).unwrap_or_default())
    }

    async fn reply(&mut self) -> Result<Reply, h2::Error> {
        let head = self.head().await?;
        let mut body = Vec::new();
        let trailers = self.rest(&mut body).await?;
        Ok(Reply {
            head,
            body,
            trailers,
        })
    }

    fn stream(&mut self) -> &mut RecvStream {
        match self {
            Self::Body(body) => body,
            Self::Head(_) => panic!("a reply's head is read before its body"),
        }
    }
}

pub(crate) async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Why the server ended a stream or the connection, if that is what failed.
pub fn reason(error: &io::Error) -> Option<Reason> {
    error.get_ref()?.downcast_ref::<h2::Error>()?.reason()
}

/// Sends bytes as the server takes them.
async fn send(sender: &mut SendStream<Bytes>, mut bytes: &[u8]) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        sender.reserve_capacity(bytes.len());
        let capacity = poll_fn(|context| sender.poll_capacity(context)).await;
        let capacity = capacity.unwrap_or(Err(Reason::STREAM_CLOSED.into()))?;
        let (now, later) = bytes.split_at(capacity.min(bytes.len()));
        sender.send_data(Bytes::copy_from_slice(now), false)?;
        bytes = later;
    }
    Ok(())
}

fn wait<T>(runtime: &Runtime, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    runtime.block_on(async { timeout(PATIENCE, what).await? })
}

fn map(fields: Fields<'_>) -> io::Result<HeaderMap> {
    let field = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
        let value = HeaderValue::from_str(value).map_err(io::Error::other)?;
        Ok((name, value))
    };
    let fields: io::Result<Vec<_>> = fields.iter().map(field).collect();
    // Of a name that is given twice, both stay.
    let mut map = HeaderMap::new();
    for (name, value) in fields? {
        map.append(name, value);
    }
    Ok(map)
}

fn list(map: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}
