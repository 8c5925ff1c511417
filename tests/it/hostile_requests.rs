//! Hostile HTTP/1.1: each request is answered once at most, nothing behind a bad one is read as another, and the
//! neighbours notice nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use tests::load::Always;
use tests::{Connection, Load, Platform, eventually, guest, trials, variant};

/// A platform under attack: `hello` serves its neighbours all the while, and `victim` is what a request that hides
/// behind a bad one asks for.
struct Front {
    platform: Platform,
    load: Load,
}

impl Front {
    fn open(apps: &[&'static str]) -> Self {
        Self::configured("", apps)
    }

    fn configured(config: &str, apps: &[&'static str]) -> Self {
        let platform = Platform::configured(config);
        platform.deploy("hello", &guest("hello"));
        platform.deploy("victim", &variant(&guest("hello"), 1));
        for app in apps {
            platform.deploy_with(app, &guest(app), "[limits]\ncpu = '5s'");
        }
        let load = Load::start(
            platform.listen,
            &platform.host("hello"),
            "/",
            1,
            Duration::from_millis(5),
            Arc::new(Always("Hello, Midge!\n")),
        );
        Self { platform, load }
    }

    /// A request for `victim`, to be hidden behind another.
    fn hidden(&self) -> Vec<u8> {
        let host = self.platform.host("victim");
        format!("GET /hidden HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes()
    }

    /// A request of an app, with these header lines and this body.
    fn post(&self, app: &str, headers: &str, body: &str) -> String {
        let host = self.platform.host(app);
        format!("POST / HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n{body}")
    }

    /// Sends bytes and a hidden request behind them; everything that is said until the platform closes.
    fn said_to(&self, bytes: impl AsRef<[u8]>) -> String {
        let bytes = [bytes.as_ref(), &self.hidden()].concat();
        let stream = self.connect();
        let mut sender = stream.try_clone().unwrap();
        // The platform may refuse before it has read everything.
        let sender = std::thread::spawn(move || sender.write_all(&bytes));
        let said = everything(&stream);
        let _ = sender.join().unwrap();
        said
    }

    fn connect(&self) -> TcpStream {
        Connection::open(self.platform.listen, "")
            .unwrap()
            .into_stream()
    }

    /// Asserts that bytes are answered once, with one of these statuses, and that this ends the connection.
    #[track_caller]
    fn refuses(&self, bytes: impl AsRef<[u8]>, allowed: &[u16]) -> String {
        let shown = String::from_utf8_lossy(&bytes.as_ref()[..bytes.as_ref().len().min(300)]);
        let said = self.said_to(bytes.as_ref());
        let statuses = statuses(&said);
        assert_eq!(statuses.len(), 1, "{shown:?}: {said:?}");
        assert!(allowed.contains(&statuses[0]), "{shown:?}: {said:?}");
        let head = said.split("\r\n\r\n").next().unwrap().to_lowercase();
        assert!(head.contains("connection: close"), "{shown:?}: {said:?}");
        said
    }

    /// Asserts that no hidden request was answered, that no worker ended and that no neighbour noticed.
    #[track_caller]
    fn holds(self) {
        let platform = &self.platform;
        let victims = r#"midge_requests_total{tenant="default",app="victim""#;
        assert_eq!(platform.metric(victims), 0.0, "a hidden request was served");
        platform.get("victim", "/").is(200);
        eventually("a request of the victim would have been counted", || {
            (platform.metric(victims) == 1.0).then_some(())
        });
        assert_eq!(platform.metric("midge_worker_restarts_total"), 0.0);
        self.load.stop().is_clean();
    }
}

/// Everything that the server says until it closes or resets the connection.
fn everything(mut stream: &TcpStream) -> String {
    let mut said = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&said)),
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// The statuses of the replies in what a server said.
fn statuses(said: &str) -> Vec<u16> {
    let places = said.match_indices("HTTP/1.");
    places
        .filter_map(|(at, _)| said.get(at + 9..at + 12)?.parse().ok())
        .collect()
}

/// H01, H02, H03, H04, H05
#[test]
fn a_length_that_could_be_read_in_two_ways_is_refused() {
    let front = Front::open(&["echo"]);
    let check = |headers: &str, body: &str| {
        front.refuses(front.post("echo", headers, body), &[400]);
    };
    let (five, chunked) = ("hello", "5\r\nhello\r\n0\r\n\r\n");
    check(
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        chunked,
    );
    check(
        "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        chunked,
    );
    check("content-length: 5\r\ncontent-length: 6\r\n", five);
    check("content-length: 5\r\ncontent-length: 0\r\n", five);
    for length in ["+5", "-1", "5,5", "5, 5", "0x5", " 5 5", "5.0", "", "5\t5"] {
        check(&format!("content-length: {length}\r\n"), five);
    }
    for coding in [
        "chunked, identity",
        "identity, chunked",
        "xchunked",
        "chunked;q=1",
        "identity",
        "gzip, chunked",
        "",
        "\u{b}chunked",
        "chunked\r\ntransfer-encoding: chunked",
        "chunked\r\ntransfer-encoding: identity",
    ] {
        check(&format!("transfer-encoding: {coding}\r\n"), chunked);
    }
    let host = front.platform.host("echo");
    for coding in ["chunked", "identity"] {
        front.refuses(
            format!(
                "POST / HTTP/1.0\r\nhost: {host}\r\ntransfer-encoding: {coding}\r\n\r\n{chunked}"
            ),
            &[400],
        );
    }
    front.holds();
}

/// H06, H07, H09, H10
#[test]
fn a_head_that_others_might_read_otherwise_is_refused() {
    let front = Front::open(&["headers"]);
    let host = front.platform.host("headers");
    let check = |lines: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n");
        front.refuses(request, &[400]);
    };
    for line in [
        "x : y\r\n",
        "x\t: y\r\n",
        "content-length : 5\r\n",
        "transfer-encoding : chunked\r\n",
        " x: y\r\n",
        "x: a\r\n b\r\n",
        "x: a\r\n\tb\r\n",
        "x: a\r\n content-length: 5\r\n",
        "x: a\rb\r\n",
        "x: a\r\r\n",
        "x: a\rhost: victim.localhost\r\n",
        "x\r: a\r\n",
        "\rx: a\r\n",
        "x: a\0b\r\n",
        "x\0: a\r\n",
        "\0: a\r\n",
        "x\r\n",
        ": x\r\n",
        "x y: z\r\n",
        "é: x\r\n",
        "x: a\u{1}b\r\n",
        "x: a\u{7f}b\r\n",
    ] {
        check(line);
    }
    for first in [
        "GET / HTTP/1.1\r",
        "GET /\r HTTP/1.1\r\n",
        "GET /\0 HTTP/1.1\r\n",
        "GET /a\0b HTTP/1.1\r\n",
        "G\0T / HTTP/1.1\r\n",
        "GET / HTTP/1.1\0\r\n",
        "\0GET / HTTP/1.1\r\n",
    ] {
        front.refuses(format!("{first}host: {host}\r\n\r\n"), &[400]);
    }
    front.holds();
}

/// H08
#[test]
fn a_bare_line_feed_ends_a_line_of_the_head_and_nothing_else() {
    let front = Front::open(&["headers", "whole"]);
    let host = front.platform.host("headers");
    let stream = front.connect();
    let close = "connection: close";
    write!(&stream, "GET /x HTTP/1.1\nhost: {host}\nx: y\n{close}\n\n").unwrap();
    let said = everything(&stream);
    assert_eq!(statuses(&said), [200], "{said}");
    assert!(
        said.contains("path /x\n") && said.contains("x: y\n"),
        "{said}"
    );
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "0\r\nx: y\n\r\n",
    ] {
        let said = front.said_to(front.post("whole", "transfer-encoding: chunked\r\n", body));
        assert!(
            matches!(statuses(&said)[..], [400] | [422]),
            "{body:?}: {said:?}"
        );
    }
    front.holds();
}

