//! HTTP/2 frame by frame: what a client may not say as well, and what the server makes of it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Fields, Reason};

/// How long the server may take to say or to take something: longer than any of its own waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a server that takes nothing is taken to be at work on what it has.
const HELD_UP: Duration = Duration::from_millis(500);

/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS: the request ends here.
pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING: an answer to the other side's.
pub const ACK: u8 = 1;
/// Of HEADERS and CONTINUATION: the block of fields ends here.
pub const END_HEADERS: u8 = 4;
/// Of DATA and HEADERS: the first byte says how many bytes at the end mean nothing.
pub const PADDED: u8 = 8;
/// A request's whole head, and no body.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Settings by their numbers (RFC 9113 §6.5.2).
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// The largest window, and the largest increment of one.
pub const MOST: u32 = (1 << 31) - 1;

/// A connection on which everything may be said.
pub struct Frames {
    stream: TcpStream,
    host: String,
    /// Read and not yet used.
    ahead: Vec<u8>,
    fates: BTreeMap<u32, Fate>,
    away: Option<Reason>,
}

/// What has become of a stream.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    pub status: Option<u16>,
    pub body: Vec<u8>,
    pub end: End,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    #[default]
    Open,
    /// The reply came to its end.
    Whole,
    /// The server ended the stream.
    Reset(Reason),
    /// The connection ended before, and this was said of it.
    Closed(Option<Reason>),
}

