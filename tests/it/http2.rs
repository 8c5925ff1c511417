//! HTTP/2 with prior knowledge, on the port where HTTP/1.1 is spoken as well: a guest notices no difference.

use std::time::Duration;

use model::{LogRecord, Outcome};
use tests::http2::frames::{End, Frames};
use tests::http2::{Reason, WINDOW, reason};
use tests::load::Protocol;
use tests::{Guest, Platform, anonymous_bytes, each_version, eventually, guest, trials};

use crate::bodies::{come_to_rest, noise};
use crate::hostile_http;

const HELLO: &str = "Hello, Midge!\n";

/// How many requests of an app have ended so, by its log.
fn count(platform: &Platform, app: &str, outcome: Outcome) -> usize {
    let ended = |record: &LogRecord| {
        let done = record.done.as_ref();
        done.is_some_and(|done| done.outcome == outcome)
    };
    let records = hostile_http::Observed::records(platform, app);
    records.into_iter().filter(ended).count()
}

/// Waits until so many requests of an app have ended as `client-gone`, which must never be more.
fn clients_go(platform: &Platform, app: &str, expected: usize) {
    eventually(&format!("{expected} clients of `{app}` are gone"), || {
        let gone = count(platform, app, Outcome::ClientGone);
        assert!(gone <= expected, "{gone} clients of `{app}` are gone");
        (gone == expected).then_some(())
    });
}

/// Waits until so many guests run.
fn running(platform: &Platform, expected: usize) {
    eventually(&format!("{expected} guests run"), || {
        let live = platform.metric("midge_live_instances");
        (live == expected as f64).then_some(())
    });
}

#[test]
fn components_and_commands_answer_on_one_connection_and_http_1_beside_it() {
    let platform = Platform::start();
    let guests = [
        ("component", Guest::Component("hello")),
        ("service", Guest::Service("hello")),
        ("module", Guest::CommandModule("hello-command")),
        ("command", Guest::CommandComponent("hello-command")),
    ];
    for (app, guest) in guests {
        platform.deploy(app, &guest.bytes());
    }
    let mut connection = platform.connect_http2("component");
    for (app, _) in guests {
        let text = platform.get(app, "/").is(200).text();
        connection.host(&platform.host(app));
        for _ in 0..3 {
            connection.get("/").unwrap().is(200).says(&text);
        }
    }
}

#[test]
fn ten_mebibytes_come_back_byte_for_byte_over_http_2() {
    let platform = Platform::start();
    let body = noise(10 << 20);
    let length = body.len().to_string();
    for (app, guest) in [
        ("component", Guest::Component("echo")),
        ("service", Guest::Service("echo")),
        ("streamed", Guest::Service("echoed")),
        ("module", Guest::CommandModule("echo-command")),
    ] {
        platform.deploy_with(app, &guest.bytes(), "[limits]\ncpu = '5s'");
        let mut connection = platform.connect_http2(app);
        for fields in [&[][..], &[("content-length", &*length)]] {
            let reply = connection.request("POST", "/", fields, &body);
            let reply = reply.unwrap().is(200);
            assert!(
                reply.body == body,
                "{app}: {} bytes came back",
                reply.body.len()
            );
        }
    }
}

#[test]
fn a_body_is_echoed_while_it_is_sent_over_http_2() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("echo", &guest("echo"));
        let mut connection = platform.connect_http2("echo");
        let mut stream = connection.begin("POST", "/", &[]).unwrap();
        assert_eq!(stream.head().unwrap().status, 200);
        for word in ["one", "two", "three"] {
            stream.send(word.as_bytes()).unwrap();
            let mut got = Vec::new();
            while got.len() < word.len() {
                got.extend_from_slice(&stream.piece().unwrap().unwrap());
            }
            assert_eq!(got, word.as_bytes());
        }
        stream.finish().unwrap();
        assert_eq!(stream.piece().unwrap(), None);
    });
}

