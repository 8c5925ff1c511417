//! Log lines as bytes: the JSON of a [`model::LogRecord`], written piece by piece because every request writes one.

use model::trace::TraceId;
use model::{LogStream, Outcome, Usage, limits};

use super::request_id::RequestId;
use super::table::canonical_host;
use super::tally::Served;

/// What the request of a line is called.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    pub id: &'a RequestId,
    /// Where requests have traces.
    pub trace: Option<TraceId>,
}

impl<'a> Names<'a> {
    /// A request without a trace.
    #[cfg(test)]
    pub fn of(id: &'a RequestId) -> Self {
        Self { id, trace: None }
    }
}

/// What a request line says.
pub struct Done<'a> {
    pub method: &'a str,
    pub authority: &'a str,
    /// Without the query, which may carry secrets.
    pub path: &'a str,
    pub status: u16,
    pub outcome: Outcome,
    pub usage: &'a Usage,
    pub cold: bool,
    pub client: &'a str,
}

/// Appends a line about one request.
pub fn request(
    line: &mut Vec<u8>,
    served: &Served,
    time_ms: u64,
    names: Names<'_>,
    done: &Done<'_>,
) {
    begin(line, served, time_ms, names, LogStream::Request);
    let path_end = done
        .path
        .floor_char_boundary(limits::LOG_PATH.default.as_usize());
    line.extend_from_slice(b",\"done\":{\"method\":\"");
    text(line, done.method);
    line.extend_from_slice(b"\",\"host\":\"");
    text(line, &canonical_host(done.authority));
    line.extend_from_slice(b"\",\"path\":\"");
    text(line, &done.path[..path_end]);
    line.extend_from_slice(b"\",\"status\":");
    number(line, done.status.into());
    line.extend_from_slice(b",\"outcome\":\"");
    line.extend_from_slice(done.outcome.code().as_bytes());
    let usage = done.usage;
    for (name, value) in [
        ("\",\"usage\":{\"cpu_us\":", usage.cpu_us),
        (",\"wall_us\":", usage.wall_us),
        (",\"instantiate_us\":", usage.instantiate_us),
        (",\"memory_bytes\":", usage.memory_bytes),
        (",\"bytes_in\":", usage.bytes_in),
        (",\"bytes_out\":", usage.bytes_out),
    ] {
        line.extend_from_slice(name.as_bytes());
        number(line, value);
    }
    line.extend_from_slice(if done.cold {
        b"},\"cold\":true,\"client\":\""
    } else {
        b"},\"cold\":false,\"client\":\""
    });
    text(line, done.client);
    line.extend_from_slice(b"\"}}\n");
}

/// Appends a line of a guest's output, or of the platform's to the app's owner.
pub fn output(
    line: &mut Vec<u8>,
    served: &Served,
    time_ms: u64,
    names: Names<'_>,
    stream: LogStream,
    said: &str,
) {
    begin(line, served, time_ms, names, stream);
    line.extend_from_slice(b",\"text\":\"");
    text(line, said);
    line.extend_from_slice(b"\"}\n");
}

fn begin(line: &mut Vec<u8>, served: &Served, time_ms: u64, names: Names<'_>, stream: LogStream) {
    line.extend_from_slice(served.line_begin.as_bytes());
    number(line, time_ms);
    line.extend_from_slice(served.line_middle.as_bytes());
    line.extend_from_slice(names.id.as_bytes());
    if let Some(trace) = names.trace {
        line.extend_from_slice(b"\",\"trace\":\"");
        line.extend_from_slice(&trace.hex());
    }
    line.extend_from_slice(b"\",\"stream\":\"");
    line.extend_from_slice(match stream {
        LogStream::Request => b"request",
        LogStream::Stdout => b"stdout",
        LogStream::Stderr => b"stderr",
        LogStream::Platform => b"platform",
    });
    line.push(b'"');
}

/// Appends what stands between the quotes of a JSON string.
fn text(line: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        line.extend_from_slice(&bytes[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\t' => line.extend_from_slice(b"\\t"),
            control => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                line.extend_from_slice(b"\\u00");
                line.push(DIGITS[usize::from(control >> 4)]);
                line.push(DIGITS[usize::from(control & 15)]);
            }
        }
    }
    line.extend_from_slice(&bytes[plain..]);
}

