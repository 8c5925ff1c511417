//! What reaches a guest, what it sees of the client, and what is turned away before.

use std::net::SocketAddr;

use tests::{Connection, Platform, guest, raw};

#[test]
fn a_guest_sees_the_request_as_the_client_made_it() {
    let platform = Platform::start();
    platform.deploy("headers", &guest("headers"));
    let port = platform.listen.port();
    let mut connection = platform.connect("headers");
    let reply = connection
        .request(
            "PATCH",
            "/a//b%2fc?q=1",
            "x-mine: one\r\nX-Mine: two\r\n",
            b"",
        )
        .unwrap()
        .is(200);
    for line in [
        "scheme http\n",
        &format!("authority headers.localhost:{port}\n"),
        "method PATCH\n",
        "path /a//b%2fc?q=1\n",
        "x-mine: one\n",
        "x-mine: two\n",
    ] {
        assert!(
            reply.text().contains(line),
            "`{line}` is not in:\n{}",
            reply.text()
        );
    }
}

#[test]
fn the_client_is_told_by_the_platform_alone() {
    let platform = Platform::start();
    platform.deploy("headers", &guest("headers"));
    let mut connection = platform.connect("headers");
    let lies = "forwarded: for=6.6.6.6\r\nx-forwarded-for: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nx-forwarded-proto: https\r\nmidge-client: 6.6.6.6\r\n";
    let reply = connection.request("GET", "/", lies, b"").unwrap().is(200);
    let text = reply.text();
    assert!(
        !text.contains("6.6.6.6") && !text.contains("https"),
        "{text}"
    );
    assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");
    assert!(text.contains("x-forwarded-proto: http\n"), "{text}");
    assert!(
        text.contains("forwarded: ") && text.contains("for=127.0.0.1"),
        "{text}"
    );
}

#[test]
fn an_operators_own_proxy_is_believed() {
    let platform = Platform::configured("[node]\ntrust-forwarded = true");
    platform.deploy("headers", &guest("headers"));
    let mut connection = platform.connect("headers");
    let told = "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n";
    let text = connection
        .request("GET", "/", told, b"")
        .unwrap()
        .is(200)
        .text();
    assert!(
        text.contains("x-forwarded-for: 192.0.2.7, 127.0.0.1\n"),
        "{text}"
    );
    assert!(text.contains("scheme https\n"), "{text}");
}

#[test]
fn an_app_answers_at_its_routes_and_nowhere_else() {
    let platform = Platform::start();
    let routes = "[[route]]\nhost = 'shop.example.com'\npath = '/api'\n[[route]]\npath = '/here'";
    platform.deploy_with("shop", &guest("headers"), routes);
    let ask = |host: &str, path: &str| {
        Connection::open(platform.listen, host)
            .unwrap()
            .get(path)
            .unwrap()
    };
    ask("shop.example.com", "/api")
        .is(200)
        .mentions("path /api\n");
    ask("shop.example.com", "/api/x?y")
        .is(200)
        .mentions("path /api/x?y\n");
    ask("SHOP.example.com.", "/api").is(200);
    ask("shop.example.com:99", "/api").is(200);
    ask("shop.localhost", "/here/x").is(200);
    for (host, path) in [
        ("shop.example.com", "/"),
        ("shop.example.com", "/apix"),
        ("example.com", "/api"),
        ("shop.localhost", "/"),
        ("nobody.localhost", "/"),
        ("localhost", "/"),
        ("127.0.0.1", "/"),
    ] {
        ask(host, path).is(404).fails("not-found");
    }
}

#[test]
fn what_is_not_http_is_answered_once_and_closed() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let host = platform.host("hello");
    // After each comes a whole request, which must never be read as one.
    let check = |request: &str, statuses: &[&str]| {
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let said = raw(platform.listen, format!("{request}{smuggled}").as_bytes());
        let heads: Vec<&str> = said
            .match_indices("HTTP/1.1 ")
            .map(|(at, _)| &said[at + 9..at + 12])
            .collect();
        assert_eq!(heads.len(), 1, "{request:?}: {said}");
        assert!(statuses.contains(&heads[0]), "{request:?}: {said}");
    };
    let with = |more: &str| format!("POST / HTTP/1.1\r\nhost: {host}\r\n{more}\r\n");
    check(
        &with("content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        &["400"],
    );
    check(
        &with("content-length: 5\r\ncontent-length: 6\r\n"),
        &["400"],
    );
    for length in ["+5", "-1", "0x5", "5,6", "99999999999999999999999"] {
        check(&with(&format!("content-length: {length}\r\n")), &["400"]);
    }
    for coding in ["xchunked", "chunked, identity", "identity", "chunked;q=1"] {
        check(
            &with(&format!("transfer-encoding: {coding}\r\n")),
            &["400", "501"],
        );
    }
    check(&with("host: other.localhost\r\n"), &["400"]);
    check(&with("x : y\r\n"), &["400"]);
    check(&with("x: a\0b\r\n"), &["400"]);
    check("GET / HTTP/1.1\r\n\r\n", &["400"]);
    check("GET / HTTP/1.1\r\nhost: \r\n\r\n", &["400"]);
    check("GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", &["400"]);
    check("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", &["400"]);
    check(
        &format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        &["400"],
    );
    check("PRI * HTTP/2.0\r\n\r\n", &["400"]);
    check("\u{1}\u{2}\u{3}\r\n\r\n", &["400"]);
}