/// Chunks that are none: a size that is none, an end that is missing.
const NO_CHUNKS: [&str; 14] = [
    "0x5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    ";a\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\r\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "4\r\nhello\r\n0\r\n\r\n",
];

/// H11
#[test]
fn a_chunk_is_framed_as_it_says_or_ends_its_request() {
    let front = Front::open(&["whole", "echo", "early"]);
    let chunked = "transfer-encoding: chunked\r\n";
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(64 << 10));
    for body in NO_CHUNKS.into_iter().chain([&*extension]) {
        let shown = &body[..body.len().min(100)];
        // Who reads before it answers, who answers at once, and who never reads.
        for (app, allowed) in [
            ("whole", [422, 400]),
            ("echo", [200, 400]),
            ("early", [413, 400]),
        ] {
            let said = front.said_to(front.post(app, chunked, body));
            let statuses = statuses(&said);
            assert_eq!(statuses.len(), 1, "{app} {shown:?}: {said:?}");
            assert!(allowed.contains(&statuses[0]), "{app} {shown:?}: {said:?}");
        }
    }
    // What is accepted means to the guest what it meant on the wire.
    let mut connection = front.platform.connect("echo");
    for body in [
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c\r\n\r\n",
        "0000000000000005\r\nhello\r\n000\r\n\r\n",
    ] {
        connection.send_head("POST", "/", chunked).unwrap();
        connection.send(body.as_bytes()).unwrap();
        connection.reply("POST").unwrap().is(200).says("hello");
    }
    connection.get("/").unwrap().is(200).says("");
    front.holds();
}

