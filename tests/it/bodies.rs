//! Bodies in both directions: byte for byte, as they come, and no faster than they are taken.

use std::io::ErrorKind;
use std::time::Duration;

use tests::{Guest, Platform, each_version};

/// Bytes in which no two places look alike for long.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8))
        .flat_map(|_| next().to_le_bytes())
        .take(length)
        .collect()
}

/// Waits until a worker has nothing to do.
pub fn come_to_rest(worker: u32) {
    tests::eventually("the worker has nothing to do", || {
        let cpu = tests::cpu_seconds(worker);
        std::thread::sleep(Duration::from_millis(300));
        (tests::cpu_seconds(worker) - cpu < 0.02).then_some(())
    });
}

#[test]
fn ten_mebibytes_come_back_byte_for_byte() {
    let platform = Platform::start();
    let body = noise(10 << 20);
    for (app, guest) in [
        ("component", Guest::Component("echo")),
        ("service", Guest::Service("echo")),
        ("streamed", Guest::Service("echoed")),
        ("module", Guest::CommandModule("echo-command")),
        ("command", Guest::CommandComponent("echo-command")),
    ] {
        platform.deploy_with(app, &guest.bytes(), "[limits]\ncpu = '5s'");
        let reply = platform.post(app, "/", &body).is(200);
        assert!(
            reply.body == body,
            "{app}: {} bytes came back",
            reply.body.len()
        );
    }
}

#[test]
fn a_body_is_echoed_while_it_is_sent() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("echo", &guest("echo"));
        let mut connection = platform.connect("echo");
        connection
            .send_head("POST", "/", "transfer-encoding: chunked\r\n")
            .unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.status, 200);
        for word in ["one", "two", "three"] {
            connection.send_chunk(word.as_bytes()).unwrap();
            let mut got = Vec::new();
            while got.len() < word.len() {
                connection.chunk(&mut got).unwrap();
            }
            assert_eq!(got, word.as_bytes());
        }
        connection.send_chunk(b"").unwrap();
        assert_eq!(connection.chunk(&mut Vec::new()).unwrap(), 0);
        connection.fields().unwrap();
        connection
            .request("POST", "/", "", b"again")
            .unwrap()
            .is(200)
            .says("again");
    });
}

#[test]
fn a_reply_arrives_line_by_line() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("slow", &guest("slow"));
        let mut connection = platform.connect("slow");
        connection.send_head("GET", "/3/300", "").unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        for line in 1..=3 {
            let mut chunk = Vec::new();
            connection.chunk(&mut chunk).unwrap();
            assert_eq!(String::from_utf8_lossy(&chunk), format!("line {line}\n"));
        }
    });
}

#[test]
fn a_guest_writes_no_faster_than_its_client_reads() {
    each_version(|guest| {
        let platform = Platform::configured("workers = 1");
        platform.deploy_with(
            "endless",
            &guest("endless"),
            "[limits]\ncpu = '10s'\nwall = '60s'",
        );
        let worker = platform.workers()[0];
        let before = tests::anonymous_bytes(worker);
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut connection = platform.connect("endless");
            connection.send_head("GET", "/", "").unwrap();
            connection.head().unwrap();
            clients.push(connection);
        }
        // The clients read nothing: once every buffer is full, nobody works any more.
        come_to_rest(worker);
        let held = tests::anonymous_bytes(worker).saturating_sub(before);
        assert!(
            held < 20 << 20,
            "{held} bytes for 20 clients that do not read"
        );
    });
}

#[test]
fn a_client_sends_no_faster_than_its_guest_reads() {
    each_version(|guest| {
        let platform = Platform::configured("workers = 1");
        platform.deploy_with("sum", &guest("sum"), "[limits]\nwall = '60s'\ncpu = '5s'");
        let mut connection = platform.connect("sum");
        let total = 64usize << 20;
        connection
            .send_head("POST", "/400", &format!("content-length: {total}\r\n"))
            .unwrap();
        let worker = platform.workers()[0];
        let before = tests::anonymous_bytes(worker);
        let mut sender = connection.twin().unwrap();
        // The guest sleeps at each piece, so the sender must come to a halt long before the end.
        let sent = std::thread::spawn(move || {
            let piece = vec![7; 1 << 20];
            let mut sent = 0;
            while sent < total && sender.send(&piece).is_ok() {
                sent += piece.len();
            }
            sent
        });
        std::thread::sleep(Duration::from_secs(1));
        let held = tests::anonymous_bytes(worker).saturating_sub(before);
        assert!(
            !sent.is_finished(),
            "64 MiB were taken from a client whose guest reads 160 KiB a second"
        );
        assert!(
            held < 8 << 20,
            "{held} bytes held for a guest that does not read"
        );
        drop(connection);
        drop(platform);
        assert!(sent.join().unwrap() < total);
    });
}

#[test]
fn trailers_go_both_ways() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("trailers", &guest("trailers"));
        let mut connection = platform.connect("trailers");
        let headers = "transfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n";
        connection.send_head("POST", "/", headers).unwrap();
        connection.send_chunk(b"some body").unwrap();
        connection.send(b"0\r\nx-sum: 1234\r\n\r\n").unwrap();
        let reply = connection.reply("POST").unwrap().is(200).says("some body");
        assert_eq!(reply.trailer("x-length"), Some("9"));
        assert_eq!(reply.trailer("x-sum"), Some("1234"));
    });
}

