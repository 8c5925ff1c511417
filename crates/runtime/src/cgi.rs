//! Commands: a request as environment and standard input, a reply on standard output (CGI, RFC 3875).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use capabilities::http::host::BodyInput;
use capabilities::http::{
    Answer, Closed, Incoming, Outgoing, Reply, WITHOUT_ASKING, WriteError, is_forbidden,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, request};
use model::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, OutputStream, StreamError, StreamResult,
};

use crate::Facts;

/// The most header bytes a command may write.
const HEAD: usize = limits::CGI_HEAD.default.as_usize();

/// What a command is started with.
pub struct Command {
    pub parts: request::Parts,
    pub facts: Facts,
    pub body: Incoming,
    pub stdout: Stdout,
}

impl Command {
    pub fn stdin(&self) -> Stdin {
        Stdin(self.body.clone())
    }

    /// The request's meta-variables (RFC 3875 §4.1), and every header field as `HTTP_…`: each as `NAME=value`.
    pub fn environment(&self) -> Vec<String> {
        environment(&self.parts, &self.facts)
    }
}

fn environment(parts: &request::Parts, facts: &Facts) -> Vec<String> {
    let (host, port) = match facts.authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (
            facts.authority.as_str(),
            if facts.scheme == "https" { "443" } else { "80" },
        ),
    };
    let mut environment: Vec<String> = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("REQUEST_METHOD", parts.method.as_str()),
        ("REQUEST_SCHEME", facts.scheme),
        (
            "REQUEST_URI",
            parts
                .uri
                .path_and_query()
                .map_or("/", |target| target.as_str()),
        ),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", parts.uri.path()),
        ("QUERY_STRING", parts.uri.query().unwrap_or_default()),
        ("SERVER_NAME", host),
        ("SERVER_PORT", port),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_SOFTWARE", "midge"),
        ("REMOTE_ADDR", &facts.client.ip().to_string()),
        ("REMOTE_PORT", &facts.client.port().to_string()),
        ("REQUEST_ID", &facts.request_id),
    ]
    .map(|(name, value)| format!("{name}={value}"))
    .into();
    if facts.scheme == "https" {
        environment.push("HTTPS=on".into());
    }
    for name in parts.headers.keys() {
        let values: Vec<_> = parts
            .headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let value = values.join(&b", "[..]);
        let value = String::from_utf8_lossy(&value);
        match name.as_str() {
            "content-type" => environment.push(format!("CONTENT_TYPE={value}")),
            "content-length" => environment.push(format!("CONTENT_LENGTH={value}")),
            // Programs take `HTTP_PROXY` for their own configuration.
            "proxy" => {}
            name => {
                let name = name.to_ascii_uppercase().replace('-', "_");
                environment.push(format!("HTTP_{name}={value}"));
            }
        }
    }
    environment
}

/// A request body as a command's standard input.
pub struct Stdin(pub Incoming);

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn p2_stream(&self) -> DynInputStream {
        Box::new(BodyInput(self.0.clone()))
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Self(self.0.clone()))
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.0.poll_ready(context));
        match self.0.read(buffer.remaining()) {
            Ok(bytes) => buffer.put_slice(&bytes.unwrap_or_default()),
            Err(error) => return Poll::Ready(Err(io::Error::other(error))),
        }
        Poll::Ready(Ok(()))
    }
}

/// A command's standard output: a CGI head, then a body. Clones write to the same reply.
#[derive(Clone)]
pub struct Stdout(Arc<Mutex<Output>>);

struct Output {
    stage: Stage,
    answer: Option<oneshot::Sender<Answer>>,
}

enum Stage {
    Head(BytesMut),
    Body(Outgoing),
    Broken(BadHead),
}

/// What a command wrote is not the head of a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("it wrote nothing; a reply begins with CGI headers and a blank line")]
    Nothing,
    #[error("its output ends before the blank line that ends the CGI headers")]
    Unfinished,
    #[error("its CGI headers have more than {0} bytes before the blank line")]
    TooLong(usize),
    #[error("the CGI header line `{0}` has no `:`, or is not a header that a reply may have")]
    Line(String),
    #[error("`Status: {0}` is not a status from 200 to 599")]
    Status(String),
}