/// H12
#[test]
fn trailers_cannot_say_what_only_a_head_may() {
    let front = Front::open(&["trailers"]);
    let mut connection = front.platform.connect("trailers");
    connection
        .send_head(
            "POST",
            "/",
            "te: trailers\r\ntransfer-encoding: chunked\r\n",
        )
        .unwrap();
    let trailers = [
        "content-length: 99",
        "host: victim.localhost",
        "authorization: Bearer x",
        "transfer-encoding: chunked",
        "cookie: a=b",
        "x-forwarded-for: 6.6.6.6",
        "x_forwarded_for: 6.6.6.6",
        "midge-client: 6.6.6.6",
        "x-sum: 1",
    ]
    .join("\r\n");
    let body = format!("5\r\nhello\r\n0\r\n{trailers}\r\n\r\n");
    connection.send(body.as_bytes()).unwrap();
    let reply = connection.reply("POST").unwrap().is(200).says("hello");
    let mut names: Vec<&str> = reply.trailers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["x-length", "x-sum"]);
    connection.get("/").unwrap().is(200);
    front.holds();
}

/// H13
#[test]
fn trailers_have_a_limit() {
    let front = Front::open(&["sum", "trailers"]);
    let headers = "te: trailers\r\ntransfer-encoding: chunked\r\n";
    for trailers in [
        format!("x: {}\r\n", "y".repeat(64 << 10)),
        "x: y\r\n".repeat(11_000),
        format!("{}: y\r\n", "x".repeat(1 << 20)),
    ] {
        let body = format!("5\r\nhello\r\n0\r\n{trailers}\r\n");
        for app in ["sum", "trailers"] {
            let said = front.said_to(front.post(app, headers, &body));
            // The body itself came whole, and who has read it may have answered.
            assert!(
                matches!(statuses(&said)[..], [200] | [400] | [431]),
                "{app}: {said}"
            );
            assert!(!said.contains("x: y"), "{app}: {said}");
        }
    }
    front.holds();
}

/// H14
#[test]
fn a_request_names_one_host() {
    let front = Front::open(&[]);
    let (host, port) = (
        front.platform.host("hello"),
        front.platform.listen.port().to_string(),
    );
    let check = |lines: &str| {
        front.refuses(format!("GET / HTTP/1.1\r\n{lines}\r\n"), &[400]);
    };
    check("");
    check("host:\r\n");
    check("host: \r\n");
    check(&format!("host: {host}\r\nhost: {host}\r\n"));
    check(&format!("host: {host}\r\nHost: victim.localhost\r\n"));
    for wrong in [
        "hello.localhost/path",
        "user@hello.localhost",
        "hello.localhost,victim.localhost",
        "hello.localhost victim.localhost",
        "hello.localhost:99999",
        "hello.localhost:",
        "hello.localhost:+80",
        "hello.localhost:80:80",
        "http://hello.localhost",
        "hello.localhost?x",
        "hello.localhost#x",
        "hello%2elocalhost",
        "hello\\localhost",
        "[::1",
        "[::g]",
        "héllo.localhost",
        ":80",
    ] {
        check(&format!("host: {wrong}\r\n"));
        let with_port = format!("host: {wrong}:{port}\r\n");
        check(&with_port);
    }
    check(&format!("host: {}\r\n", "a".repeat(10_000)));
    front.holds();
}

