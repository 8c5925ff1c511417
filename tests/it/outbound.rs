//! Requests that guests send: where they were granted, within bounds, over every protocol; and nowhere else.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;

use tests::names::{Names, Says};
use tests::origin::{Odd, Origin};
use tests::tls::Authority;
use tests::{Connection, Guest, Platform, Reply, Settings, each_version, eventually, guest};

/// Lets guests reach this machine.
const HERE: &str = "workers = 1\n[egress]\nallow = ['127.0.0.1/32']\n";

fn grant(destinations: &[&str]) -> String {
    let quoted: Vec<String> = destinations.iter().map(|to| format!("'{to}'")).collect();
    format!("grant = {{ http = [{}] }}", quoted.join(", "))
}

/// Asks an app that sends requests to send one; `headers` are lines.
fn ask(platform: &Platform, app: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
    let mut connection = platform.connect(app);
    ask_over(&mut connection, path, headers, body)
}

fn ask_over(connection: &mut Connection, path: &str, headers: &str, body: &[u8]) -> Reply {
    let length = format!("content-length: {}\r\n{headers}", body.len());
    let method = if body.is_empty() { "GET" } else { "POST" };
    connection.send_head(method, path, &length).unwrap();
    connection.send(body).unwrap();
    connection.reply(method).unwrap()
}

fn to(authority: impl std::fmt::Display, path: &str) -> String {
    format!("x-authority: {authority}\r\nx-path: {path}\r\n")
}

/// A platform with an app `a` that may ask `origin` by its address.
fn asking(wasm: &[u8], origin: &Origin) -> Platform {
    let platform = Platform::configured(HERE);
    let granted = grant(&[&format!("http://{}", origin.address)]);
    platform.deploy_with("a", wasm, &granted);
    platform
}

/// Waits until so many requests of guests are known to have ended so.
fn counted(platform: &Platform, result: &str, count: u32) {
    let name = format!("midge_sent_requests_total{{result=\"{result}\"}}");
    eventually("what was sent is counted", || {
        (platform.metric(&name) >= f64::from(count)).then_some(())
    });
}

#[test]
fn a_request_goes_where_it_was_granted_and_its_reply_comes_back_whole() {
    each_version(|guest| {
        let origin = Origin::start();
        let platform = asking(&guest("fetch"), &origin);
        let more = "x-header: x-mine=1\r\nx-header: accept=text/plain\r\n";
        let headers = to(origin.address, "/echo?a=b%20c") + more;
        let text = ask(&platform, "a", "/fetch", &headers, b"").is(200).text();
        assert!(text.starts_with("answered 200\n"), "{text}");
        let head = &origin.heads()[0];
        let mut lines = head.lines();
        assert_eq!(lines.next(), Some("GET /echo?a=b%20c HTTP/1.1"));
        let mut lines: Vec<&str> = lines.collect();
        lines.sort_unstable();
        let host = format!("host: {}", origin.address);
        let expected = [
            "accept: text/plain",
            "cdn-loop: midge; hops=1",
            &host,
            "x-mine: 1",
        ];
        assert_eq!(lines, expected);

        let check = |path: &str, more: &str, body: &[u8], part: &str| {
            let headers = to(origin.address, path) + more;
            let text = ask(&platform, "a", "/fetch", &headers, body).is(200).text();
            assert!(text.contains(part), "{path}: {text}");
        };
        check("/status/204", "", b"", "answered 204");
        check("/status/503", "", b"", "answered 503");
        check("/status/200", "x-method: HEAD\r\n", b"", "answered 200");
        check(
            "/upload",
            "x-method: POST\r\n",
            &vec![1; 3 << 20],
            "\n3145728 bytes",
        );
        check("/upload", "x-method: PURGE\r\n", b"", "\n0 bytes");
        let head = origin.heads().pop().unwrap();
        assert!(
            head.starts_with("PURGE ") && !head.contains("transfer-encoding"),
            "{head}"
        );
        // One connection serves them all.
        assert_eq!(origin.connections(), 1);
        counted(&platform, "answered", 6);
    });
}