#[test]
fn a_guest_writes_no_faster_than_its_client_opens_the_window() {
    each_version(|guest| {
        let platform = Platform::configured("workers = 1");
        let limits = "[limits]\ncpu = '10s'\nwall = '60s'";
        platform.deploy_with("endless", &guest("endless"), limits);
        platform.deploy("hello", &guest("hello"));
        let worker = platform.workers()[0];
        let before = anonymous_bytes(worker);
        let mut connection = platform.connect_http2("endless");
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = connection.ask("GET", "/", &[]).unwrap();
            assert_eq!(stream.head().unwrap().status, 200);
            streams.push(stream);
        }
        come_to_rest(worker);
        let held = anonymous_bytes(worker).saturating_sub(before);
        assert!(
            held < 20 << 20,
            "{held} bytes for 20 streams whose client does not read"
        );
        // Whoever waits holds up nobody on the same connection, and goes on when it is read.
        connection.host(&platform.host("hello"));
        for _ in 0..20 {
            connection.get("/").unwrap().is(200).says(HELLO);
        }
        for stream in &mut streams {
            let mut read = 0;
            while read < 2 * WINDOW as usize {
                read += stream.piece().unwrap().unwrap().len();
            }
        }
    });
}

#[test]
fn a_client_sends_no_faster_than_its_guest_reads_over_http_2() {
    each_version(|guest| {
        let platform = Platform::configured("workers = 1");
        platform.deploy_with("sum", &guest("sum"), "[limits]\nwall = '60s'\ncpu = '5s'");
        platform.deploy("hello", &guest("hello"));
        let worker = platform.workers()[0];
        let before = anonymous_bytes(worker);
        let mut connection = platform.connect_http2("sum");
        let mut stream = connection.begin("POST", "/60000", &[]).unwrap();
        let total = 64 << 20;
        let taken = stream.offer(&[7; 16 << 10], total, Duration::from_secs(1));
        let taken = taken.unwrap();
        assert!(
            taken < 4 << 20,
            "{taken} bytes were taken for a guest that does not read"
        );
        let held = anonymous_bytes(worker).saturating_sub(before);
        assert!(
            held < 8 << 20,
            "{held} bytes held for a guest that does not read"
        );
        connection.host(&platform.host("hello"));
        connection.get("/").unwrap().is(200).says(HELLO);
        connection
            .request("POST", "/", &[], &[7; 100_000])
            .unwrap()
            .is(200)
            .says(HELLO);
    });
}

#[test]
fn trailers_go_both_ways_over_http_2() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("trailers", &guest("trailers"));
        let mut connection = platform.connect_http2("trailers");
        let fields = [("trailer", "x-sum"), ("te", "trailers")];
        let mut stream = connection.begin("POST", "/", &fields).unwrap();
        stream.send(b"some body").unwrap();
        stream.finish_with(&[("x-sum", "1234")]).unwrap();
        let reply = stream.reply().unwrap().is(200).says("some body");
        assert_eq!(reply.trailer("x-length"), Some("9"));
        assert_eq!(reply.trailer("x-sum"), Some("1234"));
        connection.get("/").unwrap().is(200).says("");
    });
}

/// G28
#[test]
fn trailers_frame_nothing_over_http_2() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("fields", &guest("fields"));
        platform.deploy("hello", &guest("hello"));
        let mut connection = platform.connect_http2("fields");
        let mut check = |names: &[&str], expected: &[(&str, &str)]| {
            let fields = hostile_http::fields(names);
            let reply = connection.request("POST", "/trailers", &[("te", "trailers")], &fields);
            let reply = reply.unwrap().is(200).says("body");
            let sent = reply.trailers.iter();
            let sent: Vec<_> = sent.map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(sent, expected, "{names:?}");
        };
        check(&hostile_http::TRAILERS, &[("x-fine", "1")]);
        // None is left: then the reply ends without.
        check(&hostile_http::TRAILERS[1..], &[]);
        connection.host(&platform.host("hello"));
        connection.get("/").unwrap().is(200).says(HELLO);
    });
}