/// H15
#[test]
fn a_target_with_a_host_of_its_own_wins_over_the_header() {
    let front = Front::open(&["headers"]);
    let host = front.platform.host("headers");
    let other = front.platform.host("victim");
    let mut connection = Connection::open(front.platform.listen, &other).unwrap();
    for target in [
        format!("http://{host}/path?q"),
        format!("HTTP://{}/path?q", host.to_uppercase()),
    ] {
        let reply = connection.get(&target).unwrap().is(200);
        let text = reply.text().to_lowercase();
        for line in [
            format!("authority {host}\n"),
            "path /path?q\n".to_owned(),
            format!("x-forwarded-host: {host}\n"),
        ] {
            assert!(text.contains(&line), "`{line}` is not in: {text}");
        }
        assert!(!text.contains("victim"), "{text}");
    }
    for target in [
        format!("http://user@{host}/"),
        format!("ftp://{host}/"),
        format!("http://{host}:99999/"),
        "http:///x".to_owned(),
        "http://[::1/".to_owned(),
        host.clone(),
        "path".to_owned(),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        front.refuses(request, &[400]);
    }
    front.holds();
}

/// H16, H18
#[test]
fn a_request_line_has_a_target_and_a_version_that_fit_its_method() {
    let front = Front::open(&["headers"]);
    let host = front.platform.host("headers");
    for line in [
        "GET * HTTP/1.1",
        "POST * HTTP/1.1",
        "OPTIONS */x HTTP/1.1",
        "OPTIONS ** HTTP/1.1",
        "GET */x HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT * HTTP/1.1",
        &format!("CONNECT {host} HTTP/1.1"),
        "CONNECT victim.localhost:443 HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/1.11",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / http/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\t",
        "GET / HTTP/1.1 x",
        "GET /  HTTP/1.1",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP /1.1",
        "GET / HTTPS/1.1",
        "GET /",
        "GET",
        "/",
    ] {
        front.refuses(format!("{line}\r\nhost: {host}\r\n\r\n"), &[400]);
    }
    front.refuses("GET /\r\n\r\n", &[400]);
    // The one asterisk there is asks for the server as a whole, which is an app's root.
    let mut connection = front.platform.connect("headers");
    let reply = connection.request("OPTIONS", "*", "", b"").unwrap();
    assert!(matches!(reply.status(), 200 | 404), "{}", reply.status());
    front.holds();
}

