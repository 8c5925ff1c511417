//! Replies that are compressed where the manifest asks for it and the client takes it; and everything that is not.

use std::io::{ErrorKind, Read};

use model::{Coding, Outcome};
use tests::{Connection, Head, Platform, Reply, anonymous_bytes, guest};

use crate::bodies::{come_to_rest, noise};
use crate::hostile_http::Observed;

const MANIFEST: &str = "[reply]\ncompress = ['br', 'zstd', 'gzip']\n[limits]\ncpu = '5s'";

/// A type that is compressed, as the guest is asked for it.
const TEXT: &str = "x-reply-content-type: text/plain\r\n";

fn platform() -> Platform {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("prose", &guest("prose"), MANIFEST);
    platform
}

/// What the guest writes.
fn prose(bytes: usize) -> String {
    let mut text = String::new();
    for line in 1.. {
        text += &format!("line {line} of what goes on and on\n");
        if text.len() >= bytes {
            break;
        }
    }
    text.truncate(bytes);
    text
}

/// What a client makes of a body in a coding, as far as it can.
fn decoded(coding: Coding, body: &[u8]) -> (Vec<u8>, std::io::Result<usize>) {
    let mut reader: Box<dyn Read + '_> = match coding {
        Coding::Brotli => Box::new(brotli::Decompressor::new(body, 4096)),
        Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(body).unwrap()),
        Coding::Gzip => Box::new(flate2::read::GzDecoder::new(body)),
    };
    let mut whole = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match reader.read(&mut piece) {
            Ok(count @ 1..) => whole.extend_from_slice(&piece[..count]),
            end => return (whole, end),
        }
    }
}

/// A whole body, decoded.
fn whole(coding: Coding, body: &[u8]) -> Vec<u8> {
    let (whole, end) = decoded(coding, body);
    end.unwrap_or_else(|error| panic!("{coding}: {error} after {} bytes", whole.len()));
    whole
}

fn ask(connection: &mut Connection, method: &str, path: &str, fields: &str) -> Reply {
    connection.request(method, path, fields, b"").unwrap()
}

fn accepts(coding: &str) -> String {
    format!("accept-encoding: {coding}\r\n{TEXT}")
}

#[track_caller]
fn coded(head: &Head, coding: Option<&str>) {
    assert_eq!(head.header("content-encoding"), coding, "{head:?}");
    if coding.is_some() {
        assert_eq!(head.header("content-length"), None, "{head:?}");
    }
}

#[test]
fn each_coding_comes_back_whole_over_http_1_and_http_2() {
    let platform = platform();
    let text = prose(300_000);
    for coding in Coding::ALL {
        let name = coding.as_str();
        let mut connection = platform.connect("prose");
        let reply = ask(&mut connection, "GET", "/200/300000", &accepts(name)).is(200);
        coded(&reply.head, Some(name));
        assert_eq!(reply.header("vary"), Some("accept-encoding"));
        assert!(reply.body.len() < 60_000, "{name}: {}", reply.body.len());
        assert!(whole(coding, &reply.body) == text.as_bytes(), "{name}");
        // On the same connection, as it is.
        let reply = ask(&mut connection, "GET", "/200/300000", TEXT).is(200);
        coded(&reply.head, None);
        assert_eq!(reply.header("vary"), Some("accept-encoding"));
        assert!(reply.body == text.as_bytes());

        let mut connection = platform.connect_http2("prose");
        let fields = [
            ("accept-encoding", name),
            ("x-reply-content-type", "text/plain"),
        ];
        let reply = connection.request("GET", "/200/300000", &fields, b"");
        let reply = reply.unwrap().is(200);
        coded(&reply.head, Some(name));
        assert!(whole(coding, &reply.body) == text.as_bytes(), "{name}");
    }
    // What does not shrink comes back as well, and trailers follow it.
    let body = noise(1 << 20);
    for coding in Coding::ALL {
        let fields = format!(
            "{}te: trailers\r\nx-reply-trailer: x-length\r\n",
            accepts(coding.as_str())
        );
        let mut connection = platform.connect("prose");
        let reply = connection.request("POST", "/", &fields, &body).unwrap();
        coded(&reply.head, Some(coding.as_str()));
        assert!(whole(coding, &reply.body) == body, "{coding}");
        assert_eq!(reply.trailer("x-length"), Some("1048576"));
        let fields = [
            ("accept-encoding", coding.as_str()),
            ("x-reply-content-type", "text/plain"),
        ];
        let mut connection = platform.connect_http2("prose");
        let reply = connection.request("POST", "/", &fields, &body).unwrap();
        assert!(whole(coding, &reply.body) == body, "{coding}");
        assert_eq!(reply.trailer("x-length"), Some("1048576"));
    }
}