fn number(line: &mut Vec<u8>, mut number: u64) {
    // The largest has 20 digits.
    let mut digits = [0; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[begin..]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{
        AppLimits, Digest, Entry, Granted, GuestKind, LogRecord, Replies, RequestRecord,
        VersionNumber,
    };

    use super::*;
    use crate::worker::request_id::RequestIds;
    use crate::worker::tally::Tally;

    fn served() -> Served {
        let entry = Entry {
            id: "alice/shop".parse().unwrap(),
            incarnations: Default::default(),
            version: VersionNumber::new(7).unwrap(),
            revision: 9,
            kind: GuestKind::HttpComponent,
            wasm: Digest::of(b"x"),
            routes: vec![],
            grant: Granted::default(),
            limits: AppLimits::default(),
            reply: Replies::default(),
            reuse: None,
        };
        Served::new(&entry, Arc::new(Tally::new(entry.owner())))
    }

    /// The record as any reader of JSON sees it.
    fn read(line: &[u8]) -> LogRecord {
        let line = std::str::from_utf8(line).unwrap();
        let json = line.strip_prefix("alice/shop\t").unwrap();
        let json = json.strip_suffix('\n').unwrap();
        assert!(!json.contains(['\n', '\t', '\r']));
        serde_json::from_str(json).unwrap()
    }

    fn record(names: Names<'_>, stream: LogStream) -> LogRecord {
        LogRecord {
            time_ms: 1_700_000_000_123,
            tenant: "alice".parse().unwrap(),
            app: "shop".parse().unwrap(),
            version: VersionNumber::new(7).unwrap(),
            digest: Digest::of(b"x"),
            request: names.id.as_str().to_owned(),
            trace: names.trace,
            stream,
            text: String::new(),
            done: None,
        }
    }

    #[test]
    fn a_request_line_is_the_json_of_its_record() {
        let id = RequestIds::new(5).next(0);
        let usage = Usage {
            cpu_us: 0,
            wall_us: 1,
            instantiate_us: 10,
            memory_bytes: 99,
            bytes_in: 1_234_567_890,
            bytes_out: u64::MAX,
        };
        for (cold, outcome) in [true, false]
            .into_iter()
            .zip(Outcome::ALL)
            .chain([(false, &Outcome::CpuLimit), (true, &Outcome::ClientGone)])
        {
            let done = Done {
                method: "GET",
                authority: "Shop.Test.:8080",
                path: "/a\"b\\c",
                status: 200,
                outcome: *outcome,
                usage: &usage,
                cold,
                client: "::1",
            };
            let names = Names {
                id: &id,
                trace: TraceId::new([cold.into(); 16]),
            };
            let mut line = Vec::new();
            request(&mut line, &served(), 1_700_000_000_123, names, &done);
            let expected = LogRecord {
                done: Some(RequestRecord {
                    method: "GET".into(),
                    host: "shop.test".into(),
                    path: "/a\"b\\c".into(),
                    status: 200,
                    outcome: *outcome,
                    usage,
                    cold,
                    client: "::1".into(),
                }),
                ..record(names, LogStream::Request)
            };
            assert_eq!(read(&line), expected);
        }
    }

    #[test]
    fn whatever_a_guest_says_its_line_is_one_line_of_json() {
        let id = RequestIds::new(5).next(0);
        let every_byte: String = (0..=255u8).map(char::from).collect();
        let said = [
            "plain",
            "",
            "\"}\nalice/shop\t{\"stream\":\"request\"}",
            "\u{1b}]0;title\u{7}\r\n\0\\",
            "é😀\u{2028}\u{fffd}",
            &every_byte,
        ];
        let streams = [LogStream::Stdout, LogStream::Stderr, LogStream::Platform];
        for (text, stream) in said.into_iter().zip(streams.into_iter().cycle()) {
            let names = Names {
                id: &id,
                trace: TraceId::new([0xa0; 16]).filter(|_| stream == LogStream::Stdout),
            };
            let mut line = Vec::new();
            output(&mut line, &served(), 1_700_000_000_123, names, stream, text);
            let expected = LogRecord {
                text: text.into(),
                ..record(names, stream)
            };
            assert_eq!(read(&line), expected);
        }
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        let id = RequestIds::new(5).next(0);
        let path = format!("/{}", "é".repeat(3000));
        let done = Done {
            method: "GET",
            authority: "a",
            path: &path,
            status: 0,
            outcome: Outcome::Ok,
            usage: &Usage::default(),
            cold: false,
            client: "",
        };
        let mut line = Vec::new();
        request(&mut line, &served(), 1, Names::of(&id), &done);
        assert_eq!(read(&line).done.unwrap().path, path[..2047]);
    }
}
