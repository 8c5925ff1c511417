//! The screen before hyper: follows the bytes of an HTTP/1.1 connection and hands on whole heads only, none that could
//! be framed in two ways.
//!
//! hyper forgives some of what RFC 9112 lets a server forgive, and takes away the traces before the gate can look: a
//! `content-length` beside a `transfer-encoding`, for one. Who stands before us may have read such a message otherwise.
//! Pure: bytes in, how many of them may be handed on out.

use model::limits;

/// What a connection's bytes are at the moment. One screen follows one connection.
#[derive(Debug, Default)]
pub struct Screen(State);

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Between messages or within a head, of whose first bytes this many are known to hold no end.
    Head {
        searched: usize,
    },
    /// Within a body, with so many bytes to come.
    Sized(u64),
    Chunked(Chunk),
    /// A head that is too large: hyper says so.
    Unbounded,
}

/// Where in a chunked body (RFC 9112 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { digits: u8, size: u64 },
    Extension { size: u64 },
    SizeEnd { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

impl Default for State {
    fn default() -> Self {
        Self::Head { searched: 0 }
    }
}

/// How many of the bytes may be handed on, and whether what follows them is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    pub pass: usize,
    pub refused: bool,
}

/// Not HTTP/1.1 as it must be written.
struct Refused;

impl Screen {
    /// Follows `bytes`: those that were not handed on before, and what has come since.
    pub fn follow(&mut self, bytes: &[u8]) -> Followed {
        let mut pass = 0;
        let mut refused = false;
        while pass < bytes.len() && !refused {
            let rest = &bytes[pass..];
            match self.step(rest) {
                Ok(0) => break,
                Ok(count) => pass += count,
                Err(Refused) => refused = true,
            }
        }
        Followed { pass, refused }
    }

    /// How many of the first bytes may be handed on; 0 if that depends on what comes next.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        match &mut self.0 {
            State::Head { searched } => {
                // RFC 9112 §2.2: empty lines before a request line are skipped.
                let empty = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
                let empty = empty.count();
                if *searched == 0 && empty > 0 {
                    return Ok(empty);
                }
                if let Some(end) = head_end(bytes, *searched) {
                    self.0 = framing(&bytes[..end])?;
                    return Ok(end);
                }
                if bytes.len() > limits::REQUEST_HEAD.default.as_usize() {
                    self.0 = State::Unbounded;
                    return Ok(bytes.len());
                }
                // The end may begin with the last two bytes that are here.
                *searched = bytes.len().saturating_sub(2);
                Ok(0)
            }
            State::Sized(left) => {
                let count =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= count as u64;
                if *left == 0 {
                    self.0 = State::default();
                }
                Ok(count)
            }
            State::Chunked(chunk) => {
                let (count, next) = chunk.step(bytes)?;
                self.0 = next.map_or_else(State::default, State::Chunked);
                Ok(count)
            }
            State::Unbounded => Ok(bytes.len()),
        }
    }
}

impl Chunk {
    const FIRST: Self = Self::Size { digits: 0, size: 0 };

    /// How many bytes of a chunked body were read and where that leads; to nothing at its end.
    fn step(self, bytes: &[u8]) -> Result<(usize, Option<Self>), Refused> {
        let byte = bytes[0];
        let next = match self {
            Self::Size { digits, size } => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) if digits < 16 => Self::Size {
                    digits: digits + 1,
                    size: size << 4 | u64::from(digit),
                },
                (None, b'\r') if digits > 0 => Self::SizeEnd { size },
                (None, b';' | b' ' | b'\t') if digits > 0 => Self::Extension { size },
                _ => return Err(Refused),
            },
            Self::Extension { size } => match byte {
                b'\r' => Self::SizeEnd { size },
                b'\n' => return Err(Refused),
                _ => self,
            },
            Self::SizeEnd { size } if byte == b'\n' => match size {
                0 => Self::TrailerStart,
                size => Self::Data(size),
            },
            Self::Data(left) => {
                let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let next = match left - count as u64 {
                    0 => Self::DataCr,
                    left => Self::Data(left),
                };
                return Ok((count, Some(next)));
            }
            Self::DataCr if byte == b'\r' => Self::DataLf,
            Self::DataLf if byte == b'\n' => Self::FIRST,
            Self::TrailerStart if byte == b'\r' => Self::EndLf,
            Self::TrailerStart | Self::Trailer => match byte {
                b'\r' => Self::TrailerLf,
                b'\n' => return Err(Refused),
                _ => Self::Trailer,
            },
            Self::TrailerLf if byte == b'\n' => Self::TrailerStart,
            Self::EndLf if byte == b'\n' => return Ok((1, None)),
            Self::SizeEnd { .. } | Self::DataCr | Self::DataLf | Self::TrailerLf | Self::EndLf => {
                return Err(Refused);
            }
        };
        Ok((1, Some(next)))
    }
}

