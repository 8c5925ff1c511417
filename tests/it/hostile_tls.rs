//! Hostile TLS: whoever speaks none, or lies in it, is told so and loses the connection; the neighbours notice nothing.

use std::net::SocketAddr;
use std::time::Duration;

use tests::tls::records::{
    ALERT, ALPN, APPLICATION_DATA, CERTIFICATE, CHANGE_CIPHER_SPEC, HANDSHAKE, MOST, SERVER_HELLO,
    SERVER_NAME, Sealed, certificate, hello, message, protocols, record, records, server_name,
};
use tests::tls::{AlertDescription, Authority, Client, Secure, TLS12, TLS13, settings};
use tests::{Connection, anonymous_bytes, descriptors, eventually, guest, trials};

use crate::bodies::noise;
use crate::hostile_http::Watched;

const HELLO: &str = "Hello, Midge!\n";

/// Bytes that a worker may hold more than before when an attack is over.
const KEPT: u64 = 64 << 20;

/// A platform under attack where TLS is spoken, in whose one worker a neighbour is served all the while.
struct Front {
    platform: Watched,
    authority: Authority,
    address: SocketAddr,
    before: u64,
}

impl Front {
    fn open() -> Self {
        let authority = Authority::new();
        let shown = authority.certify(&["hello.localhost", "victim.localhost"]);
        let settings = settings("workers = 1", &[("shop", &shown)]);
        let platform = Watched::start_with(settings);
        platform.deploy("victim", &guest("hello"));
        let address = platform.tls();
        let before = anonymous_bytes(platform.workers()[0]);
        Self {
            platform,
            authority,
            address,
            before,
        }
    }

    /// A connection on which no TLS is spoken yet.
    fn connect(&self) -> Connection {
        Connection::open(self.address, "victim.localhost").unwrap()
    }

    /// A connection of a client whose handshake is done.
    fn agree(&self, client: &Client) -> Connection<Secure> {
        client.connect(self.address, "victim.localhost").unwrap()
    }

    /// The same, on which everything may be said.
    fn sealed(&self, client: &Client) -> Sealed {
        Sealed::of(self.agree(client))
    }

    /// What the platform says to bytes until it closes.
    fn said_to(&self, bytes: &[u8]) -> Vec<u8> {
        let mut connection = self.connect();
        // The platform may close before it has read everything.
        let _ = connection.send(bytes);
        connection.rest_or_reset().unwrap()
    }

    /// Asserts that bytes are answered by this alert and nothing else.
    #[track_caller]
    fn alerts(&self, bytes: &[u8], alert: AlertDescription) {
        let said = self.said_to(bytes);
        let shown = bytes[..bytes.len().min(100)].escape_ascii();
        let fatal = vec![2, u8::from(alert)];
        let said = records(&said);
        assert_eq!(said, [(ALERT, fatal)], "{shown}: {said:?}");
    }

    /// Asserts that bytes end their connection, by an alert if by anything.
    #[track_caller]
    fn ends(&self, bytes: &[u8]) {
        let said = self.said_to(bytes);
        let shown = bytes[..bytes.len().min(100)].escape_ascii();
        let alert = match &records(&said)[..] {
            [] => said.is_empty(),
            [(ALERT, alert)] => alert[0] == 2,
            _ => false,
        };
        assert!(alert, "{shown}: {}", said.escape_ascii());
    }

    /// Asserts that no request has reached the victim, that it is served, and that the neighbours were all the while, in
    /// the same worker.
    #[track_caller]
    fn holds(self) {
        let victims = r#"midge_requests_total{tenant="default",app="victim""#;
        let served = || self.platform.metric(victims);
        assert_eq!(served(), 0.0, "what is no request was served");
        let mut connection = self.agree(&self.authority.client());
        connection.get("/").unwrap().is(200).says(HELLO);
        eventually("a request of the victim would have been counted", || {
            (served() == 1.0).then_some(())
        });
        let held = anonymous_bytes(self.platform.workers()[0]).saturating_sub(self.before);
        assert!(held < KEPT, "{held} bytes more than before");
        self.platform.unharmed();
    }
}