#[test]
fn bodies_stream_both_ways() {
    let origin = Origin::start();
    let platform = asking(&guest("fetch"), &origin);
    let body: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let headers = to(origin.address, "/mirror") + "x-method: POST\r\n";
    let reply = ask(&platform, "a", "/proxy", &headers, &body).is(200);
    assert!(reply.body == body, "{} bytes came", reply.body.len());
    // In 0.3 the guest looks at no byte of it.
    let granted = grant(&[&format!("http://{}", origin.address)]);
    platform.deploy_with("a", &Guest::Service("fetch").bytes(), &granted);
    let reply = ask(&platform, "a", "/relay", &headers, &body).is(200);
    assert!(reply.body == body, "{} bytes came", reply.body.len());
    let headers = to(origin.address, "/trailers");
    let reply = ask(&platform, "a", "/relay", &headers, b"").is(200);
    assert_eq!(reply.text(), "body");
    let head = origin.heads().pop().unwrap();
    assert!(
        head.contains(&format!("host: {}\n", origin.address)),
        "{head}"
    );
    assert!(!head.contains("content-length"), "{head}");
}

#[test]
fn what_was_not_granted_is_denied_and_its_owner_told() {
    each_version(|guest| {
        let origin = Origin::start();
        let platform = Platform::configured(HERE);
        let asked = to(origin.address, "/echo");
        let said = |headers: &str| ask(&platform, "a", "/fetch", headers, b"").is(200).text();
        platform.deploy("a", &guest("fetch"));
        assert!(said(&asked).contains("HttpRequestDenied"));
        let port = origin.address.port();
        for near in [
            format!("http://127.0.0.1:{}", port ^ 1),
            format!("https://127.0.0.1:{port}"),
            format!("http://*.0.0.1.example:{port}"),
            format!("http://localhost:{port}"),
        ] {
            platform.deploy_with("a", &guest("fetch"), &grant(&[&near]));
            assert!(said(&asked).contains("HttpRequestDenied"), "{near}");
        }
        let log = platform.run(&["logs", "a"]).exits(0).out;
        let line = format!("add `http = [\"http://127.0.0.1:{port}\"]`");
        assert!(log.contains(&line), "{log}");
        assert_eq!(origin.connections(), 0);
        counted(&platform, "refused", 5);
    });
}

/// What a guest may say of where a request goes, and the one thing that it means or why it means nothing (G34).
#[test]
fn no_spelling_leads_elsewhere_than_where_it_was_granted() {
    let origin = Origin::start();
    let other = Origin::start();
    let platform = asking(&guest("fetch"), &origin);
    let (ours, theirs) = (origin.address, other.address);
    let said = |headers: String| ask(&platform, "a", "/fetch", &headers, b"").is(200).text();
    for authority in [
        format!("{ours}@{theirs}"),
        format!("user@{ours}"),
        format!("user:pass@{ours}"),
        format!("{ours}:80"),
        format!("{ours}/@{theirs}"),
        format!("{ours}#{theirs}"),
        format!("127.0.0.1:{}:{}", ours.port(), theirs.port()),
        format!("0x7f.0.0.1:{}", ours.port()),
        format!("127.1:{}", ours.port()),
        format!("2130706433:{}", ours.port()),
        format!("0177.0.0.1:{}", ours.port()),
        format!("[::ffff:127.0.0.1]:{}", ours.port()),
        format!("localhost:{}", ours.port()),
        "127.0.0.1:0".to_owned(),
        "127.0.0.1:99999".to_owned(),
        String::new(),
        theirs.to_string(),
    ] {
        let text = said(to(&authority, "/echo"));
        assert!(!text.starts_with("answered"), "{authority}: {text}");
    }
    // A target is a target, whatever it looks like: the connection and the `host` are those that were checked.
    for path in [
        format!("//{theirs}/echo"),
        format!("/echo?http://{theirs}/"),
        format!("/@{theirs}/echo"),
        "/echo/%0d%0aHost:%20evil".to_owned(),
        "/%2e%2e/echo".to_owned(),
    ] {
        let text = said(to(ours, &path));
        assert!(text.starts_with("answered 200"), "{path}: {text}");
        let head = origin.heads().pop().unwrap();
        assert!(
            head.starts_with(&format!("GET {path} HTTP/1.1\n")),
            "{head}"
        );
        assert!(head.contains(&format!("\nhost: {ours}\n")), "{head}");
    }
    for path in [
        format!("http://{theirs}/echo"),
        "echo".to_owned(),
        format!("@{theirs}"),
    ] {
        let text = said(to(ours, &path));
        assert!(!text.starts_with("answered"), "{path}: {text}");
    }
    for header in [
        "host=evil",
        "transfer-encoding=chunked",
        "connection=close",
        "te=trailers",
        "upgrade=h2c",
        "midge-hops=1",
    ] {
        let text = said(to(ours, "/echo") + &format!("x-header: {header}\r\n"));
        assert!(text.contains("Forbidden"), "{header}: {text}");
    }
    for (scheme, part) in [
        ("ftp", "HttpRequestUriInvalid"),
        ("https", "HttpRequestDenied"),
    ] {
        let text = said(to(ours, "/echo") + &format!("x-scheme: {scheme}\r\n"));
        assert!(text.contains(part), "{scheme}: {text}");
    }
    for method in ["CONNECT", "TRACE"] {
        let text = said(to(ours, "/echo") + &format!("x-method: {method}\r\n"));
        assert!(
            text.contains("HttpRequestMethodInvalid"),
            "{method}: {text}"
        );
    }
    assert_eq!(other.connections(), 0);
}