/// A frame of the server's.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frames {
    /// A connection that has said what each must say first.
    pub fn open(address: SocketAddr, host: &str) -> io::Result<Self> {
        Self::open_with(address, host, &[])
    }

    /// The same, with settings of the client's.
    pub fn open_with(address: SocketAddr, host: &str, more: &[(u16, u32)]) -> io::Result<Self> {
        let mut frames = Self::silent(address, host)?;
        // No field of a reply is remembered, so that each can be read by itself.
        let all = [&[(HEADER_TABLE_SIZE, 0)], more].concat();
        frames.send(&[PREFACE, &settings(&all)].concat())?;
        Ok(frames)
    }

    /// A connection that has said nothing yet.
    pub fn silent(address: SocketAddr, host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: host.to_owned(),
            ahead: Vec::new(),
            fates: BTreeMap::new(),
            away: None,
        })
    }

    /// A request's fields as a block: the ones that every request has, and `more`.
    pub fn block(&self, method: &str, path: &str, more: Fields<'_>) -> Vec<u8> {
        let all = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", &self.host),
        ];
        block(&[&all, more].concat())
    }

    /// Sends a whole request that has no body.
    pub fn ask(&mut self, stream: u32, path: &str) -> io::Result<()> {
        let block = self.block("GET", path, &[]);
        self.send(&frame(HEADERS, WHOLE, stream, &block))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says the same again and again, `most` bytes in all, and hears nothing; whether the server stopped listening.
    pub fn flood(&mut self, bytes: &[u8], most: usize) -> io::Result<bool> {
        self.stream.set_write_timeout(Some(HELD_UP))?;
        let times = most / bytes.len();
        let stopped = (0..times).any(|_| self.send(bytes).is_err());
        self.stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stopped)
    }

    /// What becomes of a stream: waits for its end.
    pub fn fate(&mut self, stream: u32) -> io::Result<Fate> {
        loop {
            let fate = self.fates.entry(stream).or_default();
            if fate.end != End::Open {
                return Ok(fate.clone());
            }
            if self.hear()?.is_none() {
                let fate = self.fates.entry(stream).or_default();
                fate.end = End::Closed(self.away);
            }
        }
    }

    /// Waits for the connection's end; what the server said of it.
    pub fn ended(&mut self) -> io::Result<Option<Reason>> {
        while self.hear()?.is_some() {}
        Ok(self.away)
    }

    /// Waits until the server has taken in all that was said.
    pub fn heard(&mut self) -> io::Result<()> {
        self.send(&frame(PING, 0, 0, b"listened"))?;
        loop {
            match self.hear()? {
                Some(frame) if frame.kind == PING && frame.flags & ACK != 0 => return Ok(()),
                Some(_) => {}
                None => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Waits until the server says that it takes no further request.
    pub fn dismissed(&mut self) -> io::Result<Reason> {
        loop {
            if let Some(reason) = self.away {
                return Ok(reason);
            }
            if self.hear()?.is_none() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes the next frame into account and answers it if it must be; none when the connection has ended.
    fn hear(&mut self) -> io::Result<Option<Frame>> {
        let Some(said) = self.frame()? else {
            return Ok(None);
        };
        let fate = self.fates.entry(said.stream).or_default();
        match said.kind {
            HEADERS => fate.status = status(&said.payload).or(fate.status),
            DATA => fate.body.extend_from_slice(&said.payload),
            RST_STREAM if fate.end == End::Open => fate.end = End::Reset(code(&said.payload)),
            GOAWAY => self.away = Some(code(&said.payload[4..])),
            // The server may be gone by now.
            PING if said.flags & ACK == 0 => drop(self.send(&frame(PING, ACK, 0, &said.payload))),
            SETTINGS if said.flags & ACK == 0 => drop(self.send(&frame(SETTINGS, ACK, 0, b""))),
            _ => {}
        }
        if matches!(said.kind, HEADERS | DATA) && said.flags & END_STREAM != 0 {
            self.fates.entry(said.stream).or_default().end = End::Whole;
        }
        Ok(Some(said))
    }

    /// Reads the next frame; none when the connection has ended.
    fn frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = self.exactly(9)? else {
            return Ok(None);
        };
        let length = number(&[0, head[0], head[1], head[2]]) as usize;
        let payload = self.exactly(length)?;
        Ok(payload.map(|payload| Frame {
            kind: head[3],
            flags: head[4],
            stream: number(&head[5..]) & MOST,
            payload,
        }))
    }

    fn exactly(&mut self, length: usize) -> io::Result<Option<Vec<u8>>> {
        let mut piece = [0; 16 << 10];
        while self.ahead.len() < length {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(count) => self.ahead.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(self.ahead.drain(..length).collect()))
    }
}

impl Fate {
    /// Whether the whole reply came, with this status.
    pub fn is(&self, status: u16) -> bool {
        self.end == End::Whole && self.status == Some(status)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A frame as it lies on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame whose payload is one number: RST_STREAM's code, WINDOW_UPDATE's increment.
pub fn telling(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    frame(kind, 0, stream, &number.to_be_bytes())
}

pub fn settings(all: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in all {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// A stream that shall come after another.
pub fn priority(stream: u32, after: u32, weight: u8) -> Vec<u8> {
    let mut payload = after.to_be_bytes().to_vec();
    payload.push(weight);
    frame(PRIORITY, 0, stream, &payload)
}

/// Fields that are spelled out and not to be remembered (RFC 7541 §6.2.2).
pub fn block(fields: Fields<'_>) -> Vec<u8> {
    let fields = fields.iter();
    fields
        .flat_map(|(name, value)| spelled(0, name, value))
        .collect()
}

/// A field that is spelled out and to be remembered: it is number 62 until the next is (RFC 7541 §6.2.1).
pub fn remembered(name: &str, value: &str) -> Vec<u8> {
    spelled(0x40, name, value)
}

/// The newest field that was to be remembered, once more.
pub const AGAIN: u8 = 0x80 | 62;

/// How many bytes of fields are to be remembered from now on (RFC 7541 §6.3).
pub fn table_size(bytes: usize) -> Vec<u8> {
    integer(0x20, 5, bytes)
}

fn spelled(form: u8, name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![form];
    for text in [name, value] {
        field.extend(integer(0, 7, text.len()));
        field.extend(text.as_bytes());
    }
    field
}

/// A number that shares its first byte with what `form` says (RFC 7541 §5.1).
fn integer(form: u8, bits: u32, number: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if number < most {
        return vec![form | number as u8];
    }
    let mut bytes = vec![form | most as u8];
    let mut rest = number - most;
    while rest >= 0x80 {
        bytes.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn number(bytes: &[u8]) -> u32 {
    let bytes = bytes[..4].try_into().expect("these are four bytes");
    u32::from_be_bytes(bytes)
}

fn code(bytes: &[u8]) -> Reason {
    number(bytes).into()
}

/// The status in a block of a server that remembers no fields: always the first of them. None if this is no reply's
/// head, or an interim one's.
fn status(block: &[u8]) -> Option<u16> {
    const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let is_size = |byte: &&u8| **byte & 0xe0 == 0x20;
    let block = &block[block.iter().take_while(is_size).count()..];
    let status = match *block {
        [known @ 0x88..=0x8e, ..] => KNOWN[usize::from(known - 0x88)],
        // The static table has the name seven times.
        [
            0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e,
            length,
            ref text @ ..,
        ] if length < 0x80 => std::str::from_utf8(text.get(..3)?).ok()?.parse().ok()?,
        [0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e, _, ref text @ ..] => digits(text)?,
        _ => return None,
    };
    (status >= 200).then_some(status)
}

/// Three digits in the code of RFC 7541's Appendix B: `0` to `2` have five bits, `3` to `9` have six.
fn digits(text: &[u8]) -> Option<u16> {
    let bytes = text.iter().copied().chain([0; 3]).take(3);
    let mut bits = bytes.fold(0u32, |bits, byte| (bits << 8) | u32::from(byte)) << 8;
    let mut found = 0;
    for _ in 0..3 {
        let (digit, length) = match bits >> 27 {
            short @ 0..=2 => (short, 5),
            _ => ((bits >> 26).checked_sub(0x19)? + 3, 6),
        };
        found = found * 10 + u16::try_from(digit).ok().filter(|digit| *digit < 10)?;
        bits <<= length;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_each_form() {
        let check = |block: &[u8], expected: Option<u16>| assert_eq!(status(block), expected);
        check(&[0x88], Some(200));
        check(&[0x20, 0x8d, 0x61], Some(404));
        check(&[0x08, 3, b'4', b'3', b'1'], Some(431));
        // RFC 7541 §C.6.1 and §C.6.2.
        check(&[0x48, 0x82, 0x64, 0x02], Some(302));
        check(&[0x48, 0x83, 0x64, 0x0e, 0xff], Some(307));
        check(&[0x48, 3, b'1', b'0', b'0'], None);
        check(&block(&[("x-sum", "200")]), None);
        check(&[], None);
    }

    #[test]
    fn a_number_begins_in_what_is_left_of_a_byte() {
        // RFC 7541 §C.1.
        assert_eq!(integer(0, 5, 10), [10]);
        assert_eq!(integer(0, 5, 1337), [31, 154, 10]);
        assert_eq!(integer(0, 8, 42), [42]);
    }
}
