//! TLS in the node: what clients are shown, what is spoken within, and certificates that change while it serves.

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tests::tls::{
    AlertDescription, Authority, Certificate, CertificateError, Client, Error, KEYS, Secure, TLS12,
    TLS13, reason, settings,
};
use tests::{Connection, Guest, Platform, clients, eventually, guest};

use crate::bodies::noise;

const HELLO: &str = "Hello, Midge!\n";

/// A platform whose apps answer over TLS at `APP.apps.test`.
pub struct Secured {
    pub platform: Platform,
    pub authority: Authority,
    pub address: SocketAddr,
}

impl Secured {
    /// With a certificate for each of these lists of hosts.
    pub fn start(certified: &[&[&str]]) -> Self {
        Self::configured("", certified)
    }

    pub fn configured(config: &str, certified: &[&[&str]]) -> Self {
        let authority = Authority::new();
        let certificates = certified.iter().map(|names| authority.certify(names));
        let certificates: Vec<_> = certificates.collect();
        Self::showing(config, authority, &certificates)
    }

    /// With these certificates, in the files `0.pem`, `0.key`, `1.pem` and so on.
    fn showing(config: &str, authority: Authority, certificates: &[Certificate]) -> Self {
        let names: Vec<String> = (0..certificates.len()).map(|at| at.to_string()).collect();
        let named: Vec<_> = names.iter().map(String::as_str).zip(certificates).collect();
        let config = format!("domain = 'apps.test'\n{config}");
        let platform = Platform::start_with(settings(&config, &named));
        let address = platform.tls();
        Self {
            platform,
            authority,
            address,
        }
    }

    /// A connection of a client to a host.
    pub fn try_connect(&self, client: &Client, host: &str) -> io::Result<Connection<Secure>> {
        client.connect(self.address, host)
    }

    #[track_caller]
    pub fn connect(&self, host: &str) -> Connection<Secure> {
        let connection = self.try_connect(&self.authority.client(), host);
        connection.unwrap_or_else(|error| panic!("{host}: {error}\n{}", self.platform.said()))
    }

    /// Asserts that a host is not shown anything, and told so.
    #[track_caller]
    pub fn refuses(&self, client: &Client, host: &str, alert: AlertDescription) {
        let error = match self.try_connect(client, host) {
            Ok(_) => panic!("`{host}` was shown a certificate"),
            Err(error) => error,
        };
        let expected = Error::AlertReceived(alert);
        assert_eq!(reason(&error), Some(&expected), "{host}: {error}");
    }