/// H17
#[test]
fn a_request_line_has_limits() {
    let front = Front::open(&["headers"]);
    let host = front.platform.host("headers");
    let rest = format!("HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let long = "a".repeat(1 << 20);
    front.refuses(format!("GET /{long} {rest}"), &[414, 431]);
    front.refuses(format!("{long} / {rest}"), &[400, 431]);
    front.refuses(format!("{} / {rest}", "A".repeat(33)), &[400]);
    for method in ["G(T", "G\"T", "GÉT", "G,T", "G/T"] {
        front.refuses(format!("{method} / {rest}"), &[400]);
    }
    // RFC 9110 §9.1: methods are told apart by case, and one that nobody knows is the app's to refuse.
    let mut connection = front.platform.connect("headers");
    for (method, seen) in [
        ("get", "get"),
        ("BREW", "BREW"),
        ("M-SEARCH", "M-SEARCH"),
        ("PRI", "PRI"),
        ("TRACE", "TRACE"),
    ] {
        let text = connection.request(method, "/", "", b"").unwrap().text();
        // The guest that tells what it sees writes a known method in capitals.
        let line = format!("method {seen}\n");
        assert!(text.contains(&line), "`{line}` is not in: {text}");
    }
    front.holds();
}

/// H19
#[test]
fn a_head_with_too_many_or_too_long_fields_is_refused() {
    let front = Front::open(&[]);
    let check = |lines: String| {
        let host = front.platform.host("hello");
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n");
        front.refuses(request, &[431]);
    };
    // One more than may be, the host counted.
    check("x: y\r\n".repeat(100));
    check("x: y\r\n".repeat(101));
    check("x: y\r\n".repeat(9_999));
    check(format!("x: {}\r\n", "y".repeat(1 << 20)));
    check(format!("{}: y\r\n", "x".repeat(1 << 20)));
    check(format!("x: {}\r\n", "y".repeat(10_400)).repeat(99));
    check(format!("x: {}", "y".repeat(10 << 20)));
    let most = "x: y\r\n".repeat(99);
    let mut connection = front.platform.connect("hello");
    connection
        .request("GET", "/", &most, b"")
        .unwrap()
        .is(200)
        .says("Hello, Midge!\n");
    front.holds();
}

/// H20
#[test]
fn a_name_with_underscores_is_another_name_and_none_that_is_the_platforms() {
    let front = Front::open(&["headers"]);
    let mut connection = front.platform.connect("headers");
    let lines = [
        "x-user: one",
        "x_user: two",
        "X_USER: three",
        "midge-client: 6.6.6.6",
        "midge_client: 6.6.6.6",
        "Midge_Request-Id: 6.6.6.6",
        "forwarded: for=6.6.6.6",
        "x-forwarded-for: 6.6.6.6",
        "x_forwarded_for: 6.6.6.6",
        "X-Forwarded_For: 6.6.6.6",
        "x_forwarded-host: 6.6.6.6",
        "x-forwarded-anything: 6.6.6.6",
        "",
    ]
    .join("\r\n");
    let text = connection
        .request("GET", "/", &lines, b"")
        .unwrap()
        .is(200)
        .text();
    for line in ["x-user: one\n", "x_user: two\n", "x_user: three\n"] {
        assert!(text.contains(line), "`{line}` is not in: {text}");
    }
    assert!(!text.contains("6.6.6.6"), "{text}");
    front.holds();
}

/// H21
#[test]
fn a_path_is_routed_by_one_form_and_reaches_the_guest_as_it_was_sent() {
    let front = Front::open(&[]);
    let platform = &front.platform;
    let at = |path: &str| format!("[[route]]\nhost = 'paths.test'\npath = '{path}'");
    platform.deploy_with("root", &guest("headers"), &at("/"));
    let inner = format!("{}\n[grant.env]\nA = 'b'", at("/admin"));
    platform.deploy_with("admin", &guest("version"), &at("/admin/version"));
    platform.deploy_with("inner", &guest("hello"), &inner);
    let mut connection = Connection::open(platform.listen, "paths.test").unwrap();
    let mut check = |path: &str, inner: bool| {
        let reply = connection.get(path).unwrap().is(200);
        let expected = if inner {
            "Hello, Midge!\n".to_owned()
        } else {
            format!("path {path}\n")
        };
        assert!(reply.text().contains(&expected), "{path}: {}", reply.text());
    };
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/x/%2e%2e/admin",
        "/x/..%2fadmin",
        "/../admin",
        "/admin%2fx",
        "/admin//",
        "/admin?x=/../",
    ] {
        check(path, true);
    }
    for path in [
        "/",
        "/adminx",
        "/Admin",
        "/admin/..",
        "/admin/%2e%2e/x",
        "/admin/..%2fx",
        "/%00",
        "/admin%00",
        "/a;b=c",
        "/admin;x",
        "/admin\\x",
        "/\\admin",
        "/%",
        "/%6",
        "/%zz",
        "/%2561dmin",
        "/%c0%ae%c0%ae/admin%c0%af",
        "/%ff",
        "/a//b",
        "/a?b??c=%00",
    ] {
        check(path, false);
    }
    let host = "paths.test";
    front.refuses(format!("GET /a b HTTP/1.1\r\nhost: {host}\r\n\r\n"), &[400]);
    let long = "a".repeat(16 << 10);
    let mut connection = Connection::open(platform.listen, host).unwrap();
    connection
        .get(&format!("/{long}"))
        .unwrap()
        .is(414)
        .fails("target-too-long");
    front.holds();
}

/// H22
#[test]
fn an_expectation_is_100_continue_or_refused() {
    let front = Front::open(&["headers"]);
    let mut connection = front.platform.connect("headers");
    let reply = connection
        .request("GET", "/", "expect: 100-continue\r\n", b"")
        .unwrap()
        .is(200);
    assert!(!reply.text().contains("expect"), "{}", reply.text());
    connection
        .request("GET", "/", "Expect: 100-Continue\r\n", b"")
        .unwrap()
        .is(200);
    for unknown in [
        "something",
        "",
        "100-continue, x",
        "100-continue\r\nexpect: x",
    ] {
        let mut connection = front.platform.connect("headers");
        connection
            .request("GET", "/", &format!("expect: {unknown}\r\n"), b"")
            .unwrap()
            .is(417)
            .fails("expectation-failed");
    }
    front.holds();
}