/// A platform whose guests may ask `*.test` over TLS, certified by `authority`, found through `names`.
fn over_tls(authority: &Authority, names: &Names, port: u16) -> Platform {
    let config = format!(
        "{HERE}nameservers = ['{}']\nroots = 'none'\nca = 'ca.pem'\n",
        names.address
    );
    let platform = Platform::start_with(Settings {
        config,
        files: vec![("ca.pem".to_owned(), authority.root())],
        ..Settings::default()
    });
    let granted = grant(&[&format!("https://*.test:{port}")]);
    platform.deploy_with("a", &guest("fetch"), &granted);
    platform
}

#[test]
fn servers_prove_who_they_are_and_speak_either_protocol() {
    let authority = Authority::new();
    let certificate = authority.certify(&["one.test", "two.test"]);
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], "HTTP/2.0"),
        (&["http/1.1"], "HTTP/1.1"),
        (&[], "HTTP/1.1"),
    ] {
        let origin = Origin::secure(&certificate, protocols);
        let names = Names::start(move |_, _| Says::Addresses(vec![here], 60));
        let platform = over_tls(&authority, &names, origin.address.port());
        let said = |host: &str, path: &str| {
            let headers = to(format!("{host}:{}", origin.address.port()), path);
            let headers = headers + "x-scheme: https\r\n";
            ask(&platform, "a", "/fetch", &headers, b"").is(200).text()
        };
        for _ in 0..3 {
            let text = said("one.test", "/echo");
            assert!(text.contains(version), "{text}");
        }
        assert_eq!(origin.connections(), 1);
        // Over HTTP/1.1 this server sends none to who has not asked for them.
        let text = said("one.test", "/trailers");
        let trailers = text.contains("trailer x-sum: 7");
        assert_eq!(trailers, version == "HTTP/2.0", "{text}");
        let text = said("one.test", "/bytes/1000000");
        assert!(text.len() > 1_000_000, "{}", text.len());
        // A connection is good for the host that it was made to, and no other.
        said("two.test", "/echo");
        assert_eq!(origin.connections(), 2);
        let text = said("three.test", "/echo");
        assert!(text.contains("TlsCertificateError"), "{text}");
        let requests = origin.requests();
        assert!(said("one.test", "/echo").starts_with("answered 200"));
        assert_eq!(origin.requests(), requests + 1);
    }
    // Nobody else's word counts.
    let stranger = Authority::new().certify(&["one.test"]);
    let ended = authority.certify_once(&["one.test"]);
    for certificate in [stranger, ended] {
        let origin = Origin::secure(&certificate, &["http/1.1"]);
        let names = Names::start(move |_, _| Says::Addresses(vec![here], 60));
        let platform = over_tls(&authority, &names, origin.address.port());
        let headers =
            to(format!("one.test:{}", origin.address.port()), "/echo") + "x-scheme: https\r\n";
        let text = ask(&platform, "a", "/fetch", &headers, b"").is(200).text();
        assert!(text.contains("TlsCertificateError"), "{text}");
        assert_eq!(origin.requests(), 0);
    }
}

#[test]
fn an_invocation_has_so_many_requests_and_so_many_at_once() {
    each_version(|guest| {
        let origin = Origin::start();
        let platform = asking(&guest("fetch"), &origin);
        let headers = to(origin.address, "/late/20");
        let text = ask(&platform, "a", "/many/32", &headers, b"")
            .is(200)
            .text();
        assert_eq!(text, "32 x answered 200\n");
        assert_eq!(origin.most_under_way(), 6);
        assert!(origin.connections() <= 6, "{}", origin.connections());
        let text = ask(&platform, "a", "/many/40", &headers, b"")
            .is(200)
            .text();
        let (answered, denied) = text.split_once('\n').unwrap();
        assert_eq!(answered, "32 x answered 200", "{text}");
        assert!(
            denied.starts_with("8 x") && denied.contains("ConnectionLimitReached"),
            "{text}"
        );
    });
}