#[test]
fn heads_have_limits() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let ask = |path: &str, more: &str| platform.connect("hello").request("GET", path, more, b"");
    ask(&format!("/{}", "a".repeat(20_000)), "")
        .unwrap()
        .is(414)
        .fails("target-too-long");
    ask("/", &"x: y\r\n".repeat(101)).unwrap().is(431);
    ask("/", &format!("x: {}\r\n", "y".repeat(70_000)))
        .unwrap()
        .is(431);
    ask("/", "expect: something\r\n")
        .unwrap()
        .is(417)
        .fails("expectation-failed");
    ask("/", "").unwrap().is(200);
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let platform = Platform::start();
    platform.deploy("headers", &guest("headers"));
    let mut connection = platform.connect("headers");
    for number in 0..200 {
        connection
            .send_head("GET", &format!("/{number}"), "")
            .unwrap();
    }
    for number in 0..200 {
        connection
            .reply("GET")
            .unwrap()
            .is(200)
            .mentions(&format!("path /{number}\n"));
    }
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let request = format!("GET / HTTP/1.0\r\nhost: {}\r\n\r\n", platform.host("hello"));
    let mut connection = Connection::open(platform.listen, "").unwrap();
    connection.send(request.as_bytes()).unwrap();
    let said = String::from_utf8(connection.rest().unwrap()).unwrap();
    assert!(
        said.starts_with("HTTP/1.0 200") && said.ends_with("Hello, Midge!\n"),
        "{said}"
    );
    assert!(!said.to_lowercase().contains("chunked"), "{said}");
}

#[test]
fn every_reply_names_its_request() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let id = |app: &str| {
        platform
            .get(app, "/")
            .header("midge-request-id")
            .map(str::to_owned)
    };
    let (one, two, unknown) = (
        id("hello").unwrap(),
        id("hello").unwrap(),
        id("nobody").unwrap(),
    );
    assert_eq!((one.len(), unknown.len()), (26, 26));
    assert_ne!(one, two);
}

#[test]
fn ipv6_is_served_as_well() {
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        return tests::skip("IPv6", "this machine has no ::1");
    };
    let six: SocketAddr = probe.local_addr().unwrap();
    drop(probe);
    let flags = vec!["--listen".to_owned(), six.to_string()];
    let platform = Platform::start_with(tests::Settings {
        flags,
        ..Default::default()
    });
    platform.deploy("headers", &guest("headers"));
    let mut connection = Connection::open(six, "headers.localhost").unwrap();
    let text = connection.get("/").unwrap().is(200).text();
    assert!(
        text.contains("x-forwarded-for: ::1\n") && text.contains("for=\"[::1]\""),
        "{text}"
    );
}

#[test]
fn a_host_that_no_app_has_leads_to_the_default_one_if_there_is_one() {
    let check = |config: &str, expected: u16| {
        let platform = Platform::configured(config);
        platform.deploy("hello", &guest("hello"));
        let alice = platform.api.new_tenant("alice");
        let route = "[[route]]\nhost = 'alice.test'\npath = '/api'";
        alice.deploy(&tests::manifest_of("shop", route), &guest("version"));
        let ask = |host: &str, path: &str| {
            let mut connection = Connection::open(platform.listen, host).unwrap();
            connection.get(path).unwrap().status()
        };
        let status = |host| ask(host, "/");
        assert_eq!(ask("alice.test", "/api"), 200);
        // Hers, whatever the path.
        assert_eq!(status("alice.test"), 404);
        assert_eq!(status("nobody.test"), expected);
        assert_eq!(status("127.0.0.1"), expected);
    };
    check("", 404);
    check("[node]\ndefault-host = 'hello.localhost'", 200);
    check("[node]\ndefault-host = 'gone.localhost'", 404);
}