/// H23
#[test]
fn a_thousand_requests_at_once_are_answered_in_order() {
    let front = Front::open(&["headers"]);
    let mut connection = front.platform.connect("headers");
    let mut sender = connection.twin().unwrap();
    let sender = std::thread::spawn(move || {
        for number in 0..1_000 {
            sender.send_head("GET", &format!("/{number}"), "").unwrap();
        }
    });
    for number in 0..1_000 {
        connection
            .reply("GET")
            .unwrap()
            .is(200)
            .mentions(&format!("path /{number}\n"));
    }
    sender.join().unwrap();
    front.holds();
}

/// H23: who sends without end and reads nothing is held up by the platform, which keeps no more than it must.
#[test]
fn requests_of_a_client_that_reads_no_reply_do_not_pile_up() {
    let front = Front::configured("workers = 1", &["headers"]);
    let worker = front.platform.workers()[0];
    let before = tests::anonymous_bytes(worker);
    let clients: Vec<Connection> = (0..5)
        .map(|_| {
            let mut connection = front.platform.connect("headers");
            let stream = connection.twin().unwrap().into_stream();
            stream
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let line = format!("x: {}\r\n", "y".repeat(4_000));
            let head = format!(
                "GET / HTTP/1.1\r\nhost: {}\r\n{line}\r\n",
                front.platform.host("headers")
            );
            let full = (0..100_000).any(|_| (&stream).write_all(head.as_bytes()).is_err());
            assert!(full, "400 MB of requests were taken unanswered");
            connection.host("x");
            connection
        })
        .collect();
    let held = tests::anonymous_bytes(worker).saturating_sub(before);
    assert!(
        held < 10 << 20,
        "{held} bytes for 5 clients that do not read"
    );
    drop(clients);
    front.holds();
}

/// H24
#[test]
fn a_request_behind_a_body_that_nobody_read_is_answered_in_its_turn_or_not_at_all() {
    let front = Front::open(&["early"]);
    let hello = front.platform.host("hello");
    let next = format!("GET / HTTP/1.1\r\nhost: {hello}\r\nconnection: close\r\n\r\n");
    let hidden = String::from_utf8(front.hidden()).unwrap();
    for padding in [0, 1_000, 100_000, 1_000_000] {
        let body = hidden.clone() + &"x".repeat(padding);
        let framed = [
            (format!("content-length: {}\r\n", body.len()), body.clone()),
            (
                "transfer-encoding: chunked\r\n".to_owned(),
                format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
            ),
        ];
        for (headers, body) in framed {
            let request = front.post("early", &headers, &body) + &next;
            let stream = front.connect();
            let mut sender = stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || sender.write_all(request.as_bytes()));
            let said = everything(&stream);
            let _ = sender.join().unwrap();
            let statuses = statuses(&said);
            assert!(
                statuses == [413] || statuses == [413, 200],
                "{padding}: {said}"
            );
            assert!(
                statuses.len() == 1 || said.ends_with("Hello, Midge!\n"),
                "{said}"
            );
        }
    }
    front.holds();
}

/// H25, H26: HTTP/2 begins with its preface or not at all.
#[test]
fn no_connection_changes_what_it_speaks() {
    let front = Front::open(&["headers"]);
    let mut connection = front.platform.connect("headers");
    for lines in [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "connection: upgrade\r\nupgrade: h2c, websocket\r\nupgrade: TLS/1.3\r\n",
    ] {
        let text = connection
            .request("GET", "/", lines, b"")
            .unwrap()
            .is(200)
            .text();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert!(!text.contains(&format!("\n{name}: ")), "{text}");
        }
    }
    // The body of a request that would be upgraded stays a body.
    let host = front.platform.host("headers");
    let hidden = String::from_utf8(front.hidden()).unwrap();
    let stream = front.connect();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: {}\r\n\r\n{hidden}\
         GET /after HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n",
        hidden.len(),
    );
    (&stream).write_all(request.as_bytes()).unwrap();
    let said = everything(&stream);
    assert!(matches!(statuses(&said)[..], [200] | [200, 200]), "{said}");

    for no_preface in [
        "PRI * HTTP/2.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
        "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
        "PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n",
        "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        front.refuses(no_preface, &[400]);
    }
    front.refuses(
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        &[400],
    );
    front.holds();
}

