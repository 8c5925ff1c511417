//! Hostile guests at `wasi:http` and in CGI: whatever they say, the wire stays well framed and nobody else notices.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use model::{LogRecord, LogStream};
use tests::load::Always;
use tests::{Guest, Load, Platform, Settings, each_version, eventually, guest};

const HELLO: &str = "Hello, Midge!\n";

/// A platform on which `hello` is asked all the time, and must answer whatever else runs there.
pub struct Watched {
    platform: Platform,
    load: Load,
    workers: Vec<u32>,
}

impl Watched {
    pub fn start() -> Self {
        Self::configured("")
    }

    pub fn configured(config: &str) -> Self {
        Self::start_with(Settings {
            config: config.to_owned(),
            ..Settings::default()
        })
    }

    pub fn start_with(settings: Settings) -> Self {
        let platform = Platform::start_with(settings);
        platform.deploy("hello", &guest("hello"));
        let load = Load::start(
            platform.listen,
            &platform.host("hello"),
            "/",
            2,
            Duration::from_millis(2),
            Arc::new(Always(HELLO)),
        );
        let workers = platform.workers();
        Self {
            platform,
            load,
            workers,
        }
    }

    /// Ends the watch: `hello` answered always, no instance is left, no worker died and nothing panicked.
    pub fn unharmed(self) {
        self.load.stop().is_clean();
        eventually("every slot is free", || {
            (self.platform.metric("midge_live_instances") == 0.0).then_some(())
        });
        assert_eq!(self.platform.workers(), self.workers);
        assert_eq!(self.platform.metric("midge_worker_restarts_total"), 0.0);
        assert_eq!(self.platform.ended("internal"), 0.0);
        let said = self.platform.said();
        assert!(!said.contains("panicked"), "{said}");
    }
}

impl Deref for Watched {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

/// What the tests of hostile guests ask a platform.
pub trait Observed {
    /// How many requests ended with this outcome.
    fn ended(&self, outcome: &str) -> f64;
    /// The log of an app, as it lies on disk.
    fn records(&self, app: &str) -> Vec<LogRecord>;
    /// Waits until the log of an app has a request of this outcome.
    fn logs(&self, app: &str, outcome: &str);
}

impl Observed for Platform {
    fn ended(&self, outcome: &str) -> f64 {
        let text = self.api.get("/metrics").is(200).reply.text();
        let label = format!("outcome=\"{outcome}\"");
        let lines = text.lines().filter(|line| line.contains(&label));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn records(&self, app: &str) -> Vec<LogRecord> {
        let files = std::fs::read_dir(self.data().join("node/logs")).unwrap();
        let texts = files.map(|file| {
            let mut text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            // The last line may be on its way still.
            text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
            text
        });
        let whole: String = texts.collect();
        let records = whole.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        records
            .filter(|record: &LogRecord| record.app.as_str() == app)
            .collect()
    }

    fn logs(&self, app: &str, outcome: &str) {
        eventually(&format!("the log of `{app}` says `{outcome}`"), || {
            let ended = |record: &LogRecord| {
                let done = record.done.as_ref();
                done.is_some_and(|done| done.outcome.code() == outcome)
            };
            self.records(app).iter().any(ended).then_some(())
        });
    }
}

/// What a reply must come to on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire {
    /// Whole, with this status and body, and the connection is good for another request.
    Whole(u16, &'static str),
    /// The platform answers instead, and the connection is good for another request.
    Instead(&'static str),
    /// Never whole: the connection ends before the reply does.
    Cut,
}

/// Asks an app, then `hello` on the same connection: were anything left of the first reply, the second would show it.
#[track_caller]
fn check_wire(platform: &Platform, app: &str, method: &str, path: &str, body: &[u8], wire: Wire) {
    let mut connection = platform.connect(app);
    let asked = format!("{app} {method} {path} {}", body.escape_ascii());
    match (wire, connection.request(method, path, "", body)) {
        (Wire::Whole(status, text), Ok(reply)) => {
            let found = (reply.status(), reply.text(), reply.header("midge-error"));
            assert_eq!(found, (status, text.to_owned(), None), "{asked}");
        }
        (Wire::Instead(code), Ok(reply)) => {
            assert_eq!(
                reply.header("midge-error"),
                Some(code),
                "{asked}: {reply:?}"
            );
        }
        (Wire::Cut, Err(error)) => {
            let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            return assert!(kinds.contains(&error.kind()), "{asked}: {error}");
        }
        (wire, found) => panic!("{asked}: {found:?} instead of {wire:?}"),
    }
    connection.host(&platform.host("hello"));
    let next = connection
        .get("/")
        .unwrap_or_else(|error| panic!("after {asked}: {error}"));
    next.is(200).says(HELLO);
}

/// A command whose output is the request's body, byte for byte: the client dictates its CGI reply.
fn dictated() -> Vec<u8> {
    command(
        r#"(loop $more
            (i32.store (i32.const 0) (i32.const 4096))
            (i32.store (i32.const 4) (i32.const 61440))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (if (i32.load (i32.const 8)) (then
                (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 8)))
                (br $more))))"#,
    )
}