/// Where the head ends: behind its first empty line, which does not lie before `searched`.
fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[searched..]).find_map(|at| {
        let after = searched + at + 1;
        match bytes[after..] {
            [b'\n', ..] => Some(after + 1),
            [b'\r', b'\n', ..] => Some(after + 2),
            _ => None,
        }
    })
}

/// What follows a head (RFC 9112 §6.3), if that can be read in one way only.
fn framing(head: &[u8]) -> Result<State, Refused> {
    let mut lines = head.split(|b| *b == b'\n').map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // RFC 9112 §2.2: a bare CR is no line end, and what it is to others nobody knows.
        if memchr::memchr(b'\r', line).is_some() {
            Err(Refused)
        } else {
            Ok(line)
        }
    });
    let first = lines.next().unwrap_or(Err(Refused))?;
    let persistent = match first {
        [
            ..,
            b' ',
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor @ b'0'..=b'1',
        ] => *minor == b'1',
        _ => return Err(Refused),
    };
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let line = line?;
        match line.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length") {
                    let found = number(value).ok_or(Refused)?;
                    if length.replace(found).is_some_and(|other| other != found) {
                        return Err(Refused);
                    }
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    let known = value.eq_ignore_ascii_case(b"chunked");
                    if !known || std::mem::replace(&mut chunked, true) {
                        return Err(Refused);
                    }
                }
            }
            _ => {}
        }
    }
    match (chunked, length) {
        (true, None) if persistent => Ok(State::Chunked(Chunk::FIRST)),
        (true, _) => Err(Refused),
        (false, None | Some(0)) => Ok(State::default()),
        (false, Some(length)) => Ok(State::Sized(length)),
    }
}

/// The value of a header line, if it is of this name. hyper refuses space before the colon.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0, |number: u64, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is handed on when the bytes come in pieces of `piece`, and whether the rest was refused.
    fn follow(text: &str, piece: usize) -> (String, bool) {
        let (mut screen, mut held, mut passed) = (Screen::default(), Vec::new(), Vec::new());
        for piece in text.as_bytes().chunks(piece) {
            held.extend_from_slice(piece);
            let Followed { pass, refused } = screen.follow(&held);
            passed.extend(held.drain(..pass));
            if refused {
                return (String::from_utf8(passed).unwrap(), true);
            }
        }
        (String::from_utf8(passed).unwrap(), false)
    }

    fn check(text: &str, passes: &str, refused: bool) {
        for piece in [1, 2, 3, 7, usize::MAX] {
            assert_eq!(
                follow(text, piece),
                (passes.to_owned(), refused),
                "{text:?} in pieces of {piece}"
            );
        }
    }

    fn post(headers: &str, body: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
    }

    #[test]
    fn messages_that_can_be_read_in_one_way_pass_whole() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let chunked = post(
            "Transfer-Encoding: chunked\r\n",
            "5;a=b\r\nhello\r\n1 \r\n!\r\n0\r\nx: y\r\n\r\n",
        );
        for text in [
            get,
            "\r\n\r\nGET / HTTP/1.0\nhost: a\n\n",
            &post("Content-Length: 5\r\n", "hello"),
            &post("content-length: 0\r\ncontent-type: a\r\n", ""),
            &post("content-length: 5\r\ncontent-length: 5\r\n", "\r\n\r\n\r"),
            &chunked,
        ] {
            check(text, text, false);
            let many = format!("{text}{get}{text}");
            check(&many, &many, false);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for headers in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: +5\r\n",
            "content-length: 5,5\r\n",
            "content-length: 0x5\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: chunked, identity\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: \u{b}chunked\r\n",
            "x: a\rb\r\n",
            "x: a\r\r\n",
        ] {
            check(&post(headers, "5\r\nhello\r\n0\r\n\r\n"), "", true);
        }
        for head in [
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET /\r\n\r\n",
        ] {
            check(head, "", true);
        }
    }

    #[test]
    fn a_body_that_is_not_framed_as_it_says_is_cut_where_that_shows() {
        for (body, good) in [
            ("0x5\r\nhello", "0"),
            ("-5\r\nhello", ""),
            ("\r\nhello", ""),
            ("11111111111111111\r\n", "1111111111111111"),
            ("5\nhello", "5"),
            ("5;a\nhello", "5;a"),
            ("5\r\nhelloX", "5\r\nhello"),
            ("5\r\nhello\n", "5\r\nhello"),
            ("0\r\nx: y\n\r\n", "0\r\nx: y"),
        ] {
            let head = post("transfer-encoding: chunked\r\n", "");
            check(&format!("{head}{body}"), &format!("{head}{good}"), true);
        }
    }

    #[test]
    fn an_unfinished_head_waits_and_one_that_never_ends_is_hypers_to_refuse() {
        let head = "GET / HTTP/1.1\r\nhost: a\r\n";
        check(head, "", false);
        let endless = format!("{head}x: {}", "y".repeat(1 << 20));
        let (passed, refused) = follow(&endless, 4096);
        assert!(!refused && passed.len() > limits::REQUEST_HEAD.default.as_usize());
    }
}