#[test]
fn a_reply_to_head_has_the_headers_and_no_body() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("big", &guest("big"));
        platform.deploy("hello", &guest("hello"));
        let mut connection = platform.connect("big");
        let reply = connection.request("HEAD", "/1", "", b"").unwrap().is(200);
        assert_eq!(reply.header("content-length"), Some("1048576"));
        // Had a body come, the next reply could not be read.
        connection.request("HEAD", "/1", "", b"").unwrap().is(200);
        let mut connection = platform.connect("hello");
        connection.request("HEAD", "/", "", b"").unwrap().is(200);
        connection.get("/").unwrap().is(200).says("Hello, Midge!\n");
    });
}

#[test]
fn a_client_that_expects_to_be_asked_is_asked_when_the_guest_reads() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("echo", &guest("echo"));
        let mut connection = platform.connect("echo");
        connection
            .send_head("POST", "/", "content-length: 4\r\nexpect: 100-continue\r\n")
            .unwrap();
        // The guest's own head may come before or after the interim one.
        let mut heads = vec![connection.head().unwrap()];
        if heads[0].status != 100 {
            heads.push(connection.head().unwrap());
        }
        assert!(heads.iter().any(|head| head.status == 100), "{heads:?}");
        connection.send(b"body").unwrap();
        let head = match heads.iter().find(|head| head.status != 100) {
            Some(head) => head.clone(),
            None => connection.head().unwrap(),
        };
        assert_eq!(head.status, 200);
        let mut body = Vec::new();
        connection.body("POST", &head, &mut body).unwrap();
        assert_eq!(body, b"body");
    });
}

#[test]
fn a_client_that_expects_to_be_asked_may_be_answered_instead() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("early", &guest("early"));
        let mut connection = platform.connect("early");
        connection
            .send_head(
                "POST",
                "/",
                "content-length: 1000000\r\nexpect: 100-continue\r\n",
            )
            .unwrap();
        assert_eq!(connection.head().unwrap().status, 413);
    });
}

#[test]
fn a_reply_may_come_before_the_request_is_read() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("early", &guest("early"));
        let mut connection = platform.connect("early");
        connection
            .send_head("POST", "/", "content-length: 104857600\r\n")
            .unwrap();
        connection.send(&[1; 10_000]).unwrap();
        connection
            .reply("POST")
            .unwrap()
            .is(413)
            .says("no, thank you\n");
    });
}

#[test]
fn large_uploads_and_downloads_work() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy_with("sum", &guest("sum"), "[limits]\ncpu = '10s'");
        platform.deploy_with("big", &guest("big"), "[limits]\ncpu = '10s'");
        platform
            .post("sum", "/", &vec![1; 100 << 20])
            .is(200)
            .says("104857600");
        let reply = platform.get("big", "/100").is(200);
        assert_eq!(reply.body.len(), 100 << 20);
        let right = |(place, byte): (usize, &u8)| *byte == (place % (64 << 10) % 251) as u8;
        assert!(reply.body.iter().enumerate().all(right));
    });
}

#[test]
fn a_client_that_goes_away_ends_its_guest() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy_with(
            "endless",
            &guest("endless"),
            "[limits]\ncpu = '30s'\nwall = '300s'",
        );
        let mut connection = platform.connect("endless");
        connection.send_head("GET", "/", "").unwrap();
        connection.head().unwrap();
        assert!(platform.metric("midge_live_instances") >= 0.0);
        drop(connection);
        tests::eventually("the request ends as `client-gone`", || {
            let logs = platform
                .api
                .get("tenants/default/apps/endless/logs")
                .reply
                .text();
            logs.contains("client-gone").then_some(())
        });
    });
}

#[test]
fn a_request_body_that_breaks_off_is_its_callers_failure() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("echo", &Guest::CommandModule("echo-command").bytes());
        platform.deploy("sum", &guest("sum"));
        for app in ["echo", "sum"] {
            for (body, outcome) in [
                ("content-length: 5000\r\n\r\nhello", "client-gone"),
                (
                    "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n",
                    "bad-request",
                ),
            ] {
                let mut connection = platform.connect(app);
                let head = format!("POST / HTTP/1.1\r\nhost: {}\r\n", platform.host(app));
                connection.send(format!("{head}{body}").as_bytes()).unwrap();
                drop(connection);
                tests::eventually(&format!("`{app}` logs `{outcome}`"), || {
                    let logs = platform
                        .api
                        .get(&format!("tenants/default/apps/{app}/logs"))
                        .reply
                        .text();
                    assert!(!logs.contains("\"trap\""), "{logs}");
                    logs.contains(outcome).then_some(())
                });
            }
        }
    });
}

#[test]
fn a_body_that_stops_short_is_no_whole_reply() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("trap", &guest("trap"));
        let mut connection = platform.connect("trap");
        connection.send_head("GET", "/middle", "").unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.status, 200);
        let mut body = Vec::new();
        let ended = connection.body("GET", &head, &mut body).unwrap_err();
        assert!(
            matches!(
                ended.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ),
            "{ended}"
        );
        assert_eq!(String::from_utf8_lossy(&body), "so far, so good");
    });
}