#[test]
fn each_event_can_be_read_before_the_next_is_sent() {
    let platform = platform();
    for coding in Coding::ALL {
        let fields = format!(
            "accept-encoding: {coding}\r\nx-reply-content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        );
        let mut connection = platform.connect("prose");
        connection.send_head("POST", "/", &fields).unwrap();
        coded(&connection.head().unwrap(), Some(coding.as_str()));
        let (mut sent, mut came) = (String::new(), Vec::new());
        for event in 1..=5 {
            let event = format!("data: {event}\n\n");
            sent += &event;
            connection.send_chunk(event.as_bytes()).unwrap();
            // The guest sends nothing more before the next: this much must come.
            while decoded(coding, &came).0 != sent.as_bytes() {
                assert!(connection.chunk(&mut came).unwrap() > 0, "{coding}: ended");
            }
        }
        connection.send_chunk(b"").unwrap();
        while connection.chunk(&mut came).unwrap() > 0 {}
        assert_eq!(whole(coding, &came), sent.as_bytes());

        let mut connection = platform.connect_http2("prose");
        let fields = [
            ("accept-encoding", coding.as_str()),
            ("x-reply-content-type", "text/event-stream"),
        ];
        let mut stream = connection.begin("POST", "/", &fields).unwrap();
        let (mut sent, mut came) = (String::new(), Vec::new());
        for event in 1..=5 {
            let event = format!("data: {event}\n\n");
            sent += &event;
            stream.send(event.as_bytes()).unwrap();
            if event.contains('1') {
                coded(&stream.head().unwrap(), Some(coding.as_str()));
            }
            while decoded(coding, &came).0 != sent.as_bytes() {
                came.extend_from_slice(&stream.piece().unwrap().expect("more must come"));
            }
        }
        stream.finish().unwrap();
        stream.body(&mut came).unwrap();
        assert_eq!(whole(coding, &came), sent.as_bytes());
    }
}

#[test]
fn what_is_encoded_or_fixed_or_small_or_no_text_leaves_as_it_is() {
    let platform = platform();
    let mut connection = platform.connect("prose");
    let check = |connection: &mut Connection, path: &str, fields: &str, vary: Option<&str>| {
        let fields = format!("accept-encoding: gzip\r\n{fields}");
        let reply = ask(connection, "GET", path, &fields);
        assert_eq!(reply.header("vary"), vary, "{fields}");
        let bytes: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        assert!(reply.body == prose(bytes).as_bytes(), "{fields}");
        reply
    };
    let varies = Some("accept-encoding");
    let encoded = format!("{TEXT}x-reply-content-encoding: br\r\n");
    let reply = check(&mut connection, "/200/9000", &encoded, None);
    assert_eq!(reply.header("content-encoding"), Some("br"));
    let fixed = [
        "x-reply-cache-control: no-transform\r\n",
        "x-reply-content-digest: sha-256=:x:\r\n",
        "x-reply-content-length: 9000\r\nx-reply-cache-control: private, no-transform\r\n",
    ];
    for fixed in fixed {
        let reply = check(
            &mut connection,
            "/200/9000",
            &format!("{TEXT}{fixed}"),
            varies,
        );
        coded(&reply.head, None);
    }
    let part = format!(
        "{TEXT}range: bytes=0-8999\r\nx-reply-content-range: bytes 0-8999/90000\r\nx-reply-etag: \"1\"\r\nx-reply-accept-ranges: bytes\r\n"
    );
    let reply = check(&mut connection, "/206/9000", &part, varies).is(206);
    coded(&reply.head, None);
    assert_eq!(reply.header("etag"), Some("\"1\""));
    assert_eq!(reply.header("accept-ranges"), Some("bytes"));
    let small = format!("{TEXT}x-reply-content-length: 1000\r\n");
    coded(
        &check(&mut connection, "/200/1000", &small, varies).head,
        None,
    );
    let picture = "x-reply-content-type: image/png\r\n";
    coded(
        &check(&mut connection, "/200/9000", picture, None).head,
        None,
    );
    // An app that does not ask for it is never touched.
    platform.deploy("plain", &guest("prose"));
    let mut connection = platform.connect("plain");
    coded(&check(&mut connection, "/200/9000", TEXT, None).head, None);
}

#[test]
fn the_client_decides_and_the_app_says_what_it_likes() {
    let platform = platform();
    platform.deploy_with(
        "other",
        &guest("prose"),
        "[reply]\ncompress = ['gzip', 'zstd']",
    );
    let check = |app: &str, accepted: &str, expected: Option<&str>| {
        let mut connection = platform.connect(app);
        let reply = ask(&mut connection, "GET", "/200/9000", &accepts(accepted));
        coded(&reply.head, expected);
    };
    check("prose", "gzip, br, zstd", Some("br"));
    check("other", "gzip, br, zstd", Some("gzip"));
    check("other", "br", None);
    check("prose", "br;q=0, *", Some("zstd"));
    check("prose", "br;q=0.1, gzip;q=0.2", Some("gzip"));
    check("prose", "gzip;q=0, br;q=0, zstd;q=0", None);
    check("prose", "identity, *;q=0", None);
    check("prose", "deflate", None);
}

#[test]
fn heads_and_unchanged_replies_say_what_a_get_would() {
    let platform = platform();
    let fields = format!(
        "{}x-reply-etag: \"1\"\r\nx-reply-accept-ranges: bytes\r\n",
        accepts("gzip")
    );
    let mut connection = platform.connect("prose");
    let mut of = |method: &str, path: &str| {
        let reply = ask(&mut connection, method, path, &fields);
        let named = [
            "content-encoding",
            "content-length",
            "etag",
            "vary",
            "accept-ranges",
        ];
        let found = named.map(|name| reply.header(name).unwrap_or("-").to_owned());
        (found, reply.body.len())
    };
    let coded = ["gzip", "-", "W/\"1\"", "accept-encoding", "-"].map(str::to_owned);
    let (get, body) = of("GET", "/200/9000");
    assert_eq!(get, coded);
    assert!((1..9000).contains(&body));
    assert_eq!(of("HEAD", "/200/9000"), (coded.clone(), 0));
    // On the same connection: nothing of a body has followed.
    assert_eq!(of("GET", "/200/9000").0, coded);
    let unchanged = ["-", "-", "W/\"1\"", "accept-encoding", "bytes"].map(str::to_owned);
    assert_eq!(of("GET", "/304/0"), (unchanged, 0));
    let nothing = ["-", "-", "\"1\"", "accept-encoding", "bytes"].map(str::to_owned);
    assert_eq!(of("GET", "/204/0"), (nothing, 0));

    let fields = [
        ("accept-encoding", "gzip"),
        ("x-reply-content-type", "text/plain"),
        ("x-reply-content-length", "9000"),
    ];
    let mut connection = platform.connect_http2("prose");
    for method in ["HEAD", "GET"] {
        let reply = connection
            .request(method, "/200/9000", &fields, b"")
            .unwrap();
        assert_eq!(reply.header("content-encoding"), Some("gzip"), "{method}");
        assert_eq!(reply.header("content-length"), None, "{method}");
        assert_eq!(reply.body.is_empty(), method == "HEAD");
    }
}

#[test]
fn a_guest_that_fails_amid_its_reply_or_writes_less_than_it_promised_cuts_it() {
    let platform = platform();
    for coding in Coding::ALL {
        let mut connection = platform.connect("prose");
        let fields = accepts(coding.as_str());
        connection
            .send_head("GET", "/200/50000/trap", &fields)
            .unwrap();
        let head = connection.head().unwrap();
        coded(&head, Some(coding.as_str()));
        let mut body = Vec::new();
        let error = connection.body("GET", &head, &mut body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        // What it wrote before has come, and no end.
        let (text, _) = decoded(coding, &body);
        assert!(text == prose(50_000).as_bytes(), "{coding}: {}", text.len());

        let mut connection = platform.connect("prose");
        let fields = format!("{fields}x-reply-content-length: 60000\r\n");
        connection.send_head("GET", "/200/50000", &fields).unwrap();
        let head = connection.head().unwrap();
        coded(&head, Some(coding.as_str()));
        assert!(connection.body("GET", &head, &mut Vec::new()).is_err());
    }
}

#[test]
fn each_compressed_reply_takes_what_it_may_and_a_client_that_goes_away_frees_it() {
    // Each in a worker of its own: what an allocator keeps of one coding's memory for later is not another's.
    for coding in Coding::ALL {
        each_takes_what_it_may(coding);
    }
}

fn each_takes_what_it_may(coding: Coding) {
    const PLACES: u64 = model::limits::COMPRESSED.default;
    let platform = platform();
    platform.deploy_with("many", &guest("prose"), MANIFEST);
    let worker = platform.workers()[0];
    let piece = noise(200 << 10);
    let begin = |coding: Option<Coding>| {
        let mut connection = platform.connect("many");
        let accepted = coding.map_or("identity", Coding::as_str);
        let fields = format!("{}transfer-encoding: chunked\r\n", accepts(accepted));
        connection.send_head("POST", "/", &fields).unwrap();
        coded(&connection.head().unwrap(), coding.map(Coding::as_str));
        let mut sender = connection.twin().unwrap();
        let mut came = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send_chunk(&piece).unwrap());
            while came.len() < piece.len() {
                assert!(connection.chunk(&mut came).unwrap() > 0);
            }
        });
        connection
    };
    // What the worker holds amid as many replies as may be compressed at once.
    let amid = |coding: Option<Coding>| {
        let connections: Vec<_> = (0..PLACES).map(|_| begin(coding)).collect();
        let held = anonymous_bytes(worker);
        if coding.is_some() {
            // One more is served all the same, as it is.
            let mut more = platform.connect("prose");
            let reply = ask(&mut more, "GET", "/200/9000", &accepts("gzip")).is(200);
            coded(&reply.head, None);
            assert!(reply.body == prose(9000).as_bytes());
        }
        drop(connections);
        tests::eventually("no guest runs", || {
            (platform.metric("midge_live_instances") == 0.0).then_some(())
        });
        held
    };
    let plain = amid(None);
    let held = amid(Some(coding)).saturating_sub(plain) / PLACES;
    println!("{coding}: {held} bytes for each reply");
    assert!(held < 3 << 20, "{coding}: {held} bytes for each reply");
    // The next ones have their places again.
    amid(Some(coding));
    tests::eventually("each has its line", || {
        let records = Observed::records(&platform, "many").into_iter();
        let gone = records.filter_map(|record| record.done);
        let gone = gone.filter(|done| done.outcome == Outcome::ClientGone);
        (gone.count() as u64 == 3 * PLACES).then_some(())
    });
}