/// H27
#[test]
fn a_length_is_no_promise_that_anyone_believes() {
    let front = Front::open(&["whole", "echo"]);
    // Answered without the body; what comes after is not a request.
    for length in [10 << 30, u64::MAX / 2 + 1] {
        for app in ["hello", "whole"] {
            let headers = format!("content-length: {length}\r\n");
            let request = front.post(app, &headers, "begin").replace("POST", "GET");
            let stream = front.connect();
            let bytes = [request.as_bytes(), &front.hidden()].concat();
            (&stream).write_all(&bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let statuses = statuses(&everything(&stream));
            assert!(
                matches!(statuses[..], [] | [200] | [400] | [422]),
                "{app} {length}: {statuses:?}"
            );
        }
    }
    for length in ["18446744073709551616", "99999999999999999999999"] {
        let headers = format!("content-length: {length}\r\n");
        front.refuses(front.post("hello", &headers, "begin"), &[400]);
    }
    // Shorter than it says: no guest takes it for whole, and nobody waits for the rest.
    let stream = front.connect();
    let request = front.post("whole", "content-length: 100\r\n", "begin");
    (&stream).write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let said = everything(&stream);
    assert!(matches!(statuses(&said)[..], [] | [400] | [422]), "{said}");
    // Longer: what is too much is the next request, and is none.
    let said = front.said_to(front.post("echo", "content-length: 5\r\n", "hello and more\r\n\r\n"));
    assert_eq!(statuses(&said), [200, 400], "{said}");
    front.holds();
}

/// H28, H31: 20,000 connections that say nothing, or as many as a process may open, and 50 that say their heads letter by letter.
#[test]
fn connections_that_say_nothing_or_too_little_are_closed() {
    // It needs some besides.
    let idle = 20_000.min(tests::raise_descriptors(22_000) - 2_000);
    let front = Front::open(&[]);
    let idle: Vec<TcpStream> = (0..idle).map(|_| front.connect()).collect();
    let slow: Vec<TcpStream> = (0..50).map(|_| front.connect()).collect();
    for stream in &slow {
        let mut stream = stream;
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    }
    let head = b"host: hello.localhost\r\nx: and so on, and so on, and so on, and so on";
    // Each letter comes well before the head's time is up, which it does not lengthen.
    let mut open: Vec<&TcpStream> = slow.iter().collect();
    for letter in head.iter().cycle().take(300) {
        open.retain(|stream| (&**stream).write_all(&[*letter]).is_ok());
        if open.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(open.is_empty(), "{} slow heads are still read", open.len());
    for stream in slow.iter().chain(&idle) {
        let said = everything(stream);
        assert!(matches!(statuses(&said)[..], [] | [408]), "{said}");
    }
    front.holds();
}

/// H29
#[test]
fn a_body_that_comes_letter_by_letter_takes_no_longer_than_its_request_may() {
    let front = Front::open(&[]);
    let limits = "[limits]\nwall = '1s'\ncpu = '5s'";
    front.platform.deploy_with("sum", &guest("sum"), limits);
    let slow: Vec<TcpStream> = (0..20).map(|_| front.connect()).collect();
    let head = front.post("sum", "content-length: 100000\r\n", "");
    for stream in &slow {
        let mut stream = stream;
        stream.write_all(head.as_bytes()).unwrap();
    }
    let mut open: Vec<&TcpStream> = slow.iter().collect();
    for _ in 0..300 {
        open.retain(|stream| (&**stream).write_all(b"x").is_ok());
        if open.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(open.is_empty(), "{} slow bodies are still read", open.len());
    for stream in &slow {
        let said = everything(stream);
        assert_eq!(statuses(&said), [504], "{said}");
        assert!(said.contains("midge-error: wall-limit"), "{said}");
    }
    front.holds();
}

/// H30
#[test]
fn a_reply_that_is_read_byte_by_byte_takes_no_longer_than_its_request_may() {
    let front = Front::open(&[]);
    let limits = "[limits]\nwall = '2s'\ncpu = '5s'";
    front
        .platform
        .deploy_with("endless", &guest("endless"), limits);
    let slow: Vec<TcpStream> = (0..20)
        .map(|_| {
            let stream = front.connect();
            let least: libc::c_int = 1;
            // SAFETY: the option's value is an integer that outlives the call.
            let set = unsafe {
                libc::setsockopt(
                    stream.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUF,
                    (&raw const least).cast(),
                    size_of_val(&least) as libc::socklen_t,
                )
            };
            assert_eq!(set, 0);
            let host = front.platform.host("endless");
            write!(&stream, "GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").unwrap();
            let now_and_then = Some(Duration::from_millis(10));
            stream.set_read_timeout(now_and_then).unwrap();
            stream
        })
        .collect();
    // A byte now and then, as long as the guests run.
    let live = || front.platform.metric("midge_live_instances");
    eventually("the guests run", || (live() >= 10.0).then_some(()));
    eventually("the guests are stopped", || {
        for mut stream in &slow {
            let _ = stream.read(&mut [0]);
        }
        (live() < 5.0).then_some(())
    });
    // What is left of each reply waits for its reader for a while, and the log line for both.
    let count = slow.len();
    drop(slow);
    let logs = "tenants/default/apps/endless/logs?tail=1000";
    eventually("the log says why", || {
        let logs = front.platform.api.get(logs).reply.text();
        (logs.matches("wall-limit").count() >= count).then_some(())
    });
    front.holds();
}

/// H32: 10,000 connections, reset at once or within a request.
#[test]
fn connections_that_are_reset_leave_nothing() {
    const STORM: usize = 10_000;
    let front = Front::configured("workers = 1", &["slow"]);
    let worker = front.platform.workers()[0];
    let descriptors = || tests::descriptors(worker);
    // Both apps' code is open, and so is the neighbour's connection.
    front.platform.get("slow", "/wait/0").is(200);
    eventually("the neighbour is served", || {
        (front.load.requests() > 10).then_some(())
    });
    let before = descriptors();
    let host = front.platform.host("slow");
    let begun = format!("GET /10/1000 HTTP/1.1\r\nhost: {host}\r\n");
    let whole = format!("{begun}\r\n");
    for number in 0..STORM {
        let stream = front.connect();
        let bytes = match number % 4 {
            0 => whole.as_bytes(),
            1 => begun.as_bytes(),
            2 => &[],
            _ => b"\0",
        };
        let _ = (&stream).write_all(bytes);
        let now = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: the option's value is a `linger` that outlives the call.
        let set = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const now).cast(),
                size_of_val(&now) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0);
    }
    eventually("descriptors and slots come back", || {
        let live = front.platform.metric("midge_live_instances");
        (descriptors() <= before && live <= 1.0).then_some(())
    });
    front.holds();
}

/// H33: who closes its half is taken to have gone; it gets its reply or none.
#[test]
fn a_client_that_closes_its_half_is_answered_once_or_not_at_all() {
    let front = Front::open(&["slow", "echo"]);
    let request = |app: &str, path: &str| {
        let host = front.platform.host(app);
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
    };
    let slow = request("slow", "/wait/200");
    let cases = [
        (request("hello", "/"), 1),
        (slow.clone(), 1),
        (slow + &request("slow", "/wait/1"), 2),
        (front.post("echo", "content-length: 5\r\n", "hello"), 1),
        (front.post("echo", "content-length: 9\r\n", "hello"), 1),
        ("GET / HTTP/1.1\r\n".to_owned(), 0),
        (String::new(), 0),
    ];
    for (bytes, requests) in cases {
        for _ in 0..20 {
            let stream = front.connect();
            (&stream).write_all(bytes.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let said = everything(&stream);
            assert!(statuses(&said).len() <= requests, "{bytes:?}: {said:?}");
        }
    }
    eventually("no guest runs on", || {
        (front.platform.metric("midge_live_instances") <= 1.0).then_some(())
    });
    front.holds();
}

/// H34: 20,000 requests on one connection; `cargo xtask soak one-connection` makes a million.
#[test]
fn a_connection_may_ask_as_often_as_it_likes() {
    let front = Front::configured("workers = 1", &[]);
    trials::ask_often(&front.platform, 20_000);
    front.holds();
}