    /// Asserts that a new client is shown this certificate, and is served.
    #[track_caller]
    pub fn shows(&self, host: &str, certificate: &Certificate) {
        let mut connection = self.connect(host);
        assert!(connection.stream().was_shown(certificate), "{host}");
        connection.get("/").unwrap().is(200).says(HELLO);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.platform.folder().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    /// Puts another certificate in the place of the first.
    fn renew(&self, names: &[&str]) -> Certificate {
        let newer = self.authority.certify(names);
        self.write("0.pem", &newer.chain);
        self.write("0.key", &newer.key);
        newer
    }

    /// Waits until new clients are shown this certificate, whichever worker they meet.
    pub fn comes_to_show(&self, host: &str, certificate: &Certificate) {
        let client = self.authority.client();
        let shows = || {
            let connection = self.try_connect(&client, host);
            connection.is_ok_and(|connection| connection.stream().was_shown(certificate))
        };
        eventually("the new certificate is shown", || {
            (0..8).all(|_| shows()).then_some(())
        });
    }
}

#[test]
fn both_protocols_are_spoken_as_the_client_offers_them() {
    let secured = Secured::start(&[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let client = |offer: &[&str]| secured.authority.client().offering(offer);
    let check = |offer: &[&str], expected: Option<&str>| {
        let connection = secured.try_connect(&client(offer), "hello.apps.test");
        let mut connection = connection.unwrap();
        let agreed = connection.stream().protocol();
        assert_eq!(agreed.as_deref(), expected, "{offer:?}");
        if agreed.as_deref() != Some("h2") {
            connection.get("/").unwrap().is(200).says(HELLO);
        }
    };
    check(&[], None);
    check(&["http/1.1"], Some("http/1.1"));
    check(&["h2"], Some("h2"));
    check(&["h2", "http/1.1"], Some("h2"));
    check(&["http/1.1", "h2"], Some("h2"));
    check(&["spdy/3", "http/1.1"], Some("http/1.1"));
    for offer in [&["spdy/3"][..], &["http/1.0", "h3"]] {
        let alert = AlertDescription::NoApplicationProtocol;
        secured.refuses(&client(offer), "hello.apps.test", alert);
    }
    let connection = client(&[]).connect_http2(secured.address, "hello.apps.test");
    let mut connection = connection.unwrap();
    for _ in 0..3 {
        connection.get("/").unwrap().is(200).says(HELLO);
    }
    // Beside them, the plain address speaks as ever.
    let mut plain = Connection::open(secured.platform.listen, "hello.apps.test").unwrap();
    plain.get("/").unwrap().is(200).says(HELLO);
}

#[test]
fn both_versions_of_tls_are_spoken() {
    let secured = Secured::start(&[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    for version in [&TLS12, &TLS13] {
        let client = secured.authority.client_of(&[version]);
        let connection = secured.try_connect(&client, "hello.apps.test");
        connection.unwrap().get("/").unwrap().is(200).says(HELLO);
        let connection = client.connect_http2(secured.address, "hello.apps.test");
        connection.unwrap().get("/").unwrap().is(200).says(HELLO);
    }
}

#[test]
fn a_guest_is_told_that_its_client_came_over_tls() {
    let secured = Secured::start(&[&["headers.apps.test"]]);
    secured.platform.deploy("headers", &guest("headers"));
    let host = format!("headers.apps.test:{}", secured.address.port());
    let check = |text: &str, scheme: &str, host: &str| {
        for line in [
            format!("scheme {scheme}\n"),
            format!("authority {host}\n"),
            format!("x-forwarded-proto: {scheme}\n"),
            format!("x-forwarded-host: {host}\n"),
            format!("forwarded: for=127.0.0.1;host=\"{host}\";proto={scheme}\n"),
        ] {
            assert!(text.contains(&line), "`{line}` is not in:\n{text}");
        }
    };
    // Whatever the client says of it.
    let lies = "x-forwarded-proto: http\r\nforwarded: proto=http\r\n";
    let reply = secured.connect(&host).request("GET", "/", lies, b"");
    check(&reply.unwrap().is(200).text(), "https", &host);
    let client = secured.authority.client();
    let mut connection = client.connect_http2(secured.address, &host).unwrap();
    let lies = [("x-forwarded-proto", "http"), ("forwarded", "proto=http")];
    let reply = connection.request("GET", "/", &lies, b"");
    check(&reply.unwrap().is(200).text(), "https", &host);
    let mut plain = Connection::open(secured.platform.listen, "headers.apps.test").unwrap();
    let reply = plain.get("/").unwrap().is(200);
    check(&reply.text(), "http", "headers.apps.test");
}

#[test]
fn a_command_is_told_that_its_client_came_over_tls() {
    let secured = Secured::start(&[&["cgi.apps.test"]]);
    let guest = Guest::CommandComponent("cgi-command");
    secured.platform.deploy("cgi", &guest.bytes());
    let reply = secured.connect("cgi.apps.test").get("/").unwrap().is(200);
    for line in ["HTTPS=on\n", "REQUEST_SCHEME=https\n", "SERVER_PORT=443\n"] {
        assert!(
            reply.text().contains(line),
            "`{line}` is not in:\n{}",
            reply.text()
        );
    }
}

#[test]
fn who_names_a_host_is_shown_its_certificate_and_who_names_none_the_first() {
    let authority = Authority::new();
    let certificates = [
        authority.certify(&["first.test", "second.test"]),
        authority.certify(&["*.apps.test"]),
        authority.certify(&["hello.apps.test", "first.test", "*.hello.apps.test"]),
    ];
    let secured = Secured::showing("", authority, &certificates);
    let client = secured.authority.client();
    let check = |client: &Client, host: &str, expected: usize| {
        let connection = secured.try_connect(client, host).unwrap();
        let shown = &certificates[expected];
        assert!(connection.stream().was_shown(shown), "{host}");
    };
    check(&client, "second.test", 0);
    // The first that names a host, and an exact name before a wildcard.
    check(&client, "first.test", 0);
    check(&client, "hello.apps.test", 2);
    check(&client, "HELLO.apps.TEST", 2);
    check(&client, "other.apps.test", 1);
    check(&client, "deep.hello.apps.test", 2);
    check(&client.clone().unnamed(), "second.test", 0);
    // A `*` is one label, neither none nor two.
    for unknown in [
        "apps.test",
        "a.b.apps.test",
        "third.test",
        "test",
        "xfirst.test",
    ] {
        secured.refuses(&client, unknown, AlertDescription::AccessDenied);
    }
}

#[test]
fn a_request_for_another_host_than_its_connections_is_misdirected() {
    let secured = Secured::start(&[&["hello.apps.test", "other.apps.test"]]);
    for app in ["hello", "other"] {
        secured.platform.deploy(app, &guest("hello"));
    }
    let port = secured.address.port();
    let others = ["other.apps.test", "nobody.test", "127.0.0.1"];
    let own = [
        "hello.apps.test",
        &format!("hello.apps.test:{port}"),
        "HELLO.apps.test",
    ];

    let mut connection = secured.connect("hello.apps.test");
    for other in others {
        connection.host(other);
        let reply = connection.get("/").unwrap();
        reply.is(421).fails("misdirected");
        for own in own {
            connection.host(own);
            connection.get("/").unwrap().is(200).says(HELLO);
        }
    }

    let client = secured.authority.client();
    let connection = client.connect_http2(secured.address, "hello.apps.test");
    let mut connection = connection.unwrap();
    for other in others {
        connection.host(other);
        let reply = connection.get("/").unwrap();
        reply.is(421).fails("misdirected");
        for own in own {
            connection.host(own);
            connection.get("/").unwrap().is(200).says(HELLO);
        }
    }

    // Who named no host may ask for any.
    let connection = secured.try_connect(&client.unnamed(), "hello.apps.test");
    let mut connection = connection.unwrap();
    for host in ["other.apps.test", "hello.apps.test"] {
        connection.host(host);
        connection.get("/").unwrap().is(200).says(HELLO);
    }
}

#[test]
fn ten_mebibytes_come_back_byte_for_byte_over_tls() {
    let secured = Secured::start(&[&["*.apps.test"]]);
    let body = noise(10 << 20);
    for (app, guest) in [
        ("component", Guest::Component("echo")),
        ("module", Guest::CommandModule("echo-command")),
    ] {
        let limits = "[limits]\ncpu = '5s'";
        secured.platform.deploy_with(app, &guest.bytes(), limits);
        let host = format!("{app}.apps.test");
        let reply = secured.connect(&host).request("POST", "/", "", &body);
        let reply = reply.unwrap().is(200);
        assert!(
            reply.body == body,
            "{app}: {} bytes came back",
            reply.body.len()
        );
        let client = secured.authority.client();
        let mut connection = client.connect_http2(secured.address, &host).unwrap();
        let reply = connection.request("POST", "/", &[], &body);
        let reply = reply.unwrap().is(200);
        assert!(
            reply.body == body,
            "{app}: {} bytes came back over HTTP/2",
            reply.body.len()
        );
    }
}

#[test]
fn a_body_is_echoed_while_it_is_sent_over_tls() {
    let secured = Secured::start(&[&["echo.apps.test"]]);
    secured.platform.deploy("echo", &guest("echo"));
    let mut connection = secured.connect("echo.apps.test");
    let chunked = "transfer-encoding: chunked\r\n";
    connection.send_head("POST", "/", chunked).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    for word in ["one", "two", "three"] {
        connection.send_chunk(word.as_bytes()).unwrap();
        let mut got = Vec::new();
        while got.len() < word.len() {
            connection.chunk(&mut got).unwrap();
        }
        assert_eq!(got, word.as_bytes());
    }
}

#[test]
fn an_end_is_said_in_tls_and_a_reply_that_is_cut_has_none() {
    let secured = Secured::start(&[&["*.apps.test"]]);
    for app in ["hello", "trap"] {
        secured.platform.deploy(app, &guest(app));
    }
    let mut connection = secured.connect("hello.apps.test");
    let reply = connection.request("GET", "/", "connection: close\r\n", b"");
    reply.unwrap().is(200).says(HELLO);
    // The client takes an end that is not said for one that somebody on the way has made.
    assert_eq!(connection.rest().unwrap(), b"");

    let mut connection = secured.connect("trap.apps.test");
    let cut = connection.get("/middle").unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
}

#[test]
fn a_session_is_resumed() {
    let secured = Secured::configured("workers = 1", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    for version in [&TLS12, &TLS13] {
        let client = secured.authority.client_of(&[version]);
        for expected in [false, true, true] {
            let connection = secured.try_connect(&client, "hello.apps.test");
            let mut connection = connection.unwrap();
            assert_eq!(connection.stream().is_resumed(), expected);
            connection.get("/").unwrap().is(200).says(HELLO);
        }
        // One that names another host, or none, is another session.
        let client = client.unnamed();
        let connection = secured.try_connect(&client, "hello.apps.test");
        assert!(!connection.unwrap().stream().is_resumed());
    }
}

/// Counts connections that resume the client's session, each held until the end, so that it is known whose they are.
#[test]
fn a_session_is_resumed_by_whichever_worker_a_client_meets() {
    let secured = Secured::configured("workers = 4", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    for version in [&TLS12, &TLS13] {
        let client = secured.authority.client_of(&[version]);
        let mut held = Vec::new();
        for at in 0..40 {
            let connection = secured.try_connect(&client, "hello.apps.test");
            let mut connection = connection.unwrap();
            let resumed = connection.stream().is_resumed();
            assert_eq!(resumed, at > 0, "connection {at}");
            connection.get("/").unwrap().is(200).says(HELLO);
            held.push(connection);
        }
        let port = |connection: &Connection<Secure>| connection.address().port();
        let met = |worker: &u32| {
            let ports = clients(*worker);
            held.iter().any(|held| ports.contains(&port(held)))
        };
        let workers = secured.platform.workers();
        let met = workers.iter().filter(|worker| met(worker)).count();
        assert!(met > 1, "every connection met one worker of {workers:?}");
    }
}

#[test]
fn a_session_outlives_the_worker_that_it_began_with() {
    let secured = Secured::configured("workers = 1", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    for version in [&TLS12, &TLS13] {
        let client = secured.authority.client_of(&[version]);
        let connection = secured.try_connect(&client, "hello.apps.test");
        connection.unwrap().get("/").unwrap().is(200);
        let before = secured.platform.workers();
        secured.platform.signal(before[0], libc::SIGKILL);
        // What it accepts late would end with it, and use up what is resumed with.
        eventually("another takes its place", || {
            let now = secured.platform.workers();
            (now.len() == 1 && now != before).then_some(())
        });
        let connection = secured.try_connect(&client, "hello.apps.test");
        let mut connection = connection.unwrap();
        assert!(connection.stream().is_resumed());
        connection.get("/").unwrap().is(200).says(HELLO);
    }
}

#[test]
fn a_session_outlives_an_upgrade_and_no_restart() {
    let mut secured = Secured::configured("workers = 2", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let clients = [&TLS12, &TLS13].map(|version| secured.authority.client_of(&[version]));
    let check = |secured: &Secured, expected: bool| {
        for client in &clients {
            let connection = secured.try_connect(client, "hello.apps.test");
            let mut connection = connection.unwrap();
            assert_eq!(connection.stream().is_resumed(), expected);
            connection.get("/").unwrap().is(200).says(HELLO);
        }
    };
    check(&secured, false);
    for _ in 0..2 {
        let (_, leaving) = secured.platform.upgrade();
        leaving.ended();
        check(&secured, true);
    }
    // The keys are nowhere but in memory: to a platform that begins anew, tickets are none of its own.
    secured.platform.restart();
    secured.address = secured.platform.tls();
    check(&secured, false);
    check(&secured, true);
}

#[test]
fn a_session_is_resumed_after_the_certificate_was_replaced() {
    let secured = Secured::configured("workers = 1", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let client = secured.authority.client();
    let connection = secured.try_connect(&client, "hello.apps.test");
    connection.unwrap().get("/").unwrap().is(200);
    let newer = secured.renew(&["hello.apps.test"]);
    secured.comes_to_show("hello.apps.test", &newer);
    let connection = secured.try_connect(&client, "hello.apps.test");
    let mut connection = connection.unwrap();
    assert!(connection.stream().is_resumed());
    connection.get("/").unwrap().is(200).says(HELLO);
}

#[test]
fn a_certificate_that_was_replaced_serves_new_connections_while_old_ones_go_on() {
    let authority = Authority::new();
    let certificates = [
        authority.certify(&["hello.apps.test"]),
        authority.certify(&["other.apps.test"]),
    ];
    let secured = Secured::showing("", authority, &certificates);
    for app in ["hello", "other", "more"] {
        secured.platform.deploy(app, &guest("hello"));
    }
    let mut kept = secured.connect("hello.apps.test");
    let client = secured.authority.client();
    let kept_http2 = client.connect_http2(secured.address, "hello.apps.test");
    let mut kept_http2 = kept_http2.unwrap();
    let mut replace = |names: &[&str]| {
        let newer = secured.renew(names);
        eventually("the new certificate is shown", || {
            kept.get("/").unwrap().is(200).says(HELLO);
            kept_http2.get("/").unwrap().is(200).says(HELLO);
            let connection = secured.connect("hello.apps.test");
            connection.stream().was_shown(&newer).then_some(())
        });
        for _ in 0..3 {
            kept.get("/").unwrap().is(200).says(HELLO);
            kept_http2.get("/").unwrap().is(200).says(HELLO);
        }
        secured.shows("hello.apps.test", &newer);
        secured.shows("other.apps.test", &certificates[1]);
        newer
    };
    replace(&["hello.apps.test"]);
    // It may name other hosts than the one before.
    let newer = replace(&["hello.apps.test", "more.apps.test"]);
    secured.shows("more.apps.test", &newer);
    replace(&["hello.apps.test"]);
    let client = secured.authority.client();
    secured.refuses(&client, "more.apps.test", AlertDescription::AccessDenied);
}

#[test]
fn what_cannot_be_used_is_named_and_the_certificate_before_keeps_serving() {
    let authority = Authority::new();
    let ended = authority.certify_once(&["ended.test"]);
    let early = authority.certify_some_day(&["early.test"]);
    let other = authority.certify(&["other.test"]);
    let nameless = authority.certify(&["127.0.0.1"]);
    let large = "x".repeat(100 << 10);
    let both = |certificate: &'_ Certificate| {
        let Certificate { chain, key, .. } = certificate.clone();
        vec![("key", Some(key)), ("pem", Some(chain))]
    };
    let one = |file, text: &str| vec![(file, Some(text.to_owned()))];
    // What is written or removed, the file that is named, and why.
    let cases = [
        (both(&ended), "pem", "ended on 2020-01-01"),
        (both(&early), "pem", "begins on 3000-01-01"),
        (both(&nameless), "pem", "names no host"),
        (one("key", &other.key), "key", "is not that of"),
        (one("pem", &other.chain), "pem", "is not that of"),
        (one("pem", "garbage"), "pem", "holds no certificate"),
        (one("key", "garbage"), "key", "holds no private key"),
        (one("pem", ""), "pem", "holds no certificate"),
        (one("key", ""), "key", "holds no private key"),
        (one("pem", &large), "pem", "is larger than 64KiB"),
        (one("key", &large), "key", "is larger than 64KiB"),
        (vec![("pem", None)], "pem", "cannot be read"),
        (vec![("key", None)], "key", "cannot be read"),
    ];
    // Each happens to a certificate of its own, for a host that the default one answers for.
    let hosts: Vec<String> = (0..cases.len())
        .map(|at| format!("host-{at}.test"))
        .collect();
    let certificates: Vec<_> = hosts
        .iter()
        .map(|host| authority.certify(&[host]))
        .collect();
    let config = "[node]\ndefault-host = 'hello.apps.test'";
    let secured = Secured::showing(config, authority, &certificates);
    secured.platform.deploy("hello", &guest("hello"));
    for (at, (changes, ..)) in cases.iter().enumerate() {
        for (file, text) in changes {
            let name = format!("{at}.{file}");
            match text {
                Some(text) => secured.write(&name, text),
                None => fs::remove_file(secured.file(&name)).unwrap(),
            }
        }
    }
    for (at, (_, file, why)) in cases.iter().enumerate() {
        let file = secured.file(&format!("{at}.{file}"));
        let file = format!("`{}`", file.display());
        eventually(&format!("the log says `{why}` of {file}"), || {
            let said = secured.platform.said();
            let parts = [&*file, why, "keeps serving"];
            let tells = |line: &str| parts.iter().all(|part| line.contains(part));
            said.lines().any(tells).then_some(())
        });
    }
    for (host, certificate) in hosts.iter().zip(&certificates) {
        secured.shows(host, certificate);
    }
    // Good ones afterwards are taken.
    let newer = hosts.iter().map(|host| secured.authority.certify(&[host]));
    let newer: Vec<_> = newer.collect();
    for (at, certificate) in newer.iter().enumerate() {
        secured.write(&format!("{at}.pem"), &certificate.chain);
        secured.write(&format!("{at}.key"), &certificate.key);
    }
    for (host, certificate) in hosts.iter().zip(&newer) {
        secured.comes_to_show(host, certificate);
        secured.shows(host, certificate);
    }
}

#[test]
fn hosts_that_a_new_certificate_leaves_without_one_are_named() {
    let secured = Secured::start(&[
        &["hello.apps.test", "shop.apps.test", "more.apps.test"],
        &["more.apps.test"],
    ]);
    secured.platform.deploy("shop", &guest("hello"));
    let newer = secured.renew(&["shop.apps.test", "new.apps.test"]);
    secured.comes_to_show("shop.apps.test", &newer);
    let said = eventually("the log warns of it", || {
        let said = secured.platform.said();
        let warns = |line: &&str| line.contains("warning") && line.contains("[[tls.certificate]]");
        said.lines().find(warns).map(str::to_owned)
    });
    assert!(said.contains(" names hello.apps.test any longer"), "{said}");
    let client = secured.authority.client();
    secured.refuses(&client, "hello.apps.test", AlertDescription::AccessDenied);
    // One that names what the one before did is taken without a word more.
    let newer = secured.renew(&["*.apps.test"]);
    secured.comes_to_show("shop.apps.test", &newer);
    let said = secured.platform.said();
    assert_eq!(said.matches("any longer").count(), 1, "{said}");
}

#[test]
fn a_file_that_never_ends_holds_up_nothing() {
    let secured = Secured::start(&[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let path = secured.file("0.pem");
    fs::remove_file(&path).unwrap();
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is whole and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let said = format!("`{}` is no file", path.display());
    eventually("the log says what it is", || {
        secured.platform.said().contains(&said).then_some(())
    });
    secured.platform.deploy("more", &guest("hello"));
    secured.connect("hello.apps.test");
    fs::remove_file(&path).unwrap();
    let newer = secured.renew(&["hello.apps.test"]);
    secured.comes_to_show("hello.apps.test", &newer);
}

/// All of them in one message would be more than a worker takes.
#[test]
fn many_large_certificates_reach_every_worker() {
    let authority = Authority::new();
    let noise = "\x01".repeat(60_000) + "\n";
    let certificates: Vec<Certificate> = (0..50)
        .map(|number| {
            let mut large = authority.certify(&[&format!("host-{number}.test")]);
            large.chain.insert_str(0, &noise);
            large
        })
        .collect();
    let config = "workers = 2\n[node]\ndefault-host = 'hello.apps.test'";
    let secured = Secured::showing(config, authority, &certificates);
    secured.platform.deploy("hello", &guest("hello"));
    for (number, certificate) in certificates.iter().enumerate() {
        secured.shows(&format!("host-{number}.test"), certificate);
    }
    let newer = secured.renew(&["host-0.test"]);
    secured.comes_to_show("host-0.test", &newer);
    let restarts = secured.platform.metric("midge_worker_restarts_total");
    assert_eq!(restarts, 0.0);
}

#[test]
fn a_key_may_be_of_any_usual_kind_and_lie_in_one_file_with_its_certificate() {
    let authority = Authority::new();
    let mut certificates = KEYS.map(|kind| authority.certify_by(&["hello.apps.test"], kind));
    for certificate in &mut certificates {
        let Certificate { chain, key, .. } = &*certificate;
        let together = format!("subject = hello\n{key}\nissuer = between\n{chain}");
        let together = together.replace('\n', "\r\n");
        (certificate.chain, certificate.key) = (together.clone(), together);
    }
    let [first, others @ ..] = &certificates;
    let secured = Secured::showing("", authority, std::slice::from_ref(first));
    secured.platform.deploy("hello", &guest("hello"));
    secured.shows("hello.apps.test", first);
    for other in others {
        secured.write("0.pem", &other.chain);
        secured.write("0.key", &other.key);
        secured.comes_to_show("hello.apps.test", other);
        secured.shows("hello.apps.test", other);
    }
}

#[test]
fn a_certificate_may_lie_behind_a_link_that_is_moved() {
    let secured = Secured::start(&[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    // The folders of one renewal each, as `certbot` keeps them.
    for number in ["1", "2"] {
        let newer = secured.authority.certify(&["hello.apps.test"]);
        let folder = secured.file(&format!("renewal-{number}"));
        fs::create_dir(&folder).unwrap();
        for (name, text) in [("0.pem", &newer.chain), ("0.key", &newer.key)] {
            fs::write(folder.join(name), text).unwrap();
            let link = secured.file("link");
            std::os::unix::fs::symlink(folder.join(name), &link).unwrap();
            fs::rename(link, secured.file(name)).unwrap();
        }
        secured.comes_to_show("hello.apps.test", &newer);
    }
}

/// What `midge up` says of a configuration, which lies beside these files in a folder of its own, and how it exits.
#[track_caller]
fn refused(platform: &Platform, config: &str, files: &[(String, String)], parts: &[&str]) {
    let folder = tempfile::tempdir_in(platform.folder()).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("other.toml");
    let config = format!("listen = ['127.0.0.1:0']\napi = '127.0.0.1:0'\n{config}");
    fs::write(&path, config).unwrap();
    let data = folder.path().join("data");
    let ran = platform.run_alone(&[
        "up",
        "--no-profile",
        "--data",
        data.to_str().unwrap(),
        "--config",
        path.to_str().unwrap(),
    ]);
    let mut ran = ran.exits(2).says("hint:");
    for part in parts {
        let named = folder.path().join(part);
        ran = match part.rsplit_once('.') {
            Some((_, "pem" | "key")) => ran.says(&format!("`{}`", named.display())),
            _ => ran.says(part),
        };
    }
}

#[test]
fn a_start_with_a_certificate_that_cannot_be_used_is_refused() {
    let platform = Platform::start();
    let authority = Authority::new();
    let good = authority.certify(&["shop.test"]);
    let other = authority.certify(&["shop.test"]);
    let check = |chain: &str, key: &str, parts: &[&str]| {
        let certificate = Certificate {
            chain: chain.to_owned(),
            key: key.to_owned(),
            ..good.clone()
        };
        // The second of two, each of which must be good.
        let shown = [("good", &good), ("shop", &certificate)];
        let settings = settings("", &shown);
        // An empty text stands for no file.
        let mut files = settings.files;
        files.retain(|(_, text)| !text.is_empty());
        refused(&platform, &settings.config, &files, parts);
    };
    let Certificate { chain, key, .. } = &good;
    check("", key, &["shop.pem", "cannot be read"]);
    check(chain, "", &["shop.key", "cannot be read"]);
    check("garbage", key, &["shop.pem", "holds no certificate"]);
    check(chain, "garbage", &["shop.key", "holds no private key"]);
    check(chain, chain, &["shop.key", "holds no private key"]);
    check(&other.chain, key, &["shop.pem", "shop.key", "is not that"]);
    let large = "x".repeat(100 << 10);
    check(&large, key, &["shop.pem", "is larger than 64KiB"]);
    check(chain, &large, &["shop.key", "is larger than 64KiB"]);
    let nameless = authority.certify(&["127.0.0.1"]);
    let parts = ["shop.pem", "names no host"];
    check(&nameless.chain, &nameless.key, &parts);
    // Nothing that is a certificate, and a key of no known kind.
    let nothing = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    check(nothing, key, &["shop.pem", "cannot be read"]);
    let cut = &chain[..chain.len() / 4];
    check(cut, key, &["shop.pem"]);
    let nothing = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    check(chain, nothing, &["shop.key", "cannot be used"]);
}

#[test]
fn an_address_without_a_certificate_is_refused_and_the_reverse() {
    let platform = Platform::start();
    let listen = "[tls]\nlisten = ['127.0.0.1:0']";
    let parts = ["`tls.listen`", "`[[tls.certificate]]`"];
    refused(&platform, listen, &[], &parts);
    let certificate = Authority::new().certify(&["shop.test"]);
    let settings = settings("", &[("shop", &certificate)]);
    let config = settings.config.replace("listen = ['127.0.0.1:0']\n", "");
    assert_ne!(config, settings.config);
    refused(&platform, &config, &settings.files, &parts);
    let config = settings.config.replace("key = ", "keys = ");
    refused(&platform, &config, &settings.files, &["keys"]);
}

#[test]
fn a_busy_port_for_tls_is_named() {
    let platform = Platform::start();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let certificate = Authority::new().certify(&["shop.test"]);
    let settings = settings("", &[("shop", &certificate)]);
    for (name, text) in &settings.files {
        fs::write(platform.folder().join(name), text).unwrap();
    }
    let config = settings.config.replace("127.0.0.1:0", &address);
    let path = platform.folder().join("busy.toml");
    fs::write(&path, config).unwrap();
    let other = platform.folder().join("other");
    let ran = platform.run_alone(&[
        "up",
        "--no-profile",
        "--listen",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
        "--data",
        other.to_str().unwrap(),
        "--config",
        path.to_str().unwrap(),
    ]);
    ran.exits(1).says(&address).says("hint:");
}

#[test]
fn a_certificate_that_has_ended_is_only_warned_of_at_a_start() {
    let authority = Authority::new();
    let certificates = [
        authority.certify_once(&["hello.apps.test"]),
        authority.certify(&["other.apps.test"]),
    ];
    let secured = Secured::showing("", authority, &certificates);
    for app in ["hello", "other"] {
        secured.platform.deploy(app, &guest("hello"));
    }
    let said = secured.platform.said();
    let path = format!("`{}`", secured.file("0.pem").display());
    for part in [&*path, "ended on 2020-01-01"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    // Its clients judge it; others are served.
    let client = secured.authority.client();
    let Err(error) = secured.try_connect(&client, "hello.apps.test") else {
        panic!("the client takes a certificate that has ended");
    };
    let judged = matches!(
        reason(&error),
        Some(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. }
        ))
    );
    assert!(judged, "{error}");
    secured.shows("other.apps.test", &certificates[1]);
    let newer = secured.renew(&["hello.apps.test"]);
    eventually("the new certificate is shown", || {
        let connection = secured.try_connect(&client, "hello.apps.test");
        connection.is_ok().then_some(())
    });
    secured.shows("hello.apps.test", &newer);
}

#[test]
fn certificates_are_read_again_at_every_start() {
    let mut secured = Secured::start(&[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    secured.platform.stop();
    let newer = secured.renew(&["hello.apps.test"]);
    secured.platform.start_again();
    secured.address = secured.platform.tls();
    secured.shows("hello.apps.test", &newer);
}

#[test]
fn a_worker_that_takes_anothers_place_shows_the_newest_certificate() {
    let secured = Secured::configured("workers = 1", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let newer = secured.renew(&["hello.apps.test"]);
    secured.comes_to_show("hello.apps.test", &newer);
    let before = secured.platform.workers();
    secured.platform.signal(before[0], libc::SIGKILL);
    eventually("another serves in its place", || {
        let connection = secured.try_connect(&secured.authority.client(), "hello.apps.test");
        connection.and_then(|mut served| served.get("/")).ok()
    });
    assert_ne!(secured.platform.workers(), before);
    secured.shows("hello.apps.test", &newer);
}

#[test]
fn an_upgrade_is_noticed_by_no_client_over_tls() {
    let mut secured = Secured::configured("workers = 2", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let (address, client) = (secured.address, secured.authority.client());
    let stop = AtomicBool::new(false);
    // Each request over a connection of its own, by either protocol.
    let knock = || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            let connection = client.connect(address, "hello.apps.test");
            let mut connection = connection.expect("no connection is refused");
            let reply = connection.request("GET", "/", "connection: close\r\n", b"");
            reply.expect("it is served").is(200).says(HELLO);
            let connection = client.connect_http2(address, "hello.apps.test");
            let mut connection = connection.expect("no connection is refused");
            connection
                .get("/")
                .expect("it is served")
                .is(200)
                .says(HELLO);
            count += 1;
        }
        count
    };
    std::thread::scope(|scope| {
        let knocking = [(); 2].map(|()| scope.spawn(knock));
        for _ in 0..2 {
            let (_, leaving) = secured.platform.upgrade();
            leaving.ended();
        }
        stop.store(true, Ordering::Relaxed);
        for knocking in knocking {
            let count: u64 = knocking.join().expect("every request went well");
            assert!(count > 0, "nobody knocked");
        }
    });
    assert_eq!(secured.platform.tls(), address);
    // Whoever came last follows the files as well.
    let newer = secured.renew(&["hello.apps.test"]);
    secured.comes_to_show("hello.apps.test", &newer);
    secured.shows("hello.apps.test", &newer);
}

#[test]
fn an_upgrade_cannot_change_where_tls_is_spoken() {
    let secured = Secured::start(&[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let path = secured.file("midge.config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("127.0.0.1:0", "127.0.0.2:0")).unwrap();
    let data = secured.platform.data();
    let ran = secured
        .platform
        .run_alone(&["upgrade", "--data", data.to_str().unwrap()]);
    ran.exits(1).says("`tls.listen` is `127.0.0.2:0` by now");
    let mut connection = secured.connect("hello.apps.test");
    connection.get("/").unwrap().is(200).says(HELLO);
}

#[test]
fn every_worker_serves_over_tls() {
    let secured = Secured::configured("workers = 2", &[&["hello.apps.test"]]);
    secured.platform.deploy("hello", &guest("hello"));
    let workers = secured.platform.workers();
    assert_eq!(workers.len(), 2);
    // The system spreads connections over them as it likes.
    let mut connections = Vec::new();
    eventually("each worker has a connection", || {
        let mut connection = secured.connect("hello.apps.test");
        connection.get("/").unwrap().is(200).says(HELLO);
        connections.push(connection);
        let serves = |worker: &u32| {
            let ports = clients(*worker);
            let mut of_these = connections.iter();
            of_these.any(|connection| ports.contains(&connection.address().port()))
        };
        workers.iter().all(serves).then_some(())
    });
}
