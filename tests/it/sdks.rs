//! Binaries that are built with published SDKs run unchanged.

use tests::names::{Names, Says};
use tests::origin::Origin;
use tests::tls::Authority;
use tests::{Guest, Platform, Reply, Settings};

const GRANT: &str = "grant = { kv = ['default', 'carts'] }";

/// Those of Spin's SDKs: the one for WASI 0.2 as its templates build it and as a component, and the one for WASI 0.3.
const SPIN: [(&str, Guest); 3] = [
    ("spin5-module", Guest::Module("spin5")),
    ("spin5", Guest::Component("spin5")),
    ("spin7", Guest::Service("spin7")),
];

#[track_caller]
fn ask(platform: &Platform, app: &str, method: &str, path: &str, body: &[u8]) -> Reply {
    let reply = platform.connect(app).request(method, path, "", body);
    reply.unwrap_or_else(|error| panic!("{method} {app} {path}: {error}\n{}", platform.said()))
}

#[test]
fn spins_sdks_read_and_write_the_same_stores() {
    let platform = Platform::start();
    for (app, guest) in SPIN {
        platform.deploy_with(app, &guest.bytes(), GRANT);
        let ask = |method: &str, path: &str, body: &[u8]| ask(&platform, app, method, path, body);
        ask("GET", "/kv/default/greeting", b"").is(404);
        ask("HEAD", "/kv/default/greeting", b"").is(404);
        ask("PUT", "/kv/default/greeting", b"Hello").is(204);
        ask("PUT", "/kv/default/other", b"\0\xff").is(204);
        ask("GET", "/kv/default/greeting", b"")
            .is(200)
            .says("Hello");
        ask("HEAD", "/kv/default/greeting", b"").is(200);
        assert_eq!(ask("GET", "/kv/default/other", b"").is(200).body, b"\0\xff");
        ask("GET", "/keys/default", b"")
            .is(200)
            .says("greeting\nother");
        // Another store of the same app holds nothing of it.
        ask("GET", "/keys/carts", b"").is(200).says("");
        ask("DELETE", "/kv/default/other", b"").is(204);
        ask("DELETE", "/kv/default/other", b"").is(204);
        ask("GET", "/keys/default", b"").is(200).says("greeting");
        // A store that there is not, and one that is another's by name.
        for store in ["nowhere", "DEFAULT", "..%2fdefault"] {
            ask("GET", &format!("/kv/{store}/greeting"), b"")
                .is(500)
                .mentions("AccessDenied");
        }
    }
    // What one SDK writes, the next reads.
    let writer = "spin5";
    ask(&platform, writer, "PUT", "/kv/carts/from", b"another SDK").is(204);
    for (_, guest) in SPIN {
        platform.deploy_with(writer, &guest.bytes(), GRANT);
        ask(&platform, writer, "GET", "/kv/carts/from", b"")
            .is(200)
            .says("another SDK");
    }
    // Without the grant, each hears the interface's own word.
    for (app, guest) in SPIN {
        platform.deploy(app, &guest.bytes());
        for (method, path) in [
            ("GET", "/kv/default/greeting"),
            ("PUT", "/kv/default/greeting"),
            ("DELETE", "/kv/default/greeting"),
            ("GET", "/keys/default"),
        ] {
            ask(&platform, app, method, path, b"")
                .is(500)
                .mentions("AccessDenied");
        }
    }
}

/// All of those that have a client of their own.
fn clients() -> impl Iterator<Item = (&'static str, Guest)> {
    let others = [
        ("wstd", Guest::Component("wstd_app")),
        ("wasip3", Guest::Service("sdk")),
    ];
    SPIN.into_iter().chain(others)
}

#[test]
fn clients_of_sdks_are_answered_by_real_servers() {
    let authority = Authority::new();
    let secure = Origin::secure(&authority.certify(&["origin.test"]), &["h2", "http/1.1"]);
    let origin = Origin::start();
    let names = Names::start(|_, _| Says::Addresses(vec!["127.0.0.1".parse().unwrap()], 60));
    let platform = Platform::start_with(Settings {
        config: format!(
            "[egress]\nallow = ['127.0.0.1/32']\nnameservers = ['{}']\nroots = 'none'\nca = 'ca.pem'",
            names.address
        ),
        files: vec![("ca.pem".to_owned(), authority.root())],
        ..Settings::default()
    });
    let (plain, port) = (format!("http://{}", origin.address), secure.address.port());
    let secure = format!("https://origin.test:{port}");
    let granted =
        format!("grant = {{ http = ['{plain}', '{secure}', 'http://echo.app.internal'] }}");
    platform.deploy("echo", &tests::guest("echo"));
    let body = vec![b'b'; 200 << 10];
    for (app, guest) in clients() {
        platform.deploy_with(app, &guest.bytes(), &granted);
        let fetch = |url: &str| ask(&platform, app, "GET", &format!("/fetch?{url}"), b"");
        let post = |url: &str| ask(&platform, app, "POST", &format!("/post?{url}"), &body);
        fetch(&format!("{plain}/echo?q=1"))
            .is(200)
            .mentions("GET /echo?q=1 HTTP/1.1");
        fetch(&format!("{secure}/echo"))
            .is(200)
            .mentions("HTTP/2.0");
        fetch(&format!("{plain}/status/418")).is(418);
        assert_eq!(
            fetch(&format!("{secure}/bytes/1000000")).is(200).body.len(),
            1_000_000
        );
        post(&format!("{plain}/upload"))
            .is(200)
            .says("204800 bytes");
        post(&format!("{secure}/upload"))
            .is(200)
            .says("204800 bytes");
        // Few enough bytes that who does not read meanwhile has room for them.
        let path = "/post?http://echo.app.internal/";
        ask(&platform, app, "POST", path, b"within")
            .is(200)
            .says("within");
        fetch("http://other.test/")
            .is(500)
            .mentions("HttpRequestDenied");
        fetch(&format!("{plain}0/")).is(500).mentions("Http");
        // Nothing that was not granted.
        platform.deploy(app, &guest.bytes());
        fetch(&plain).is(500).mentions("HttpRequestDenied");
        post(&plain).is(500).mentions("HttpRequestDenied");
    }
}

#[test]
fn spins_sdks_read_variables_from_configuration_and_secrets() {
    let platform = Platform::start();
    let path = "/v1/tenants/default/secrets/stripe-key";
    let kind = "content-type: application/octet-stream\r\n";
    platform.api.send("PUT", path, kind, b"sk_live").is(201);
    for (app, guest) in [
        ("module", Guest::Module("spin5_variables")),
        ("spin5", Guest::Component("spin5_variables")),
        ("spin7", Guest::Service("spin7_variables")),
    ] {
        let granted = "grant = { config = { currency = 'EUR' }, secrets = ['stripe-key'] }";
        platform.deploy_with(app, &guest.bytes(), granted);
        let get = |name: &str| ask(&platform, app, "GET", &format!("/variable/{name}"), b"");
        get("currency").is(200).says("EUR");
        get("stripe_key").is(200).says("sk_live");
        get("other").is(500).mentions("Undefined");
        get("Not-A-Name").is(500).mentions("InvalidName");
        platform.deploy(app, &guest.bytes());
        get("stripe_key").is(500).mentions("Undefined");
    }
}