/// H35
#[test]
fn what_is_no_tls_is_answered_by_none() {
    let front = Front::open();
    let request = "GET / HTTP/1.1\r\nhost: victim.localhost\r\n\r\n";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for plain in [request, preface, "\r\n\r\n", "\0\0\0\0\0\0\0\0"] {
        front.ends(plain.as_bytes());
        front.ends(plain.repeat(10_000).as_bytes());
    }
    for garbage in noise(64 << 10).chunks(500) {
        front.ends(garbage);
    }
    // What SSL 2 and 3 said first.
    front.ends(b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10\x01\0\x80\x02\0\x80\x03\0\x80\x04\0\x80");
    front.ends(&[b"\x16\x03\0\0\x2d", &hello(0x0300, &[])[..]].concat());
    front.holds();
}

/// H35
#[test]
fn records_that_hold_nothing_or_too_much_end_their_connection() {
    let front = Front::open();
    for kind in [
        CHANGE_CIPHER_SPEC,
        ALERT,
        HANDSHAKE,
        APPLICATION_DATA,
        0,
        99,
    ] {
        front.ends(&record(kind, b""));
        front.ends(&record(kind, b"").repeat(10_000));
        front.ends(&record(kind, &[0; MOST + 1]));
        front.ends(&record(kind, &[0; 0xffff]));
    }
    // Between the parts of a hello, and a hello that is longer than any.
    let whole = hello(0x0303, &[]);
    let (begin, end) = whole.split_at(whole.len() / 2);
    let parts = [begin, b"", end].map(|part| record(HANDSHAKE, part));
    front.ends(&parts.concat());
    let endless = message(1, &vec![0; 1 << 20]);
    let endless: Vec<u8> = endless
        .chunks(MOST)
        .flat_map(|part| record(HANDSHAKE, part))
        .collect();
    front.ends(&endless);
    // Behind a handshake a record may hold nothing, which means nothing, but not too much.
    for version in [&TLS12, &TLS13] {
        let client = front.authority.client_of(&[version]);
        let mut connection = front.sealed(&client);
        let sent = (0..100_000).try_for_each(|_| connection.send(APPLICATION_DATA, b""));
        let end = "GET / HTTP/1.1\r\n\r\n";
        let _ = sent.and_then(|()| connection.send(APPLICATION_DATA, end.as_bytes()));
        connection.ended().unwrap();
        let mut connection = front.sealed(&client);
        let _ = connection.send(APPLICATION_DATA, &[b'x'; MOST + 1]);
        connection.ended().unwrap();
        for kind in [CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, 0, 99] {
            let mut connection = front.sealed(&client);
            let _ = (0..1_000).try_for_each(|_| connection.send(kind, b""));
            connection.ended().unwrap();
        }
    }
    front.holds();
}

/// H35: 25 hellos that are cut and left standing, 25 that come letter by letter, and 25 handshakes after which nothing is
/// asked.
#[test]
fn handshakes_that_stand_still_are_closed() {
    let front = Front::open();
    let client = front.authority.client().forgetful();
    let hello = client.hello("victim.localhost").unwrap();
    let cuts = [1, 4, 5, 6, 9, hello.len() / 2, hello.len() - 1];
    let standing = cuts.iter().cycle().take(25).map(|cut| {
        let mut connection = front.connect();
        connection.send(&hello[..*cut]).unwrap();
        connection
    });
    let mut standing: Vec<_> = standing.collect();
    // All of a hello, and nothing after the answer.
    let mut answered = front.connect();
    answered.send(&hello).unwrap();
    let mut silent: Vec<_> = (0..25).map(|_| front.agree(&client)).collect();
    let mut slow: Vec<_> = (0..25).map(|_| front.connect()).collect();
    // Each letter comes well before the time is up, which it does not lengthen: a hello of 16 KiB would take half an hour.
    let long = record(HANDSHAKE, &message(1, &vec![0; MOST - 4]));
    let mut open: Vec<_> = slow.iter_mut().collect();
    for letter in long.iter().take(300) {
        open.retain_mut(|connection| connection.send(&[*letter]).is_ok());
        if open.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(open.is_empty(), "{} slow hellos are still read", open.len());
    for connection in standing.iter_mut().chain(&mut slow) {
        let said = connection.rest_or_reset().unwrap();
        assert!(said.is_empty(), "{}", said.escape_ascii());
    }
    let said = answered.rest_or_reset().unwrap();
    let said = records(&said);
    assert_eq!((said[0].0, said[0].1[0]), (HANDSHAKE, SERVER_HELLO));
    for connection in &mut silent {
        if let Ok(said) = connection.rest_or_reset() {
            assert!(said.is_empty(), "{}", said.escape_ascii());
        }
    }
    front.holds();
}

/// H35
#[test]
fn versions_and_ciphers_that_are_broken_are_not_spoken() {
    let front = Front::open();
    let name = server_name(b"victim.localhost");
    let named = [(SERVER_NAME, &name[..])];
    let hello = |version| record(HANDSHAKE, &hello(version, &named));
    // TLS 1.0 and 1.1.
    for version in [0x0301, 0x0302] {
        front.alerts(&hello(version), AlertDescription::ProtocolVersion);
    }
    // TLS 1.2 with nothing but AES-CBC.
    let mut weak = hello(0x0303);
    for modern in [0x2b, 0x2c, 0x2f, 0x30] {
        let at = weak.windows(2).position(|suite| suite == [0xc0, modern]);
        weak[at.unwrap() + 1] = 0x13;
    }
    front.alerts(&weak, AlertDescription::HandshakeFailure);
    front.holds();
}

/// H35
#[test]
fn who_begins_again_within_tls_is_refused() {
    let front = Front::open();
    let name = server_name(b"victim.localhost");
    let again = hello(0x0303, &[(SERVER_NAME, &name)]);
    for version in [&TLS12, &TLS13] {
        let client = front.authority.client_of(&[version]);
        let mut connection = front.sealed(&client);
        // TLS 1.2 lets a server say that it does not want to, and go on; it does not do so without end.
        let _ = (0..1_000).try_for_each(|_| connection.send(HANDSHAKE, &again));
        connection.ended().unwrap();
    }
    // In TLS 1.3 new keys are what is left of it.
    let client = front.authority.client_of(&[&TLS13]);
    let mut connection = front.agree(&client).into_stream();
    let changed = (0..100_000).try_for_each(|_| connection.change_keys());
    assert!(changed.is_err(), "100,000 new keys were taken");
    front.holds();
}

/// H35
#[test]
fn protocols_that_nobody_speaks_are_refused() {
    let front = Front::open();
    let name = server_name(b"victim.localhost");
    let offering = |names: &[&[u8]]| {
        let offer = protocols(names);
        let hello = hello(0x0303, &[(SERVER_NAME, &name), (ALPN, &offer)]);
        record(HANDSHAKE, &hello)
    };
    let none = AlertDescription::NoApplicationProtocol;
    front.alerts(&offering(&[b"spdy/3"]), none);
    front.alerts(&offering(&[b"h2\0", b"H2", b"http/1.0", b"\xff"]), none);
    front.alerts(&offering(&[&[b'x'; 255][..]; 50]), none);
    front.ends(&offering(&[]));
    front.ends(&offering(&[b""]));
    // Who agreed on one protocol cannot speak the other.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let request = b"GET / HTTP/1.1\r\nhost: victim.localhost\r\n\r\n";
    let check = |offer: &[&str], bytes: &[u8]| {
        let client = front.authority.client().offering(offer);
        let mut connection = front.agree(&client);
        connection.send(bytes).unwrap();
        let said = connection.rest_or_reset().unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains("200 OK") && !said.contains(HELLO), "{said}");
    };
    check(&[], preface);
    check(&["http/1.1"], preface);
    check(&["h2"], request);
    front.holds();
}

/// H35
#[test]
fn a_name_that_is_none_is_shown_nothing() {
    let front = Front::open();
    let naming = |name: &[u8]| record(HANDSHAKE, &hello(0x0303, &[(SERVER_NAME, name)]));
    let long = [b'x'; 300];
    let labels = b"x.".repeat(120);
    for name in [
        &b""[..],
        b"\0",
        b"victim.localhost\0",
        b"victim.localhost\0.other.test",
        b"victim.localhost:443",
        b"victim localhost",
        b"*.localhost",
        b"*",
        b"..",
        b".victim.localhost",
        b"victim..localhost",
        b"\xff\xfe\xfd",
        "víctim.localhost".as_bytes(),
        b"../../etc/passwd",
        b"other.localhost",
        b"localhost",
        &long,
        &labels,
    ] {
        front.ends(&naming(&server_name(name)));
    }
    // Two names, one of another kind, and lengths that lie.
    let two = [
        &server_name(b"victim.localhost")[2..],
        &server_name(b"x.test")[2..],
    ]
    .concat();
    let length = (two.len() as u16).to_be_bytes();
    front.ends(&naming(&[&length[..], &two].concat()));
    front.ends(&naming(b"\0\x08\x01\0\x05hello"));
    front.ends(&naming(b"\xff\xff\0\0\x05hello"));
    front.ends(&naming(b"\0\x08\0\xff\xffhello"));
    front.ends(&naming(b""));
    let twice = server_name(b"victim.localhost");
    let twice = hello(0x0303, &[(SERVER_NAME, &twice), (SERVER_NAME, &twice)]);
    front.ends(&record(HANDSHAKE, &twice));
    front.holds();
}

/// H35
#[test]
fn a_certificate_that_nobody_asked_for_ends_its_connection() {
    let front = Front::open();
    let theirs = front.authority.certify(&["victim.localhost"]);
    let name = server_name(b"victim.localhost");
    let garbage = noise(10_000);
    for der in [&theirs.der[..], &garbage, b""] {
        // TLS 1.2: in the clear, where the client's key should come.
        let hello = record(HANDSHAKE, &hello(0x0303, &[(SERVER_NAME, &name)]));
        let shown = message(CERTIFICATE, &certificate(der));
        let said = front.said_to(&[hello, record(HANDSHAKE, &shown)].concat());
        let said = records(&said);
        assert_eq!((said[0].0, said[0].1[0]), (HANDSHAKE, SERVER_HELLO));
        // Of a long one some is unread as the connection ends, which then takes the alert with it.
        if let Some((ALERT, alert)) = said.last() {
            let unexpected = u8::from(AlertDescription::UnexpectedMessage);
            assert_eq!(alert[..], [2, unexpected]);
        }
        // Of either version: behind the handshake.
        for version in [&TLS12, &TLS13] {
            let client = front.authority.client_of(&[version]);
            let mut connection = front.sealed(&client);
            let _ = connection.send(HANDSHAKE, &shown);
            connection.ended().unwrap();
        }
    }
    front.holds();
}

/// H35
#[test]
fn ten_thousand_handshakes_in_a_row_are_made_in_small() {
    println!("{}", trials::handshakes(trials::HANDSHAKES / 20, 7));
}

/// H35: 500 handshakes that are dropped wherever they are.
#[test]
fn handshakes_that_are_dropped_leave_nothing() {
    let front = Front::open();
    let worker = front.platform.workers()[0];
    let client = front.authority.client().forgetful();
    let hello = client.hello("victim.localhost").unwrap();
    let neighbours = r#"midge_requests_total{tenant="default",app="hello""#;
    eventually("the neighbours are served", || {
        (front.platform.metric(neighbours) > 10.0).then_some(())
    });
    let before = descriptors(worker);
    for number in 0..500 {
        let mut connection = front.connect();
        match number % 5 {
            0 => {}
            1 => connection.send(&hello[..hello.len() / 2]).unwrap(),
            2 => connection.send(&hello).unwrap(),
            // As the answer has come, of which most is left unread.
            3 => {
                connection.send(&hello).unwrap();
                let mut answer = connection.into_stream();
                std::io::Read::read_exact(&mut answer, &mut [0]).unwrap();
            }
            _ => drop(front.agree(&client)),
        }
    }
    eventually("descriptors come back", || {
        (descriptors(worker) <= before).then_some(())
    });
    front.holds();
}
