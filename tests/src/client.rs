//! A small HTTP/1.1 client that hides nothing: heads, chunks and trailers as they come, and raw bytes where wanted.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a single read or write may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a connection runs over: TCP, or TLS within it.
pub trait Stream: Read + Write + Send + Sized {
    fn tcp(&self) -> &TcpStream;

    /// Another handle to the same.
    fn twin(&self) -> io::Result<Self>;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
}

/// A connection to one host of a server.
pub struct Connection<S = TcpStream> {
    stream: S,
    host: String,
    /// Read and not yet used.
    ahead: Vec<u8>,
}

/// A reply's status and headers.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// A whole reply.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Connection {
    pub fn open(address: SocketAddr, host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream, host))
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

impl<S: Stream> Connection<S> {
    /// A connection over what is open already.
    pub(crate) fn over(stream: S, host: &str) -> Self {
        Self {
            stream,
            host: host.to_owned(),
            ahead: Vec::new(),
        }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The client's own address.
    pub fn address(&self) -> SocketAddr {
        self.stream
            .tcp()
            .local_addr()
            .expect("a connected socket has an address")
    }

    /// Names another host from now on.
    pub fn host(&mut self, host: &str) {
        host.clone_into(&mut self.host);
    }

    /// What it runs over; what was read ahead is lost.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request's head, with `more` header lines, each ended by `\r\n`.
    pub fn send_head(&mut self, method: &str, path: &str, more: &str) -> io::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{more}\r\n",
            self.host
        );
        self.send(head.as_bytes())
    }

    /// Sends one chunk of a chunked body; an empty one ends it.
    pub fn send_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send(&chunk)
    }

    /// Another handle to the same stream, to send from another thread.
    pub fn twin(&self) -> io::Result<Self> {
        Ok(Self::over(self.stream.twin()?, &self.host))
    }

    /// Asks and waits for the whole reply.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        more: &str,
        body: &[u8],
    ) -> io::Result<Reply> {
        let length = match body.len() {
            0 => String::new(),
            length => format!("content-length: {length}\r\n"),
        };
        self.send_head(method, path, &format!("{length}{more}"))?;
        if body.is_empty() {
            return self.reply(method);
        }
        // The body is sent beside the reading: a guest that echoes would else wait for us while we wait for it.
        let mut sender = self.twin()?;
        std::thread::scope(|scope| {
            scope.spawn(move || sender.send(body));
            self.reply(method)
        })
    }

    pub fn get(&mut self, path: &str) -> io::Result<Reply> {
        self.request("GET", path, "", b"")
    }

    /// Reads a whole reply to a request of `method`.
    pub fn reply(&mut self, method: &str) -> io::Result<Reply> {
        let head = loop {
            let head = self.head()?;
            if head.status >= 200 {
                break head;
            }
        };
        let mut body = Vec::new();
        let trailers = self.body(method, &head, &mut body)?;
        Ok(Reply {
            head,
            body,
            trailers,
        })
    }

    /// Reads the next head, an interim one as well.
    pub fn head(&mut self) -> io::Result<Head> {
        let line = self.line()?;
        let mut words = line.split(' ');
        let status = match (words.next(), words.next()) {
            (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => status.parse().ok(),
            _ => None,
        };
        let status = status.ok_or_else(|| wrong(format!("`{line}` is not a status line")))?;
        Ok(Head {
            status,
            headers: self.fields()?,
        })
    }

    /// Reads the body that follows `head` into `body`, as far as it comes; returns its trailers.
    pub fn body(
        &mut self,
        method: &str,
        head: &Head,
        body: &mut Vec<u8>,
    ) -> io::Result<Vec<(String, String)>> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok(Vec::new());
        }
        if head
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            while self.chunk(body)? > 0 {}
            return self.fields();
        }
        match head.header("content-length") {
            Some(length) => {
                let length = length
                    .parse()
                    .map_err(|_| wrong(format!("`{length}` is not a length")))?;
                self.exactly(length, body)?;
            }
            None => loop {
                body.append(&mut self.ahead);
                if self.fill()? == 0 {
                    break;
                }
            },
        }
        Ok(Vec::new())
    }

    /// Reads one chunk of a chunked body onto `body`; returns its length. After 0 come the trailers.
    pub fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<usize> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16)
            .map_err(|_| wrong(format!("`{line}` is not a chunk's length")))?;
        if length > 0 {
            self.exactly(length, body)?;
            self.line()?;
        }
        Ok(length)
    }

    /// Reads header lines to the empty one.
    pub fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| wrong(format!("`{line}` is not a header")))?;
            fields.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }

    /// Everything until the server closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Everything until the server closes or resets the connection.
    pub fn rest_or_reset(&mut self) -> io::Result<Vec<u8>> {
        match self.rest() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Ok(std::mem::take(&mut self.ahead))
            }
            rest => rest,
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
            }
            if self.fill()? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                ));
            }
        }
    }

    fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let mut missing = length;
        loop {
            let now = missing.min(self.ahead.len());
            body.extend(self.ahead.drain(..now));
            missing -= now;
            if missing == 0 {
                return Ok(());
            }
            if self.fill()? == 0 {
                let text = format!(
                    "the server closed the connection {missing} bytes before the body's end"
                );
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let length = loop {
            match self.stream.read(&mut buffer) {
                // A signal that another test is about.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.ahead.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

/// Sends bytes as they are, says that nothing more comes, and returns everything that the server says.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut connection = Connection::open(address, "").expect("the server accepts");
    // A server may refuse before it has read everything.
    let _ = connection.send(bytes);
    let _ = connection.finish();
    let said = connection
        .rest()
        .unwrap_or_else(|_| std::mem::take(&mut connection.ahead));
    String::from_utf8_lossy(&said).into_owned()
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts the status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(
            self.head.status,
            status,
            "{:?} {}",
            self.head.headers,
            self.text()
        );
        self
    }

    /// Asserts that the body is `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert_eq!(self.text(), text);
        self
    }

    /// Asserts that the body holds `text`.
    #[track_caller]
    pub fn mentions(self, text: &str) -> Self {
        assert!(
            self.text().contains(text),
            "`{text}` is not in:\n{}",
            self.text()
        );
        self
    }

    /// Asserts the platform's word for what went wrong.
    #[track_caller]
    pub fn fails(self, code: &str) -> Self {
        assert_eq!(
            self.header("midge-error"),
            Some(code),
            "{} {:?}",
            self.head.status,
            self.text()
        );
        self
    }
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