impl Stdout {
    /// `answer` hears of the reply when its head is complete.
    pub fn new(answer: oneshot::Sender<Answer>) -> Self {
        Self(Arc::new(Mutex::new(Output {
            stage: Stage::Head(BytesMut::new()),
            answer: Some(answer),
        })))
    }

    /// The command has ended well; whether what it wrote is a reply.
    pub fn finish(&self) -> Result<(), BadHead> {
        match &self.lock().stage {
            Stage::Head(head) if head.is_empty() => Err(BadHead::Nothing),
            Stage::Head(_) => Err(BadHead::Unfinished),
            Stage::Broken(error) => Err(error.clone()),
            Stage::Body(body) => {
                body.finish(None);
                Ok(())
            }
        }
    }

    /// Resolves when there is room, or nobody takes anything any more.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        match &self.lock().stage {
            Stage::Body(body) => body.poll_room(context),
            Stage::Head(_) | Stage::Broken(_) => Poll::Ready(()),
        }
    }

    /// How many bytes may be written now.
    pub fn room(&self) -> Result<usize, Closed> {
        match &self.lock().stage {
            Stage::Head(_) => Ok(HEAD),
            Stage::Body(body) => body.room(),
            Stage::Broken(_) => Err(Closed),
        }
    }

    /// Writes bytes for which there is room.
    pub fn write(&self, bytes: Bytes) -> Result<(), WriteError> {
        let mut output = self.lock();
        match &mut output.stage {
            Stage::Body(body) => body.write(bytes),
            Stage::Broken(_) => Err(WriteError::Closed),
            Stage::Head(head) if head.len() + bytes.len() > WITHOUT_ASKING => {
                Err(WriteError::NoRoom)
            }
            Stage::Head(head) => {
                head.extend_from_slice(&bytes);
                let Some((length, rest)) = head_end(head) else {
                    if head.len() > HEAD {
                        output.stage = Stage::Broken(BadHead::TooLong(HEAD));
                    }
                    return Ok(());
                };
                let mut head = std::mem::take(head).freeze();
                let body = head.split_off(rest);
                output.begin_body(&head[..length], body)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Output> {
        self.0
            .lock()
            .expect("nothing panics while it holds the output")
    }
}

impl Output {
    fn begin_body(&mut self, head: &[u8], first: Bytes) -> Result<(), WriteError> {
        match parse_head(head) {
            Err(error) => {
                self.stage = Stage::Broken(error);
                Err(WriteError::Closed)
            }
            Ok((status, headers)) => {
                let body = Outgoing::new();
                let written = body.write(first);
                self.stage = Stage::Body(body.clone());
                if let Some(answer) = self.answer.take() {
                    // Nobody listens if the client is gone; the invocation ends for that reason.
                    let _ = answer.send(Ok(Reply {
                        status,
                        headers,
                        body,
                    }));
                }
                written
            }
        }
    }
}

/// Where the head's last line ends and where the body begins: after the first blank line, ended by LF or CRLF.
fn head_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut begin = 0;
    loop {
        let line = begin + bytes[begin..].iter().position(|byte| *byte == b'\n')?;
        if matches!(&bytes[begin..line], b"" | b"\r") {
            return Some((begin, line + 1));
        }
        begin = line + 1;
    }
}

/// RFC 3875 §6: a status, or a redirect where there is a `Location` alone, and header fields.
fn parse_head(head: &[u8]) -> Result<(StatusCode, HeaderMap), BadHead> {
    let mut status = None;
    let mut headers = HeaderMap::new();
    for line in head
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii_end)
        .filter(|line| !line.is_empty())
    {
        let wrong = || {
            BadHead::Line(
                String::from_utf8_lossy(&line[..line.len().min(200)])
                    .escape_debug()
                    .to_string(),
            )
        };
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| wrong())?;
        match name.as_str() {
            "status" => status = Some(parse_status(&value)?),
            // The length is the platform's to say: it counts what the command writes.
            "content-length" => {}
            _ if is_forbidden(&name) => return Err(wrong()),
            _ if headers.len() as u64 >= limits::HEADER_FIELDS.default => return Err(wrong()),
            _ => drop(headers.append(name, value)),
        }
    }
    let default = if headers.contains_key(http::header::LOCATION) {
        StatusCode::FOUND
    } else {
        StatusCode::OK
    };
    Ok((status.unwrap_or(default), headers))
}