/// A command with this `_start`, one page of memory and a way to write everything.
fn command(start: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "content-type: text/plain\n\n")
            (func $write (param $to i32) (param $at i32) (param $length i32)
                (loop $more
                    (i32.store (i32.const 16) (local.get $at))
                    (i32.store (i32.const 20) (local.get $length))
                    (if (call $fd_write (local.get $to) (i32.const 16) (i32.const 1) (i32.const 24))
                        (then (return)))
                    (local.set $at (i32.add (local.get $at) (i32.load (i32.const 24))))
                    (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 24))))
                    (br_if $more (local.get $length))))
            (func $head (call $write (i32.const 1) (i32.const 64) (i32.const 26)))
            (func (export "_start") {start}))"#
    );
    wat::parse_str(text).unwrap()
}

/// G20
#[test]
fn a_guest_that_writes_byte_by_byte_to_nobody_is_held_back() {
    let platform = Watched::configured("workers = 1");
    let dribble = command(
        "(call $head) (loop $more (call $write (i32.const 1) (i32.const 64) (i32.const 1)) (br $more))",
    );
    let limits = "[limits]\ncpu = '10s'\nwall = '60s'";
    platform.deploy_with("dribble", &dribble, limits);
    platform.deploy_with("endless", &guest("endless"), limits);
    platform.deploy_with("service", &Guest::Service("endless").bytes(), limits);
    let worker = platform.workers()[0];
    let before = tests::anonymous_bytes(worker);
    let mut clients = Vec::new();
    let writers = [
        ("dribble", "/"),
        ("endless", "/"),
        ("service", "/"),
        ("service", "/1"),
    ];
    for (app, path) in writers.into_iter().cycle().take(20) {
        let mut connection = platform.connect(app);
        connection.send_head("GET", path, "").unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        clients.push(connection);
    }
    eventually("the guests wait", || {
        let cpu = tests::cpu_seconds(worker);
        std::thread::sleep(Duration::from_millis(300));
        (tests::cpu_seconds(worker) - cpu < 0.1).then_some(())
    });
    let held = tests::anonymous_bytes(worker).saturating_sub(before);
    assert!(
        held < 20 << 20,
        "{held} bytes for 20 clients that do not read"
    );
    drop(clients);
    platform.logs("dribble", "client-gone");
    platform.logs("service", "client-gone");
    platform.unharmed();
}

/// G21
#[test]
fn a_guest_may_read_its_request_never_or_byte_by_byte() {
    let platform = Watched::configured("workers = 1");
    let by_byte = command(
        r#"(local $count i32)
        (loop $more
            (i32.store (i32.const 0) (i32.const 4096))
            (i32.store (i32.const 4) (i32.const 1))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (if (i32.load (i32.const 8)) (then
                (local.set $count (i32.add (local.get $count) (i32.const 1)))
                (br $more))))
        (call $head)
        (if (i32.eq (local.get $count) (i32.const 200000))
            (then (call $write (i32.const 1) (i32.const 64) (i32.const 7))))"#,
    );
    platform.deploy_with("by-byte", &by_byte, "[limits]\ncpu = '10s'");
    platform
        .post("by-byte", "/", &vec![7; 200_000])
        .is(200)
        .says("content");
    let service = Guest::Service("sum").bytes();
    platform.deploy_with("by-byte", &service, "[limits]\ncpu = '10s'");
    let reply = platform.post("by-byte", "/0/1", &vec![7; 200_000]);
    reply.is(200).says("200000");
    each_version(|guest| reads_never_or_waits(&platform, guest));
    platform.unharmed();
}