#[test]
fn who_floods_a_slow_server_ends_with_its_invocation() {
    let origin = Origin::start();
    let platform = asking(&guest("fetch"), &origin);
    let granted = grant(&[&format!("http://{}", origin.address)]) + "\n[limits]\nwall = '1s'";
    platform.deploy_with("a", &guest("fetch"), &granted);
    let headers = to(origin.address, "/drip/100");
    // G33: ten invocations of a thousand requests each.
    for _ in 0..10 {
        ask(&platform, "a", "/many/1000", &headers, b"")
            .is(504)
            .fails("wall-limit");
    }
    assert!(origin.most_under_way() <= 12, "{}", origin.most_under_way());
    eventually("nothing is left open", || {
        (origin.open() == 0).then_some(())
    });
    eventually("slots are back", || {
        (platform.metric("midge_live_instances") == 0.0).then_some(())
    });
}

#[test]
fn what_a_guest_lets_go_is_closed() {
    let origin = Origin::start();
    let platform = asking(&guest("fetch"), &origin);
    for path in ["/late/20000", "/drip/10"] {
        ask(&platform, "a", "/leave/4", &to(origin.address, path), b"")
            .is(200)
            .says("left");
        eventually("what nobody waits for is closed", || {
            (origin.open() == 0).then_some(())
        });
    }
    // So is what a client that leaves wanted, wherever its guest is.
    for path in ["/late/20000", "/drip/10"] {
        for _ in 0..20 {
            let mut connection = platform.connect("a");
            connection
                .send_head("GET", "/fetch", &to(origin.address, path))
                .unwrap();
            eventually("it is under way", || (origin.open() > 0).then_some(()));
            drop(connection);
            eventually("what nobody waits for is closed", || {
                (origin.open() == 0).then_some(())
            });
        }
    }
    eventually("slots are back", || {
        (platform.metric("midge_live_instances") == 0.0).then_some(())
    });
}

#[test]
fn guests_wait_within_bounds() {
    each_version(|guest| {
        let origin = Origin::start();
        let platform = asking(&guest("fetch"), &origin);
        let said = |path: &str, waits: &str| {
            let headers = to(origin.address, path) + &format!("x-waits: {waits}\r\n");
            ask(&platform, "a", "/fetch", &headers, b"").is(200).text()
        };
        // G24: none of them is taken for a mistake of the platform.
        for waits in [
            "0,0,0",
            "1,1,1",
            "18446744073709551615,18446744073709551615,18446744073709551615",
        ] {
            let text = said("/echo", waits);
            assert!(
                text.starts_with("answered") || text.contains("imeout"),
                "{waits}: {text}"
            );
        }
        let text = said("/late/5000", "-,50000000,-");
        assert!(text.contains("HttpResponseTimeout"), "{text}");
        let text = said("/drip/5000", "-,-,50000000");
        assert!(
            text.contains("cut after 1 bytes") && text.contains("ConnectionReadTimeout"),
            "{text}"
        );
        let text = said("/late/50", "-,-,-");
        assert!(text.starts_with("answered 200"), "{text}");
        eventually("what was given up is closed", || {
            (origin.open() <= 1).then_some(())
        });
    });
}

