//! A proxy that passes connections on says who the client is (`node.proxy-protocol`).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tests::{Platform, guest};

/// What comes back on a connection that begins with `said` and then asks.
fn answer(platform: &Platform, said: &[u8]) -> String {
    let mut stream = TcpStream::connect(platform.listen).unwrap();
    let host = platform.host("headers");
    let ask = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    // Who is refused may be told so before everything was sent.
    let _ = stream.write_all(&[said, ask.as_bytes()].concat());
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn guests_and_logs_see_the_client_that_the_proxy_names() {
    let platform = Platform::configured("[node]\nproxy-protocol = true");
    platform.deploy("headers", &guest("headers"));
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n";
    let four = [203, 0, 113, 8, 192, 0, 2, 1, 18, 103, 0, 80];
    let bytes = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &four].concat();
    for (said, client) in [(&line[..], "203.0.113.7"), (&bytes, "203.0.113.8")] {
        let answer = answer(&platform, said);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let header = format!("x-forwarded-for: {client}\n");
        assert!(answer.contains(&header), "{answer}");
        let forwarded = format!("forwarded: for={client};");
        assert!(answer.contains(&forwarded), "{answer}");
    }
    // A proxy that looks whether we are well speaks for itself.
    let own = answer(&platform, b"PROXY UNKNOWN\r\n");
    assert!(own.contains("x-forwarded-for: 127.0.0.1\n"), "{own}");
}

#[test]
fn who_is_not_introduced_is_not_answered() {
    let platform = Platform::configured("[node]\nproxy-protocol = true");
    platform.deploy("headers", &guest("headers"));
    for said in [
        &b""[..],
        b"PROXY TCP4 somewhere else 1 2\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\n",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x00",
    ] {
        assert_eq!(answer(&platform, said), "", "{said:?}");
    }
}

#[test]
fn a_client_that_introduces_itself_to_a_platform_without_proxy_is_refused() {
    let platform = Platform::start();
    platform.deploy("headers", &guest("headers"));
    let answer = answer(&platform, b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}