fn parse_status(value: &HeaderValue) -> Result<StatusCode, BadHead> {
    let text = value.to_str().unwrap_or_default();
    let code = text.split_whitespace().next().unwrap_or_default();
    match code.parse() {
        Ok(code @ 200..=599) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            Ok(StatusCode::from_u16(code).expect("200 to 599 are statuses"))
        }
        _ => Err(BadHead::Status(text.chars().take(50).collect())),
    }
}

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdout {
    fn p2_stream(&self) -> DynOutputStream {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Stdout {
    async fn ready(&mut self) {
        poll_fn(|context| self.poll_room(context)).await;
    }
}

#[async_trait]
impl OutputStream for Stdout {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        Ok(Stdout::write(self, bytes)?)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.room().map_err(|Closed| StreamError::Closed)
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_room(context));
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let length = bytes.len().min(self.room().map_err(|Closed| broken())?);
        let written = Stdout::write(&self, Bytes::copy_from_slice(&bytes[..length]));
        Poll::Ready(written.map(|()| length).map_err(|_| broken()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected<'a> = Result<(u16, &'a [(&'a str, &'a str)]), &'a str>;

    fn check(head: &str, expected: Expected<'_>) {
        let found = parse_head(head.as_bytes());
        match expected {
            Ok((status, fields)) => {
                let (found_status, headers) = found.unwrap();
                assert_eq!(found_status.as_u16(), status, "{head:?}");
                let pairs: Vec<_> = headers
                    .iter()
                    .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
                    .collect();
                assert_eq!(pairs, fields, "{head:?}");
            }
            Err(part) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(part), "{head:?}: {error}");
            }
        }
    }

    #[test]
    fn a_head_has_a_status_and_fields() {
        check(
            "content-type: text/plain\n",
            Ok((200, &[("content-type", "text/plain")])),
        );
        check(
            "Status: 404 Not Found\r\nX-A:b\r\n",
            Ok((404, &[("x-a", "b")])),
        );
        check("Location: /x\n", Ok((302, &[("location", "/x")])));
        check(
            "Status: 201\nLocation: /x\n",
            Ok((201, &[("location", "/x")])),
        );
        check("content-length: 7\n", Ok((200, &[])));
        check("", Ok((200, &[])));
    }

    #[test]
    fn what_is_not_a_head_is_refused() {
        check("hello\n", Err("hello"));
        check("transfer-encoding: chunked\n", Err("transfer-encoding"));
        check("x y: z\n", Err("x y"));
        for status in ["99", "100", "600", "abc", "", "+200", "65736"] {
            check(&format!("Status: {status}\n"), Err("Status"));
        }
    }

    #[test]
    fn the_head_may_come_in_any_pieces_and_the_rest_is_body() {
        let whole = b"content-type: text/plain\r\n\r\nbody";
        for cut in 0..whole.len() {
            let (answer, mut answered) = oneshot::channel();
            let stdout = Stdout::new(answer);
            stdout.write(Bytes::copy_from_slice(&whole[..cut])).unwrap();
            stdout.write(Bytes::copy_from_slice(&whole[cut..])).unwrap();
            stdout.finish().unwrap();
            let reply = answered.try_recv().unwrap().ok().unwrap();
            assert_eq!(reply.status, 200);
            assert_eq!(reply.body.written(), 4, "cut at {cut}");
        }
    }

    #[test]
    fn a_command_that_writes_no_head_has_not_answered() {
        let ends = |text: &'static [u8]| {
            let stdout = Stdout::new(oneshot::channel().0);
            let _ = stdout.write(Bytes::from_static(text));
            stdout.finish().unwrap_err()
        };
        assert_eq!(ends(b""), BadHead::Nothing);
        assert_eq!(ends(b"content-type: text/plain\n"), BadHead::Unfinished);
        assert_eq!(ends(&[b'a'; HEAD + 1]), BadHead::TooLong(HEAD));
    }
}