#[test]
fn a_server_that_breaks_the_rules_is_an_error_and_nothing_else() {
    let platform = Platform::configured(HERE);
    let long = "x".repeat(70_000);
    let many: String = (0..300).map(|i| format!("x-{i}: 1\r\n")).collect();
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let table: Vec<(String, &str)> = vec![
        ("nonsense\r\n\r\n".into(), "HttpProtocolError"),
        (
            "HTTP/1.1 200 OK\r\nbad header\r\n\r\n".into(),
            "HttpProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n".into(),
            "HttpProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".into(),
            "HttpProtocolError",
        ),
        (
            format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n"),
            "HttpResponseHeaderSectionSize",
        ),
        (
            format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
            "HttpResponseHeaderSectionSize",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into(),
            "HttpProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n".into(),
            "HttpResponseBodySize",
        ),
        (format!("{chunked}zz\r\n"), "cut after 0 bytes"),
        (
            format!("{chunked}fffffffffffffffff\r\n"),
            "cut after 0 bytes",
        ),
        (
            format!(
                "{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100)
            ),
            "answered 200",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".into(),
            "answered 200",
        ),
    ];
    for (bytes, part) in table {
        let shown: String = bytes.chars().take(60).collect();
        let odd = Odd::saying(bytes);
        platform.deploy_with(
            "a",
            &guest("fetch"),
            &grant(&[&format!("http://{}", odd.address)]),
        );
        let reply = ask(&platform, "a", "/fetch", &to(odd.address, "/"), b"");
        assert!(reply.text().contains(part), "{shown}: {}", reply.text());
    }
    // One that ends too early, at each place.
    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";
    for length in (0..whole.len()).step_by(7) {
        let odd = Odd::start(move |mut stream| stream.write_all(&whole[..length]));
        platform.deploy_with(
            "a",
            &guest("fetch"),
            &grant(&[&format!("http://{}", odd.address)]),
        );
        let text = ask(&platform, "a", "/fetch", &to(odd.address, "/"), b"")
            .is(200)
            .text();
        let cut = text.contains("ConnectionTerminated");
        assert!(cut, "cut at {length}: {text}");
    }
    // One that never stops: its guest has what it may have, and the host no more.
    let endless = Odd::start(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let piece = vec![b'x'; 1 << 20];
        loop {
            stream.write_all(&piece)?;
        }
    });
    let granted = grant(&[&format!("http://{}", endless.address)]) + "\n[limits]\ncpu = '5s'";
    platform.deploy_with("a", &guest("fetch"), &granted);
    let text = ask(&platform, "a", "/fetch", &to(endless.address, "/"), b"")
        .is(200)
        .text();
    assert!(
        text.contains("HttpResponseBodySize"),
        "{}",
        &text[..text.len().min(200)]
    );
}

#[test]
fn a_connection_that_was_closed_under_a_request_costs_nothing() {
    let platform = Platform::configured(HERE);
    // Answers once, says that it keeps the connection, and closes it.
    let fickle = Odd::start(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    });
    platform.deploy_with(
        "a",
        &guest("fetch"),
        &grant(&[&format!("http://{}", fickle.address)]),
    );
    for _ in 0..50 {
        let text = ask(&platform, "a", "/turns/20", &to(fickle.address, "/"), b"")
            .is(200)
            .text();
        assert_eq!(text, "20 x answered 200\n");
    }
}

/// A server may answer before it has read a request's body: the connection is then good for no other request, and what the
/// guest still sends ends with it.
#[test]
fn a_connection_that_was_answered_early_is_lent_to_nobody() {
    let platform = Platform::configured(HERE);
    let hasty = Odd::start(|mut stream| {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer)?;
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                length if bytes[..length].starts_with(b"GET ") => stream.write_all(answer)?,
                // More of what it has answered.
                _ => {}
            }
        }
    });
    let granted = grant(&[&format!("http://{}", hasty.address)]);
    platform.deploy_with("a", &guest("fetch"), &granted);
    let headers = to(hasty.address, "/") + "x-method: POST\r\ntransfer-encoding: chunked\r\n";
    let mut uploading = platform.connect("a");
    uploading.send_head("POST", "/fetch", &headers).unwrap();
    uploading.send_chunk(&[b'x'; 1000]).unwrap();
    for _ in 0..3 {
        let text = ask(&platform, "a", "/fetch", &to(hasty.address, "/"), b"").text();
        assert!(text.starts_with("answered 200"), "{text}");
    }
    uploading.send(b"0\r\n\r\n").unwrap();
    uploading
        .reply("POST")
        .unwrap()
        .is(200)
        .mentions("answered 200");
}