/// One guest never reads what its client sends, the other waits for what its client never sends.
fn reads_never_or_waits(platform: &Platform, guest: fn(&'static str) -> Vec<u8>) {
    platform.deploy_with("never", &guest("slow"), "[limits]\nwall = '1s'");
    let worker = platform.workers()[0];
    let before = tests::anonymous_bytes(worker);
    let total = 64 << 20;
    let mut connection = platform.connect("never");
    connection
        .send_head(
            "POST",
            "/wait/60000",
            &format!("content-length: {total}\r\n"),
        )
        .unwrap();
    let mut sender = connection.twin().unwrap();
    let sent = std::thread::spawn(move || {
        let piece = vec![7; 1 << 20];
        (0..64).take_while(|_| sender.send(&piece).is_ok()).count()
    });
    connection
        .reply("POST")
        .unwrap()
        .is(504)
        .fails("wall-limit");
    let held = tests::anonymous_bytes(worker).saturating_sub(before);
    assert!(
        held < 8 << 20,
        "{held} bytes held for a guest that never reads"
    );
    drop(connection);
    assert!(sent.join().unwrap() < 64);

    // The other way round: the guest reads, and the client never sends the rest.
    platform.deploy_with("sum", &guest("sum"), "[limits]\nwall = '500ms'");
    let mut connection = platform.connect("sum");
    connection
        .send_head("POST", "/", "content-length: 10\r\n")
        .unwrap();
    connection.send(b"only").unwrap();
    connection
        .reply("POST")
        .unwrap()
        .is(504)
        .fails("wall-limit");
}

/// G26
#[test]
fn header_fields_are_bounded_in_number_and_bytes() {
    let platform = Watched::start();
    platform.deploy_with("fields", &guest("fields"), "[limits]\ncpu = '2s'");
    platform.deploy("dictated", &dictated());
    platform
        .get("fields", "/many/40000")
        .is(200)
        .says("256 taken");
    platform.get("fields", "/list/256").is(200).says("taken");
    platform.get("fields", "/list/257").is(200).says("invalid");
    platform
        .get("fields", "/list/40000")
        .is(200)
        .says("invalid");
    platform.get("fields", "/large/1").is(200).says("invalid");
    // More than one call may copy: no error of the interface any more.
    platform.get("fields", "/large/10").is(500).fails("trap");
    let lines = |count: usize| -> Vec<u8> {
        let lines: String = (0..count)
            .map(|number| format!("x-{number}: 1\n"))
            .collect();
        (lines + "\nbody").into()
    };
    let check = |head: &[u8], wire| check_wire(&platform, "dictated", "POST", "/", head, wire);
    check(&lines(256), Wire::Whole(200, "body"));
    check(&lines(257), Wire::Instead("bad-response"));
    check(&lines(40_000), Wire::Instead("bad-response"));
    check(&[b'x'; 10 << 20], Wire::Instead("bad-response"));
    let value = format!("x: {}\n\nbody", "y".repeat(10 << 20));
    check(value.as_bytes(), Wire::Instead("bad-response"));
    let reply = platform.post("dictated", "/", b"X-Twin: 1\nx-twin: 2\nx-TWIN: 3\n\n");
    let twins: Vec<_> = reply
        .is(200)
        .head
        .headers
        .into_iter()
        .filter(|(name, _)| name == "x-twin")
        .collect();
    assert_eq!(twins.len(), 3);
    platform.unharmed();
}

/// G27
#[test]
fn a_reply_is_well_framed_or_none_whatever_length_its_guest_claims() {
    let platform = Watched::start();
    platform.deploy("dictated", &dictated());
    // The head of a service has left when it is seen that it has no body.
    let versions = [
        (guest("framing"), Wire::Instead("bad-response")),
        (Guest::Service("framing").bytes(), Wire::Cut),
    ];
    for (framing, bodiless) in versions {
        platform.deploy("framing", &framing);
        let check = |path: &str, wire| check_wire(&platform, "framing", "GET", path, b"", wire);
        check("/200/5", Wire::Whole(200, "xxxxx"));
        check("/200/5?5", Wire::Whole(200, "xxxxx"));
        check("/200/0?0", Wire::Whole(200, ""));
        check("/200/3?5", Wire::Cut);
        check("/200/0?5", Wire::Cut);
        check("/200/8?5", Wire::Cut);
        check("/200/8?0", Wire::Whole(200, ""));
        check("/200/none?5", bodiless);
        for lengths in [
            "5&5",
            "5&6",
            "+5",
            "-1",
            "5,5",
            "0x5",
            "5.0",
            "five",
            "",
            "99999999999999999999",
        ] {
            let bad = Wire::Instead("bad-response");
            check(&format!("/200/5?{lengths}"), bad);
            check(&format!("/200/none?{lengths}"), bad);
        }
    }
    let check = |head: &str, wire| {
        check_wire(&platform, "dictated", "POST", "/", head.as_bytes(), wire);
    };
    // The platform counts what a command writes; what it claims is never passed on.
    for length in [
        "3",
        "9",
        "+4",
        "-1",
        "4,4",
        "0x4",
        "",
        "4\ncontent-length: 5",
    ] {
        check(
            &format!("content-length: {length}\n\nbody"),
            Wire::Whole(200, "body"),
        );
    }
    for coding in ["chunked", "identity", "gzip, chunked", ""] {
        let head =
            format!("content-length: 4\ntransfer-encoding: {coding}\n\n4\r\nbody\r\n0\r\n\r\n");
        check(&head, Wire::Instead("bad-response"));
    }
    platform.unharmed();
}

/// G30
#[test]
fn a_status_is_passed_on_with_the_framing_that_it_has_or_refused() {
    let platform = Watched::start();
    platform.deploy("framing", &guest("framing"));
    platform.deploy("dictated", &dictated());
    // A guest that is refused a status and goes on says 200.
    for status in [0, 1, 99, 100, 101, 103, 199, 600, 999, 1000, 65_535] {
        let path = format!("/{status}/2");
        check_wire(
            &platform,
            "framing",
            "GET",
            &path,
            b"",
            Wire::Whole(200, "xx"),
        );
        let head = format!("status: {status}\n\nbody");
        let bad = Wire::Instead("bad-response");
        check_wire(&platform, "dictated", "POST", "/", head.as_bytes(), bad);
    }
    for status in [204, 304] {
        for path in ["/5", "/5?5", "/3?5", "/none?5", "/none"] {
            let path = format!("/{status}{path}");
            check_wire(
                &platform,
                "framing",
                "GET",
                &path,
                b"",
                Wire::Whole(status, ""),
            );
        }
        let head = format!("status: {status}\ncontent-length: 5\n\nHTTP/1.1 200 OK\r\n\r\n");
        check_wire(
            &platform,
            "dictated",
            "POST",
            "/",
            head.as_bytes(),
            Wire::Whole(status, ""),
        );
    }
    for path in [
        "/200/5",
        "/200/5?5",
        "/200/3?5",
        "/200/9?5",
        "/200/none?5",
        "/404/70000",
    ] {
        let status = path[1..4].parse().unwrap();
        check_wire(
            &platform,
            "framing",
            "HEAD",
            path,
            b"",
            Wire::Whole(status, ""),
        );
    }
    check_wire(
        &platform,
        "framing",
        "GET",
        "/205/0",
        b"",
        Wire::Whole(205, ""),
    );
    platform.unharmed();
}

/// G28, G32
#[test]
fn a_guest_sets_no_field_that_frames_a_message_and_none_that_is_malformed() {
    let platform = Watched::start();
    platform.deploy("dictated", &dictated());
    each_version(|guest| {
        platform.deploy("fields", &guest("fields"));
        sets_fields(&platform);
    });
    let check = |head: &str| {
        let bad = Wire::Instead("bad-response");
        check_wire(&platform, "dictated", "POST", "/", head.as_bytes(), bad);
    };
    check("x-value: a\n folded\n\nbody");
    check("x-value: a\n\tfolded\n\nbody");
    check("x-value: a\rset-cookie: x=1\n\nbody");
    check("x-value : a\n\nbody");
    check(" x-value: a\n\nbody");
    platform.unharmed();
}

/// What of a field is taken, of the guest `fields` and of CGI.
fn sets_fields(platform: &Platform) {
    let check = |name: &str, value: &str, expected: &str| {
        let field = format!("{name}\x1f{value}");
        let found = platform
            .post("fields", "/", field.as_bytes())
            .is(200)
            .text();
        let expected_line = format!("{expected} {expected} {expected}\n");
        assert_eq!(found, expected_line, "{name:?}: {value:?}");
        if expected != "taken" {
            let head = format!("{name}: {value}\n\nbody");
            let bad = Wire::Instead("bad-response");
            check_wire(platform, "dictated", "POST", "/", head.as_bytes(), bad);
        }
    };
    check("x-fine", "1", "taken");
    for name in [
        "connection",
        "Connection",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "Transfer-Encoding",
        "upgrade",
        "midge-error",
        "midge-request-id",
    ] {
        check(name, "close", "forbidden");
    }
    for name in [
        ":status",
        ":authority",
        "a b",
        "a\tb",
        "a\0b",
        "a\x7f",
        "a(b)",
        "ä",
        "",
    ] {
        check(name, "1", "invalid");
    }
    for value in ["a\0b", "a\rb", "a\r\n b", "\x7f", "\x01"] {
        check("x-value", value, "invalid");
    }
    // Within CGI a line end ends the field: these are other fields, or none.
    let sets = |value: &str| format!("x-value\x1f{value}");
    for value in [
        "a\nb",
        "a\r\nset-cookie: x=1",
        "a\n folded",
        "a\r\n\r\nHTTP/1.1 200 OK",
    ] {
        let found = platform.post("fields", "/", sets(value).as_bytes()).is(200);
        found.says("invalid invalid invalid\n");
    }
}

/// Trailers of which the first alone may be sent.
pub const TRAILERS: [&str; 15] = [
    "x-fine",
    "connection",
    "host",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "midge-error",
    "content-length",
    "content-type",
    "content-encoding",
    "trailer",
    "authorization",
    "set-cookie",
];

/// A field of each name, as the guest `fields` reads them.
pub fn fields(names: &[&str]) -> Vec<u8> {
    let fields: Vec<String> = names.iter().map(|name| format!("{name}\x1f1")).collect();
    fields.join("\x1e").into_bytes()
}

/// G28
#[test]
fn trailers_frame_nothing() {
    let platform = Watched::start();
    each_version(|guest| {
        platform.deploy("fields", &guest("fields"));
        let mut connection = platform.connect("fields");
        for (names, expected) in [(&TRAILERS[..], &["x-fine"][..]), (&TRAILERS[1..], &[])] {
            connection.host(&platform.host("fields"));
            let reply = connection
                .request("POST", "/trailers", "te: trailers\r\n", &fields(names))
                .unwrap()
                .is(200)
                .says("body");
            let sent = reply.trailers.iter().map(|(name, _)| name.as_str());
            assert_eq!(sent.collect::<Vec<_>>(), expected);
            connection.host(&platform.host("hello"));
            connection.get("/").unwrap().is(200).says(HELLO);
        }
        // To a client that did not ask for them, none are sent (RFC 9110 §6.5.1).
        let reply = platform
            .post("fields", "/trailers", &fields(&["x-fine"]))
            .is(200)
            .says("body");
        assert!(reply.trailers.is_empty(), "{reply:?}");
    });
    platform.unharmed();
}

/// G29
#[test]
fn what_a_guest_prints_is_capped_and_no_line_passes_for_another_record() {
    let platform = Watched::start();
    platform.deploy_with("loud", &guest("loud"), "[limits]\ncpu = '20s'");
    platform.get("loud", "/print/1024").is(200).says("said\n");
    let printed = eventually("the log is cut", || {
        let records = platform.records("loud");
        let cut = |record: &LogRecord| record.text.contains("the rest is dropped");
        records.iter().any(cut).then_some(records)
    });
    let bytes = |stream| {
        let texts = printed.iter().filter(|record| record.stream == stream);
        texts.map(|record| record.text.len()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(LogStream::Stdout), [8 << 10; 8]);
    assert_eq!(bytes(LogStream::Platform).len(), 1);

    let binary = command(
        r#"(local $count i32)
        (memory.fill (i32.const 4096) (i32.const 0x9b) (i32.const 32768))
        (loop $more
            (call $write (i32.const 2) (i32.const 4096) (i32.const 32768))
            (br_if $more (i32.ne (i32.const 1000) (local.tee $count (i32.add (local.get $count) (i32.const 1))))))
        (call $head)"#,
    );
    platform.deploy_with("binary", &binary, "[limits]\ncpu = '5s'");
    platform.get("binary", "/").is(200);
    eventually("the log is cut", || {
        let records = platform.records("binary");
        let cut = |record: &LogRecord| record.text.contains("the rest is dropped");
        records.iter().any(cut).then_some(())
    });

    platform.get("loud", "/fake").is(200);
    let records = eventually("the request is logged", || {
        let records = platform.records("loud");
        let fakes = records.iter().filter(|record| record.text.contains("fake"));
        (fakes.count() == 2).then_some(records)
    });
    let odd = |c: char| c != '\t' && (c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c));
    for record in &records {
        assert!(!record.text.contains(odd), "{record:?}");
    }
    let told = |text: &str| {
        records
            .iter()
            .filter(|record| record.text.contains(text))
            .count()
    };
    for text in [
        r"\u{1b}[31mcolour\u{1b}]0;title\u{7}",
        r"over\rwritten\u{8}",
        r"\u{202e}turned",
        "\u{fffd}",
    ] {
        assert!(told(text) >= 2, "{text}: {records:#?}");
    }
    let fakes = |record: &LogRecord| record.stream != LogStream::Request || record.done.is_none();
    assert!(!platform.records("hello").iter().any(fakes));
    platform.unharmed();
}

/// G31
#[test]
fn an_answer_that_is_given_twice_never_or_in_part_is_never_a_hang() {
    let platform = Watched::start();
    platform.deploy("answers", &guest("answers"));
    let check = |path: &str, wire| check_wire(&platform, "answers", "GET", path, b"", wire);
    check("/never", Wire::Instead("no-response"));
    check("/dropped", Wire::Instead("no-response"));
    check("/error", Wire::Instead("bad-response"));
    check("/error-long", Wire::Instead("bad-response"));
    check("/error-twice", Wire::Instead("bad-response"));
    check("/nonsense", Wire::Instead("trap"));
    check("/twice", Wire::Whole(200, "so far"));
    check("/twice-unfinished", Wire::Cut);
    check("/unfinished", Wire::Cut);
    check("/forgotten", Wire::Cut);
    check("/trap", Wire::Cut);
    check("/exit", Wire::Whole(200, "so far"));
    check("/exit-unfinished", Wire::Cut);
    check("/exit-badly", Wire::Cut);
    check("/body-twice", Wire::Whole(200, "refused"));
    check("/stream-alive", Wire::Whole(200, ""));
    platform.deploy("dictated", &dictated());
    let check = |head: &str, wire| {
        check_wire(&platform, "dictated", "POST", "/", head.as_bytes(), wire);
    };
    check("", Wire::Instead("no-response"));
    check("content-type: text/plain\n", Wire::Instead("bad-response"));
    check("\n", Wire::Whole(200, ""));
    let trapped = command(
        "(call $head) (call $write (i32.const 1) (i32.const 64) (i32.const 7)) (unreachable)",
    );
    platform.deploy("trapped", &trapped);
    check_wire(&platform, "trapped", "GET", "/", b"", Wire::Cut);
    for outcome in ["no-response", "bad-response", "trap"] {
        platform.logs("answers", outcome);
    }
    // What a guest says of its own error is cut into lines and bounded like all that it says.
    let longest = platform
        .records("answers")
        .iter()
        .map(|record| record.text.len())
        .max();
    assert!(longest <= Some(8 << 10), "a line of {longest:?} bytes");
    platform.unharmed();
}

/// G24, G25
#[test]
fn a_request_of_a_guests_own_is_bounded_in_every_part() {
    let platform = Watched::start();
    platform.deploy_with("probe", &guest("probe"), "[limits]\ncpu = '5s'");
    let check = |part: &str, bytes: usize, expected: &str| {
        let reply = platform.get("probe", &format!("/{part}/{bytes}"));
        let found = match reply.header("midge-error") {
            Some(code) => code.to_owned(),
            None => reply.text(),
        };
        assert_eq!(found, expected, "{part} of {bytes} bytes");
    };
    check("method", 32, "taken");
    check("method", 33, "refused");
    check("path", (16 << 10) - 3, "taken");
    check("path", (16 << 10) - 2, "refused");
    check("authority", 512, "taken");
    check("authority", 513, "refused");
    for part in ["method", "path", "authority"] {
        check(part, 1 << 20, "refused");
        // More than a guest may hand to its host at once.
        check(part, 10 << 20, "trap");
    }
    let denied = "ErrorCode::HttpRequestDenied\n".repeat(4);
    platform.get("probe", "/timeouts").is(200).says(&denied);
    platform.unharmed();
}

#[test]
fn what_the_host_holds_for_a_guest_is_bounded_in_sum() {
    let platform = Watched::start();
    let limits = "[limits]\ncpu = '5s'\nmemory = '256MiB'";
    platform.deploy_with("probe", &guest("probe"), limits);
    let check = |path: &str, expected: (u16, &str)| {
        let reply = platform.get("probe", path);
        let code = reply.header("midge-error").unwrap_or("ok");
        assert_eq!((reply.status(), code), expected, "{path}");
    };
    let held = (200, "ok");
    let over = (503, "memory-limit");
    // 4 MiB in all, 192 KiB of them for the body of the answer, and some bytes for its head.
    check("/bodies/20", held);
    check("/bodies/21", over);
    check("/fields/66", held);
    check("/fields/67", over);
    check("/copies/66", held);
    check("/copies/67", over);
    check("/paths/249", held);
    check("/paths/250", over);
    check("/dropped/1000", held);
    // Who writes without having asked whether it may.
    check("/heedless/1", (500, "trap"));
    // A map keeps its room when it is emptied.
    check("/emptied/40", held);
    check("/emptied/60", over);
    let log = platform.api.get("tenants/default/apps/probe/logs");
    assert!(log.reply.text().contains("`host-memory`"));
    platform.unharmed();
}

/// G60
#[test]
fn a_guests_clocks_tell_whole_milliseconds() {
    let platform = Watched::start();
    platform.deploy("probe", &guest("probe"));
    for _ in 0..10 {
        let reply = platform.get("probe", "/clocks");
        reply.is(200).says("whole milliseconds");
    }
    let look = "(local $left i32) (local.set $left (i32.const 1000))
        (loop $more
            (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 64)))
            (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 72)))
            (if (i64.ne (i64.const 0) (i64.or
                    (i64.rem_u (i64.load (i32.const 64)) (i64.const 1000000))
                    (i64.rem_u (i64.load (i32.const 72)) (i64.const 1000000))))
                (then (unreachable)))
            (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (call $say)";
    platform.deploy("ticks", &crate::siege::command("whole\n", "", look));
    for _ in 0..10 {
        platform.get("ticks", "/").is(200).says("whole\n");
    }
    platform.unharmed();
}

