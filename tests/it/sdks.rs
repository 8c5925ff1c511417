//! Binaries that are built with published SDKs run unchanged.

use tests::{Guest, Platform, Reply};

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

/// Nothing grants outgoing HTTP yet: each SDK's own client hears that the request is denied.
#[test]
fn clients_of_sdks_are_denied_in_their_own_words() {
    let platform = Platform::start();
    let others = [
        ("wstd", Guest::Component("wstd_app")),
        ("wasip3", Guest::Service("sdk")),
    ];
    for (app, guest) in SPIN.into_iter().chain(others) {
        platform.deploy(app, &guest.bytes());
        for (method, path, body) in [
            ("GET", "/fetch?http://origin.example/", &b""[..]),
            ("POST", "/post?http://origin.example/", b"a body"),
        ] {
            ask(&platform, app, method, path, body)
                .is(500)
                .mentions("HttpRequestDenied");
        }
    }
}

/// Midge does not lend Spin's variables yet: a guest that imports them is refused by their name.
#[test]
fn variables_of_spins_sdks_are_refused_by_name() {
    let platform = Platform::start();
    for (guest, interface) in [
        (
            Guest::Module("spin5_variables"),
            "fermyon:spin/variables@2.0.0",
        ),
        (
            Guest::Component("spin5_variables"),
            "fermyon:spin/variables@2.0.0",
        ),
        (
            Guest::Service("spin7_variables"),
            "spin:variables/variables@3.0.0",
        ),
    ] {
        let refused = platform
            .api
            .publish_or_refuse(&tests::bare("shop"), &guest.bytes());
        assert_eq!(refused.reply.status(), 422, "{}", refused.json);
        assert!(refused.reply.text().contains(interface), "{}", refused.json);
    }
}