/// The same over HTTP/2, where others share the connection: nobody joins them any more, and it ends with them.
#[test]
fn a_shared_connection_with_an_open_upload_is_joined_by_nobody() {
    let authority = Authority::new();
    let origin = Origin::hoarding(&authority.certify(&["one.test"]));
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    let names = Names::start(move |_, _| Says::Addresses(vec![here], 60));
    let port = origin.address.port();
    let platform = over_tls(&authority, &names, port);
    let headers = to(format!("one.test:{port}"), "/") + "x-scheme: https\r\n";
    let posted = headers.clone() + "x-method: POST\r\ntransfer-encoding: chunked\r\n";
    let mut uploads = Vec::new();
    for count in 1..=20 {
        let mut upload = platform.connect("a");
        upload.send_head("POST", "/fetch", &posted).unwrap();
        upload.send_chunk(&[b'x'; 1000]).unwrap();
        eventually(
            "each has a connection of its own, which ends with its answer",
            || (origin.connections() == count && origin.open() == 0).then_some(()),
        );
        uploads.push(upload);
    }
    // What came to a good end is shared.
    for _ in 0..3 {
        let text = ask(&platform, "a", "/fetch", &headers, b"").is(200).text();
        assert!(text.starts_with("answered 200"), "{text}");
    }
    assert_eq!((origin.connections(), origin.open()), (21, 1));
    for mut upload in uploads {
        upload.send(b"0\r\n\r\n").unwrap();
        upload
            .reply("POST")
            .unwrap()
            .is(200)
            .mentions("answered 200");
    }
}

/// Whoever leaves between two requests costs none that can be asked again; whoever always does is given up.
#[test]
fn a_server_that_leaves_is_asked_anew_and_not_for_ever() {
    let authority = Authority::new();
    let certificate = authority.certify(&["one.test"]);
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    for in_words in [true, false] {
        for after in [2, 0] {
            let origin = Origin::leaving(&certificate, after, in_words);
            let names = Names::start(move |_, _| Says::Addresses(vec![here], 60));
            let port = origin.address.port();
            let platform = over_tls(&authority, &names, port);
            let headers = to(format!("one.test:{port}"), "/") + "x-scheme: https\r\n";
            for count in 1..=6u64 {
                let text = ask(&platform, "a", "/fetch", &headers, b"").is(200).text();
                let how = format!("{after}, {in_words}, {count}: {text}");
                let (expected, connections) = match after {
                    // It was not one that had waited, so nothing says that another would do better.
                    0 => ("ConnectionTerminated", count),
                    _ => ("answered 200", count.div_ceil(2)),
                };
                assert!(text.contains(expected), "{how}");
                assert_eq!(origin.connections(), connections, "{how}");
            }
            assert_eq!(origin.requests(), if after > 0 { 6 } else { 0 });
            eventually("no connection is kept that is over", || {
                (origin.open() <= 1).then_some(())
            });
        }
    }
}

#[test]
fn calls_within_the_platform_keep_to_the_same_rules() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy_with("a", &guest("fetch"), &grant(&["http://*.app.internal"]));
        platform.deploy("echo", &guest("echo"));
        platform.deploy("slow", &tests::guest("slow"));
        let said = |headers: String| ask(&platform, "a", "/fetch", &headers, b"").is(200).text();
        // Nothing comes behind the head of what has no body.
        let text = said(to("slow.app.internal", "/wait/1") + "x-method: HEAD\r\n");
        assert!(
            text.starts_with("answered 200") && text.ends_with("\n\n"),
            "{text}"
        );
        // A guest waits for as long as it says.
        let waits = "x-waits: -,20000000,-\r\n";
        let text = said(to("slow.app.internal", "/wait/2000") + waits);
        assert!(text.contains("HttpResponseTimeout"), "{text}");
        let waits = "x-waits: -,-,20000000\r\n";
        let text = said(to("slow.app.internal", "/3/2000") + waits);
        assert!(text.contains("ConnectionReadTimeout"), "{text}");
        eventually("who is not waited for any more ends", || {
            (platform.metric("midge_live_instances") == 0.0).then_some(())
        });
    });
}