#[test]
fn a_hundred_mebibytes_of_zeros_take_little_memory() {
    let platform = platform();
    let worker = platform.workers()[0];
    let most = 100 << 20;
    for coding in Coding::ALL {
        let mut connection = platform.connect("prose");
        let path = format!("/zeros/{most}");
        connection
            .send_head("GET", &path, &accepts(coding.as_str()))
            .unwrap();
        let head = connection.head().unwrap();
        coded(&head, Some(coding.as_str()));
        let (mut body, mut held) = (Vec::new(), 0);
        while connection.chunk(&mut body).unwrap() > 0 {
            held = held.max(anonymous_bytes(worker));
        }
        assert!(body.len() < 1 << 20, "{coding}: {}", body.len());
        let zeros = whole(coding, &body);
        assert!(zeros.len() == most && zeros.iter().all(|byte| *byte == 0));
        assert!(held < 64 << 20, "{coding}: {held} bytes");
    }
}

#[test]
fn who_takes_nothing_stops_the_guest() {
    let platform = platform();
    let worker = platform.workers()[0];
    let before = anonymous_bytes(worker);
    let mut clients = Vec::new();
    for coding in Coding::ALL {
        let mut connection = platform.connect("prose");
        let fields = format!("{}transfer-encoding: chunked\r\n", accepts(coding.as_str()));
        connection.send_head("POST", "/", &fields).unwrap();
        coded(&connection.head().unwrap(), Some(coding.as_str()));
        let mut sender = connection.twin().unwrap();
        // Nobody reads, so the sender comes to a halt; it ends with the connection.
        let sending = std::thread::spawn(move || {
            let piece = noise(1 << 20);
            (0..256)
                .take_while(|_| sender.send_chunk(&piece).is_ok())
                .count()
        });
        clients.push((connection, sending));
    }
    come_to_rest(worker);
    let held = anonymous_bytes(worker).saturating_sub(before);
    assert!(held < 32 << 20, "{held} bytes for three that do not read");
    for (connection, sending) in clients {
        let _ = connection.into_stream().shutdown(std::net::Shutdown::Both);
        assert!(sending.join().unwrap() < 256);
    }
}

#[test]
fn compressing_is_charged_to_the_app() {
    let platform = platform();
    let body = prose(8 << 20);
    let used = |accepted: &str, requests: usize| {
        let mut connection = platform.connect("prose");
        let reply = connection.request("POST", "/", &accepts(accepted), body.as_bytes());
        reply.unwrap().is(200);
        tests::eventually("its line is written", || {
            let records = Observed::records(&platform, "prose").into_iter();
            let last = records.filter_map(|record| record.done).nth(requests)?;
            // Counted are the bytes that the guest wrote.
            (last.usage.bytes_out == body.len() as u64).then_some(last.usage.cpu_us)
        })
    };
    let plain = used("identity", 0);
    assert!(used("br", 1) > plain);
    // What an app may use, it may use for that as well.
    platform.deploy_with(
        "little",
        &guest("prose"),
        MANIFEST.replace("5s", "50ms").as_str(),
    );
    let mut connection = platform.connect("little");
    let endless = noise(64 << 20);
    let reply = connection.request("POST", "/", &accepts("br"), &endless);
    assert!(reply.is_err(), "all of it was compressed within 50 ms");
    platform.logs("little", "cpu-limit");
}