/// G35, G36
#[test]
fn what_was_not_granted_is_denied_before_a_packet_leaves() {
    let platform = Watched::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    socket.set_nonblocking(true).unwrap();
    platform.deploy("reach", &guest("reach"));
    let text = platform.get("reach", &format!("/{port}")).is(200).text();
    let mut lines = 0;
    for line in text.lines() {
        let (what, result) = line.rsplit_once(' ').unwrap();
        let expected: &[&str] = match what.split(' ').next().unwrap() {
            "http" => &["ErrorCode::HttpRequestDenied", "invalid"],
            "name" => &["permanent-resolver-failure", "access-denied"],
            _ => &["access-denied"],
        };
        assert!(expected.contains(&result), "{line}");
        lines += 1;
    }
    assert_eq!(lines, 17, "{text}");
    let none = |result: std::io::Result<()>| result.unwrap_err().kind() == ErrorKind::WouldBlock;
    assert!(none(listener.accept().map(drop)), "somebody connected");
    assert!(
        none(socket.recv(&mut [0; 8]).map(drop)),
        "a datagram arrived"
    );
    platform.unharmed();
}

/// G39
#[test]
fn a_reply_that_never_ends_is_ended() {
    let platform = Watched::start();
    platform.deploy_with("drip", &guest("slow"), "[limits]\nwall = '700ms'");
    let drip = || {
        let mut connection = platform.connect("drip");
        connection.send_head("GET", "/1000000/50", "").unwrap();
        let head = connection.head().unwrap();
        (head.status, connection.body("GET", &head, &mut Vec::new()))
    };
    std::thread::scope(|scope| {
        let drips: Vec<_> = (0..8).map(|_| scope.spawn(drip)).collect();
        for drip in drips {
            let (status, body) = drip.join().unwrap();
            assert_eq!(status, 200);
            body.unwrap_err();
        }
    });
    platform.logs("drip", "wall-limit");
    eventually("each is counted", || {
        (platform.ended("wall-limit") == 8.0).then_some(())
    });
    platform.unharmed();
}