#[test]
fn connections_wait_for_a_while_and_for_their_own_tenant_alone() {
    let origin = Origin::start();
    let platform = Platform::configured(HERE);
    let granted = grant(&[&format!("http://{}", origin.address)]);
    platform.deploy_with("a", &guest("fetch"), &granted);
    platform.deploy_with("b", &guest("fetch"), &granted);
    let asked = to(origin.address, "/echo");
    let mut connections = [platform.connect("a"), platform.connect("b")];
    for connection in &mut connections {
        ask_over(connection, "/fetch", &asked, b"").is(200);
    }
    // Two apps of one tenant share, as far as they are in one worker.
    let of_one = origin.connections();
    assert!(of_one <= platform.workers().len() as u64);
    let other = platform.api.new_tenant("other");
    let manifest = tests::manifest_of("a", &granted);
    other.deploy(&manifest, &guest("fetch"));
    let mut connection = Connection::open(platform.listen, "a.other.localhost").unwrap();
    ask_over(&mut connection, "/fetch", &asked, b"").is(200);
    assert_eq!(origin.connections(), of_one + 1);
    eventually("nothing waits for ever", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn apps_of_a_tenant_call_each_other_without_leaving_the_process() {
    each_version(|guest| {
        let platform = Platform::start();
        let all = grant(&["http://*.app.internal"]);
        for app in ["a", "b"] {
            platform.deploy_with(app, &guest("fetch"), &all);
        }
        platform.deploy("echo", &guest("echo"));
        let said = |headers: &str, body: &[u8]| {
            ask(&platform, "a", "/fetch", headers, body).is(200).text()
        };
        let text = said(
            &(to("echo.app.internal", "/x") + "x-method: POST\r\n"),
            b"over there",
        );
        assert!(
            text.starts_with("answered 200\n") && text.ends_with("over there"),
            "{text}"
        );
        let text = ask(&platform, "a", "/chain/b/a/end", "", b"")
            .is(200)
            .text();
        assert_eq!(text.matches("answered 200").count(), 2, "{text}");
        assert!(text.ends_with("the end"), "{text}");
        for nobody in [
            "nobody.app.internal",
            "x.queue.internal",
            "a.b.app.internal",
        ] {
            let text = said(&to(nobody, "/"), b"");
            assert!(!text.starts_with("answered"), "{nobody}: {text}");
        }
        // What fails there is a reply here.
        platform.deploy("trap", &guest("trap"));
        let text = said(&to("trap.app.internal", "/"), b"");
        assert!(
            text.starts_with("answered 500") && text.contains("midge-error: trap"),
            "{text}"
        );
        // Another tenant's app of that name is not there.
        let other = platform.api.new_tenant("other");
        other.deploy(&tests::manifest_of("theirs", ""), &guest("echo"));
        let text = said(&to("theirs.app.internal", "/"), b"");
        assert!(text.contains("DestinationNotFound"), "{text}");
        // A line of its own in its own log, which says who asked.
        let log = platform.run(&["logs", "echo", "--json"]).exits(0).out;
        assert!(log.contains("a.app.internal"), "{log}");
    });
}

#[test]
fn apps_that_call_each_other_in_a_circle_end_there() {
    each_version(|guest| {
        let platform = Platform::start();
        let all = grant(&["http://*.app.internal"]);
        for app in ["a", "b"] {
            platform.deploy_with(app, &guest("fetch"), &all);
        }
        let path = format!("/chain/{}end", "b/a/".repeat(10));
        let text = ask(&platform, "a", &path, "", b"").is(200).text();
        assert_eq!(text.matches("answered 200").count(), 7, "{text}");
        assert!(text.contains("answered 508"), "{text}");
        assert!(text.contains("midge-error: loop-detected"), "{text}");
        // So do those that go by the way that everyone takes.
        let mut connection = platform.connect("b");
        let asked = |hops: &str| format!("cdn-loop: other; hops=9, midge; hops={hops}\r\n");
        ask_over(&mut connection, "/chain/end", &asked("7"), b"")
            .is(200)
            .says("the end");
        ask_over(&mut connection, "/chain/end", &asked("8"), b"")
            .is(508)
            .fails("loop-detected");
        let text = ask_over(&mut connection, "/chain/a/b/end", &asked("6"), b"")
            .is(200)
            .text();
        assert!(text.contains("answered 508"), "{text}");
    });
}

#[test]
fn an_app_that_has_no_slot_is_busy_at_once() {
    let platform = Platform::configured("workers = 1\n[node]\nslots = 20\ntenant-slots = 4\n");
    let all = grant(&["http://*.app.internal"]);
    platform.deploy_with("a", &guest("fetch"), &all);
    platform.deploy("slow", &guest("slow"));
    // One slot is the caller's: three of its requests have one each, and the others none.
    let text = ask(
        &platform,
        "a",
        "/many/6",
        &to("slow.app.internal", "/wait/300"),
        b"",
    )
    .is(200)
    .text();
    assert_eq!(text, "3 x answered 200\n3 x answered 503\n");
    eventually("slots are back", || {
        (platform.metric("midge_live_instances") == 0.0).then_some(())
    });
}

#[test]
fn a_trace_goes_on_through_what_a_guest_asks() {
    let collector = tests::collector::Collector::start();
    let origin = Origin::start();
    let platform = Platform::configured(&format!(
        "{HERE}[telemetry]\notlp = '{}'\ntraces = 0\n",
        collector.url()
    ));
    let here = format!("http://{}", origin.address);
    platform.deploy_with(
        "a",
        &guest("fetch"),
        &grant(&[&here, "http://echo.app.internal"]),
    );
    platform.deploy("echo", &guest("echo"));
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let asked = format!("traceparent: 00-{id}-00f067aa0ba902b7-01\r\n");
    ask(
        &platform,
        "a",
        "/fetch",
        &(asked.clone() + &to(origin.address, "/echo")),
        b"",
    )
    .is(200);
    let head = origin.heads().pop().unwrap();
    let told = head
        .lines()
        .find_map(|line| line.strip_prefix("traceparent: "));
    let told = told.expect("the server is told").to_owned();
    let spans = collector.trace(id);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let named = |name: &str| spans.iter().find(|span| span.name == name);
    let sent = named("http.send").expect("the request has a span");
    assert_eq!(told, format!("00-{id}-{}-01", hex(&sent.span_id)));
    let guest_span = spans
        .iter()
        .find(|span| span.span_id == sent.parent_span_id);
    assert!(
        guest_span.is_some_and(|span| span.name.contains("guest")),
        "{spans:?}"
    );
    // Within the platform the other app's spans are part of the same trace.
    let id = "5bf92f3577b34da6a3ce929d0e0e4736";
    let asked = format!("traceparent: 00-{id}-00f067aa0ba902b7-01\r\n");
    ask(
        &platform,
        "a",
        "/fetch",
        &(asked + &to("echo.app.internal", "/")),
        b"",
    )
    .is(200);
    let spans = eventually("both apps' spans are there", || {
        let spans = collector.trace(id);
        let sent = spans
            .iter()
            .find(|span| span.name == "http.send")?
            .span_id
            .clone();
        spans
            .iter()
            .any(|span| span.parent_span_id == sent)
            .then_some(spans)
    });
    assert!(spans.len() >= 6, "{spans:?}");
    // Who is not recorded tells on what it was told.
    let id = "6bf92f3577b34da6a3ce929d0e0e4736";
    let asked = format!("traceparent: 00-{id}-00f067aa0ba902b7-00\r\n");
    ask(
        &platform,
        "a",
        "/fetch",
        &(asked + &to(origin.address, "/echo")),
        b"",
    )
    .is(200);
    let head = origin.heads().pop().unwrap();
    assert!(head.contains(&format!("traceparent: 00-{id}-")), "{head}");
}

#[test]
fn names_are_looked_up_as_they_are_and_their_failures_told() {
    let origin = Origin::start();
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    let names = Names::start(move |name, _| match name {
        "good.test" => Says::Addresses(vec![here], 60),
        "once.test" => Says::Addresses(vec![here], 0),
        "alias.test" => Says::Alias("good.test".into(), vec![here]),
        "none.test" => Says::Nothing,
        "empty.test" => Says::Addresses(vec![], 60),
        "broken.test" => Says::Failure,
        "many.test" => {
            let many = (0..100).map(|_| here);
            Says::Addresses(many.collect(), 60)
        }
        _ => Says::Silence,
    });
    let config = format!("{HERE}nameservers = ['{}']\n", names.address);
    let platform = Platform::configured(&config);
    let port = origin.address.port();
    platform.deploy_with(
        "a",
        &guest("fetch"),
        &grant(&[&format!("http://*.test:{port}")]),
    );
    let said = |name: &str| {
        let waits = "x-waits: 2000000000,-,-\r\n";
        let headers = to(format!("{name}:{port}"), "/echo") + waits;
        ask(&platform, "a", "/fetch", &headers, b"").is(200).text()
    };
    let found = |name: &str| {
        let text = said(name);
        assert!(text.starts_with("answered 200"), "{name}: {text}");
    };
    for name in ["good.test", "GOOD.test", "good.test."] {
        found(name);
    }
    // By both kinds of addresses, once; one that is not to be remembered each time.
    assert_eq!(names.asked("good.test"), 2);
    for asked in [2, 4] {
        found("once.test");
        assert_eq!(names.asked("once.test"), asked);
    }
    found("alias.test");
    for (name, part) in [
        ("none.test", "DnsError"),
        ("empty.test", "DnsError"),
        ("broken.test", "DnsError"),
        ("many.test", "DnsError"),
        ("silent.test", "DnsTimeout"),
    ] {
        let text = said(name);
        assert!(text.contains(part), "{name}: {text}");
    }
}