#[test]
fn a_reply_to_head_has_the_headers_and_no_body_over_http_2() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("big", &guest("big"));
        platform.deploy("hello", &guest("hello"));
        platform.deploy("status", &guest("status"));
        let mut connection = platform.connect_http2("big");
        let reply = connection.request("HEAD", "/1", &[], b"").unwrap();
        let reply = reply.is(200).says("");
        assert_eq!(reply.header("content-length"), Some("1048576"));
        connection.host(&platform.host("status"));
        for status in [204, 304] {
            let reply = connection.get(&format!("/{status}")).unwrap();
            reply.is(status).says("");
        }
        connection.host(&platform.host("nobody"));
        let reply = connection.request("HEAD", "/", &[], b"").unwrap();
        reply.is(404).fails("not-found").says("");
        connection.host(&platform.host("hello"));
        let reply = connection.request("HEAD", "/", &[], b"").unwrap();
        reply.is(200).says("");
        connection.get("/").unwrap().is(200).says(HELLO);
    });
}

#[test]
fn a_reply_may_come_before_the_request_is_read_over_http_2() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("early", &guest("early"));
        let mut connection = platform.connect_http2("early");
        // With and without an end of the request in sight.
        let body = vec![1; 10 << 20];
        for _ in 0..10 {
            let reply = connection.request("POST", "/", &[], &body).unwrap();
            reply.is(413).says("no, thank you\n");
            let mut stream = connection.begin("POST", "/", &[]).unwrap();
            let reply = stream.reply().unwrap();
            reply.is(413).says("no, thank you\n");
        }
    });
}

#[test]
fn a_client_that_gives_a_request_up_ends_its_guest_and_no_other() {
    each_version(|guest| {
        let platform = Platform::start();
        let limits = "[limits]\ncpu = '30s'\nwall = '300s'";
        platform.deploy_with("endless", &guest("endless"), limits);
        platform.deploy_with("slow", &guest("slow"), limits);
        platform.deploy_with("sum", &guest("sum"), limits);
        let mut connection = platform.connect_http2("slow");
        let mut going = connection.ask("GET", "/20/100", &[]).unwrap();
        assert_eq!(going.head().unwrap().status, 200);
        // Before the reply's head, in the middle of its body, and in the middle of the request's.
        let waiting = connection.ask("GET", "/wait/200000", &[]).unwrap();
        connection.host(&platform.host("endless"));
        let mut reading = connection.ask("GET", "/", &[]).unwrap();
        assert_eq!(reading.head().unwrap().status, 200);
        connection.host(&platform.host("sum"));
        let mut sending = connection.begin("POST", "/", &[]).unwrap();
        sending.send(b"begin").unwrap();
        running(&platform, 4);
        for stream in [waiting, reading, sending] {
            stream.cancel();
        }
        for app in ["slow", "endless", "sum"] {
            clients_go(&platform, app, 1);
        }
        let mut body = Vec::new();
        going.body(&mut body).unwrap();
        assert!(String::from_utf8_lossy(&body).ends_with("line 20\n"));
        running(&platform, 0);
        clients_go(&platform, "slow", 1);
    });
}

#[test]
fn a_client_that_closes_its_connection_ends_all_of_its_guests() {
    each_version(|guest| {
        let platform = Platform::start();
        let limits = "[limits]\ncpu = '30s'\nwall = '300s'";
        platform.deploy_with("slow", &guest("slow"), limits);
        let mut connection = platform.connect_http2("slow");
        let streams: Vec<_> = (0..10)
            .map(|_| connection.ask("GET", "/wait/200000", &[]).unwrap())
            .collect();
        running(&platform, 10);
        drop((streams, connection));
        clients_go(&platform, "slow", 10);
    });
}

#[test]
fn a_guest_that_fails_costs_its_own_stream_alone() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy("trap", &guest("trap"));
        platform.deploy("slow", &guest("slow"));
        let mut connection = platform.connect_http2("slow");
        let mut going = connection.ask("GET", "/10/100", &[]).unwrap();
        connection.host(&platform.host("trap"));
        connection.get("/").unwrap().is(500).fails("trap");
        let mut cut = connection.ask("GET", "/middle", &[]).unwrap();
        assert_eq!(cut.head().unwrap().status, 200);
        let mut body = Vec::new();
        let error = cut.body(&mut body).unwrap_err();
        assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR), "{error}");
        let body = String::from_utf8_lossy(&body);
        assert_eq!(body, "so far, so good");
        let reply = going.reply().unwrap().is(200);
        assert!(reply.text().ends_with("line 10\n"), "{}", reply.text());
    });
}

