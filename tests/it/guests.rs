//! Every kind of guest answers.

use tests::{Guest, Platform, skip};

const HELLO: &str = "Hello, Midge!\n";

#[test]
fn every_kind_of_guest_answers() {
    let platform = Platform::start();
    for (app, guest, kind) in [
        ("component", Guest::Component("hello"), "http-component"),
        (
            "module",
            Guest::CommandModule("hello-command"),
            "command-module",
        ),
        (
            "command",
            Guest::CommandComponent("hello-command"),
            "command-component",
        ),
        ("embedded", Guest::Module("hello"), "http-component"),
    ] {
        platform.deploy(app, &guest.bytes());
        platform.get(app, "/").is(200).says(HELLO);
        let versions = platform
            .api
            .get(&format!("tenants/default/apps/{app}/versions"))
            .is(200);
        assert!(
            versions
                .reply
                .text()
                .contains(&format!("\"kind\":\"{kind}\"")),
            "{app}: {}",
            versions.json
        );
    }
}

#[test]
fn guests_of_another_toolchain_answer() {
    if !Guest::InC("hello-module").path().exists() {
        return skip(
            "guests in C",
            "no C compiler for WebAssembly could be installed here",
        );
    }
    let platform = Platform::start();
    platform.deploy("handler", &Guest::InC("hello-module").bytes());
    platform.get("handler", "/").is(200).says("Hello from C!\n");
    platform.deploy("command", &Guest::InC("hello-command").bytes());
    platform
        .get("command", "/there")
        .is(200)
        .says("Hello from C! You asked for /there\n");
}

#[test]
fn each_request_meets_a_fresh_instance() {
    let platform = Platform::start();
    platform.deploy("fresh", &tests::guest("count"));
    let mut connection = platform.connect("fresh");
    for _ in 0..50 {
        connection.get("/").unwrap().is(200).says("1\n");
    }
}

#[test]
fn a_command_speaks_cgi() {
    let platform = Platform::start();
    for guest in [
        Guest::CommandModule("cgi-command"),
        Guest::CommandComponent("cgi-command"),
    ] {
        platform.deploy("cgi", &guest.bytes());
        let reply = platform.post("cgi", "/a/b%20c?x=1&y", b"12345").is(200);
        for line in [
            "GATEWAY_INTERFACE=CGI/1.1\n",
            "REQUEST_METHOD=POST\n",
            "QUERY_STRING=x=1&y\n",
            "CONTENT_LENGTH=5\n",
            "SERVER_NAME=cgi.localhost\n",
            &format!("SERVER_PORT={}\n", platform.listen.port()),
            "SERVER_PROTOCOL=HTTP/1.1\n",
            "REMOTE_ADDR=127.0.0.1\n",
        ] {
            assert!(
                reply.text().contains(line),
                "{guest:?}: `{line}` is not in:\n{}",
                reply.text()
            );
        }
        let reply = platform
            .get("cgi", "/status/404")
            .is(404)
            .says("status 404\n");
        assert_eq!(reply.header("x-kind"), Some("command"));
        let reply = platform.get("cgi", "/location").is(302);
        assert_eq!(reply.header("location"), Some("http://example.com/"));
        platform.get("cgi", "/exit/3").is(500).fails("trap");
        platform.get("cgi", "/silent").is(500).fails("no-response");
        platform
            .get("cgi", "/garbage")
            .is(502)
            .fails("bad-response");
        platform.get("cgi", "/spin").is(503).fails("cpu-limit");
    }
}

#[test]
fn a_guest_sees_what_its_manifest_grants_and_nothing_else() {
    let platform = Platform::start();
    let environment = Guest::Component("environment").bytes();
    platform.deploy("bare", &environment);
    platform.get("bare", "/").is(200).says("");
    let grants = "[grant]\nenv = { LOG = 'info', EMPTY = '' }\nconfig = { currency = 'EUR' }";
    platform.deploy_with("shop", &environment, grants);
    platform
        .get("shop", "/")
        .is(200)
        .says("config currency=EUR\nenv EMPTY=\nenv LOG=info\n");
}

#[test]
fn what_was_not_granted_is_denied_by_the_interfaces_own_error() {
    let platform = Platform::start();
    let deployed = platform.deploy("reach", &Guest::Component("outbound").bytes());
    assert_eq!(deployed.live.nodes, 1);
    let reply = platform.get("reach", "/").is(200);
    let text = reply.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("HttpRequestDenied"), "{text}");
    for line in ["tcp ", "name ", "file "] {
        let said = lines.iter().find(|said| said.starts_with(line));
        assert!(said.is_some_and(|said| !said.contains("made")), "{text}");
    }
    assert!(text.contains("access-denied"), "{text}");
    assert!(text.contains("permanent-resolver-failure"), "{text}");
}