/// G40
#[test]
fn a_guest_finds_an_empty_filesystem() {
    let platform = Watched::start();
    platform.deploy("files", &guest("files"));
    let text = platform.get("files", "/").is(200).text();
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(first, "preopens 0");
    for line in rest.lines() {
        assert!(line.contains(" refused: "), "{line}");
    }
    assert_eq!(rest.lines().count(), 63, "{text}");

    // Preview 1 has its own doors: each number from 0 on as a folder, and times far before and after the epoch.
    let module = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_filestat_set_times" (func $touch (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_filestat_set_times" (func $stamp (param i32 i64 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\0a\0a..")
            (data (i32.const 64) "content-type: text/plain\n\nnothing")
            (func $refused (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func (export "_start") (local $fd i32)
                (loop $each
                    (call $refused (call $prestat (local.get $fd) (i32.const 1024)))
                    (call $refused (call $open (local.get $fd) (i32.const 0) (i32.const 2) (i32.const 2)
                        (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 1024)))
                    (call $refused (call $symlink (i32.const 2) (i32.const 2) (local.get $fd) (i32.const 0) (i32.const 1)))
                    (call $refused (call $touch (local.get $fd) (i32.const 0) (i32.const 2) (i32.const 2)
                        (i64.const -1) (i64.const -1) (i32.const 5)))
                    (call $refused (call $stamp (local.get $fd) (i64.const -1) (i64.const 0) (i32.const 5)))
                    (call $refused (call $list (local.get $fd) (i32.const 1024) (i32.const 1024) (i64.const 0) (i32.const 1024)))
                    (br_if $each (i32.ne (i32.const 64) (local.tee $fd (i32.add (local.get $fd) (i32.const 1))))))
                (i32.store (i32.const 8) (i32.const 64))
                (i32.store (i32.const 12) (i32.const 33))
                (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#,
    );
    platform.deploy("doors", &module.unwrap());
    platform.get("doors", "/").is(200).says("nothing");
    platform.unharmed();
}