#[test]
fn a_reply_that_takes_too_long_is_cut_over_http_2() {
    each_version(|guest| {
        let platform = Platform::start();
        platform.deploy_with("slow", &guest("slow"), "[limits]\nwall = '500ms'");
        platform.deploy("hello", &guest("hello"));
        let mut connection = platform.connect_http2("slow");
        let reply = connection.get("/wait/60000").unwrap();
        reply.is(504).fails("wall-limit");
        let mut stream = connection.ask("GET", "/1000/100", &[]).unwrap();
        assert_eq!(stream.head().unwrap().status, 200);
        let error = stream.body(&mut Vec::new()).unwrap_err();
        assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR), "{error}");
        connection.host(&platform.host("hello"));
        connection.get("/").unwrap().is(200).says(HELLO);
    });
}

#[test]
fn the_platforms_own_replies_are_the_same_over_http_2() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let mut connection = platform.connect_http2("nobody");
    let reply = connection.get("/").unwrap().is(404).fails("not-found");
    assert_eq!(reply.header("midge-request-id").unwrap().len(), 26);
    assert_eq!(reply.text(), platform.get("nobody", "/").text());
    connection.host(&platform.host("hello"));
    let reply = connection.get("/").unwrap().is(200).says(HELLO);
    assert_eq!(reply.header("midge-request-id").unwrap().len(), 26);
    for name in ["connection", "keep-alive", "transfer-encoding"] {
        assert_eq!(reply.header(name), None);
    }
    let long = format!("/{}", "a".repeat(20_000));
    let reply = connection.get(&long).unwrap();
    reply.is(414).fails("target-too-long");
    let expectation = [("expect", "something")];
    let reply = connection.request("GET", "/", &expectation, b"").unwrap();
    reply.is(417).fails("expectation-failed");
    // A request that was refused says nothing of the next.
    connection.get("/").unwrap().is(200).says(HELLO);
}

#[test]
fn a_hundred_requests_are_under_way_on_one_connection() {
    each_version(|guest| {
        let platform = Platform::configured("workers = 1");
        platform.deploy("slow", &guest("slow"));
        let mut connection = platform.connect_http2("slow");
        let mut streams: Vec<_> = (0..100)
            .map(|_| connection.ask("GET", "/wait/5000", &[]).unwrap())
            .collect();
        running(&platform, 100);
        for stream in &mut streams {
            stream.reply().unwrap().is(200).says("waited\n");
        }
    });
}

#[test]
fn a_connection_over_http_2_may_ask_as_often_as_it_likes() {
    let platform = Platform::configured("workers = 1");
    platform.deploy("headers", &guest("headers"));
    let mut connection = platform.connect_http2("headers");
    for turn in 0..100 {
        let mut streams: Vec<_> = (0..50)
            .map(|number| {
                let path = format!("/{turn}/{number}");
                connection.ask("GET", &path, &[]).unwrap()
            })
            .collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            let line = format!("path /{turn}/{number}\n");
            stream.reply().unwrap().is(200).mentions(&line);
        }
    }
}

#[test]
fn a_guest_sees_the_request_as_it_was_made_over_http_2() {
    let platform = Platform::start();
    platform.deploy("headers", &guest("headers"));
    let host = platform.host("headers");
    let mut connection = platform.connect_http2("headers");
    let fields = [
        ("x-mine", "one"),
        ("x-mine", "two"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("forwarded", "for=6.6.6.6"),
        ("x-forwarded-for", "6.6.6.6"),
        ("midge-client", "6.6.6.6"),
    ];
    let check = |text: &str| {
        for line in [
            "scheme http\n",
            &format!("authority {host}\n"),
            "method PATCH\n",
            "path /a//b%2fc?q=1\n",
            &format!("host: {host}\n"),
            "x-mine: one\n",
            "x-mine: two\n",
            "cookie: a=1; b=2\n",
            "x-forwarded-for: 127.0.0.1\n",
            "x-forwarded-proto: http\n",
            &format!("x-forwarded-host: {host}\n"),
        ] {
            assert!(text.contains(line), "`{line}` is not in:\n{text}");
        }
        for (name, lines) in [("host", 1), ("cookie", 1), ("forwarded", 1), ("te", 0)] {
            let found = text.matches(&format!("\n{name}: ")).count();
            assert_eq!(found, lines, "{name}: {text}");
        }
        assert!(text.contains("for=127.0.0.1"), "{text}");
        assert!(!text.contains("6.6.6.6"), "{text}");
    };
    let target = "/a//b%2fc?q=1";
    let reply = connection.request("PATCH", target, &fields, b"").unwrap();
    check(&reply.is(200).text());
    // One that says its host twice, and the same.
    let fields = [&fields[..], &[("host", &*host)]].concat();
    let reply = connection.request("PATCH", target, &fields, b"").unwrap();
    check(&reply.is(200).text());
}

#[test]
fn streams_in_flight_are_finished_when_the_platform_is_told_to_stop() {
    let mut platform = Platform::start();
    platform.deploy("slow", &guest("slow"));
    let mut connection = Frames::open(platform.listen, &platform.host("slow")).unwrap();
    let streams = [1, 3, 5];
    for stream in streams {
        connection.ask(stream, "/10/200").unwrap();
    }
    running(&platform, 3);
    platform.signal(platform.id(), libc::SIGTERM);
    assert_eq!(connection.dismissed().unwrap(), Reason::NO_ERROR);
    for stream in streams {
        let fate = connection.fate(stream).unwrap();
        assert!(fate.is(200), "{fate:?}");
        assert!(fate.text().ends_with("line 10\n"), "{fate:?}");
    }
    assert_eq!(connection.ended().unwrap(), Some(Reason::NO_ERROR));
    assert!(platform.ended().success(), "{}", platform.said());
}

#[test]
fn a_stream_that_is_not_finished_within_the_grace_period_is_cut() {
    let mut platform = Platform::configured("grace = '500ms'");
    platform.deploy("slow", &guest("slow"));
    let mut connection = Frames::open(platform.listen, &platform.host("slow")).unwrap();
    connection.ask(1, "/1000/100").unwrap();
    running(&platform, 1);
    platform.signal(platform.id(), libc::SIGTERM);
    let fate = connection.fate(1).unwrap();
    assert!(
        matches!(fate.end, End::Reset(_) | End::Closed(_)),
        "{fate:?}"
    );
    platform.ended();
}

#[test]
fn an_idle_connection_over_http_2_does_not_hold_up_a_stop() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let mut connection = Frames::open(platform.listen, &platform.host("hello")).unwrap();
    connection.ask(1, "/").unwrap();
    let fate = connection.fate(1).unwrap();
    assert!(fate.is(200), "{fate:?}");
    let began = std::time::Instant::now();
    platform.signal(platform.id(), libc::SIGTERM);
    assert_eq!(connection.ended().unwrap(), Some(Reason::NO_ERROR));
    assert!(platform.ended().success());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?} for an idle connection",
        began.elapsed()
    );
}

#[test]
fn a_thousand_deploys_under_load_over_http_2_in_small() {
    let count = trials::DEPLOYS / 20;
    each_version(|guest| {
        let of = guest("version");
        println!("{}", trials::deploys_of(&of, "", Protocol::Http2, count, 7));
    });
}

#[test]
fn a_thousand_deploys_of_instances_that_are_reused_over_http_2_in_small() {
    let (of, count) = (Guest::Service("version").bytes(), trials::DEPLOYS / 20);
    // One that goes soon, and one that is asked for as long as its version serves.
    for reuse in [
        "requests = 3\nconcurrent = 2",
        "requests = 1000\nidle = '10s'",
    ] {
        let lines = format!("[reuse]\n{reuse}");
        println!(
            "{}",
            trials::deploys_of(&of, &lines, Protocol::Http2, count, 7)
        );
    }
}
