//! Services of `wasi:http` 0.3: what they may that others may not, and what holds for them as for all. Their bodies,
//! trailers, early replies and disconnects are tested with those of 0.2 (`bodies`, `http2`).

use std::time::Duration;

use model::Outcome;
use tests::{Connection, Guest, Platform, eventually, guest, manifest_of};

fn service(name: &'static str) -> Vec<u8> {
    Guest::Service(name).bytes()
}

/// Waits for a line of the app's log that holds `text`.
fn logged(platform: &Platform, app: &str, text: &str) {
    let path = format!("tenants/default/apps/{app}/logs");
    eventually(&format!("`{app}` logs `{text}`"), || {
        let logs = platform.api.get(&path).reply.text();
        logs.contains(text).then_some(())
    });
}

#[test]
fn what_an_upload_is_is_said_before_and_after_it_is_deployed() {
    let platform = Platform::start();
    let path = Guest::Service("hello").path();
    let inspected = platform.run_alone(&["inspect", path.to_str().unwrap()]);
    inspected.exits(0).says("`wasi:http` 0.3");
    platform.deploy("hello", &service("hello"));
    platform.get("hello", "/").is(200).says("Hello, Midge!\n");
    let versions = platform.api.get("tenants/default/apps/hello/versions");
    let text = versions.reply.text();
    assert!(text.contains("\"http-service\""), "{text}");
}

#[test]
fn each_request_has_an_instance_of_its_own() {
    let platform = Platform::start();
    platform.deploy("count", &service("count"));
    for _ in 0..20 {
        platform.get("count", "/").is(200).says("1");
    }
}

#[test]
fn a_guest_works_on_after_its_reply_and_hears_what_became_of_it() {
    let platform = Platform::start();
    platform.deploy("afterwards", &service("afterwards"));
    platform.get("afterwards", "/50").is(200).says("for now");
    logged(&platform, "afterwards", "afterwards: Ok(())");
}

#[test]
fn work_after_a_reply_is_within_the_limits() {
    let platform = Platform::start();
    platform.deploy("burn", &service("burn"));
    let reply = platform.get("burn", "/after/100000000").is(200);
    assert_eq!(reply.text(), "to be burnt\n");
    logged(&platform, "burn", "\"cpu-limit\"");
    platform.deploy_with("slow", &service("afterwards"), "[limits]\nwall = '300ms'");
    platform.get("slow", "/60000").is(200).says("for now");
    logged(&platform, "slow", "\"wall-limit\"");
    eventually("no instance is left", || {
        (platform.metric("midge_live_instances") == 0.0).then_some(())
    });
}

/// G27, G30, G31
#[test]
fn a_reply_of_a_service_is_framed_as_it_says_or_is_none() {
    let platform = Platform::start();
    platform.deploy("framing", &service("framing"));
    let get = |path: &str| platform.get("framing", path);
    get("/200/5?5").is(200).says("xxxxx");
    get("/200/5").is(200).says("xxxxx");
    get("/204/0").is(204).says("");
    get("/304/none").is(304).says("");
    get("/200/none").is(200).says("");
    for lengths in ["5&5", "5&6", "%2B5", "-1", "5,5", "0x5"] {
        get(&format!("/200/5?{lengths}"))
            .is(502)
            .fails("bad-response");
    }
    // Statuses that are none are not taken.
    for status in [0, 99, 101, 199, 600, 65_535] {
        get(&format!("/{status}/5")).is(200).says("xxxxx");
    }
    for path in ["/200/5?6", "/200/6?5", "/200/fail"] {
        let mut connection = platform.connect("framing");
        connection.send_head("GET", path, "").unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.status, 200, "{path}");
        let cut = connection.body("GET", &head, &mut Vec::new());
        assert!(cut.is_err(), "{path} is no whole reply");
    }
}

/// G22
#[test]
fn streams_futures_and_tasks_have_an_end() {
    let platform = Platform::configured("workers = 1");
    platform.deploy("hello", &guest("hello"));
    platform.deploy_with(
        "tasks",
        &service("tasks"),
        "[limits]\ncpu = '5s'\nmemory = '256MiB'",
    );
    let worker = platform.workers()[0];
    for what in ["streams", "futures", "tasks"] {
        let before = tests::anonymous_bytes(worker);
        let status = platform.get("tasks", &format!("/{what}")).status();
        assert!([500, 503].contains(&status), "{what}: {status}");
        let held = tests::anonymous_bytes(worker).saturating_sub(before);
        assert!(held < 64 << 20, "{what}: {held} bytes");
        platform.get("hello", "/").is(200);
    }
    assert_eq!(platform.workers(), [worker]);
}

/// G36
#[test]
fn a_service_reaches_no_one() {
    let platform = Platform::start();
    platform.deploy("outbound", &service("outbound"));
    let said = platform.get("outbound", "/").is(200).text();
    assert!(said.contains("HttpRequestDenied"), "{said}");
}

const REUSE: &str = "[reuse]\nidle = '10s'";

/// The numbers that so many requests, one after the other, are answered with.
fn numbers(platform: &Platform, app: &str, requests: usize) -> Vec<u64> {
    let mut connection = platform.connect(app);
    let mut number = || {
        let text = connection.get("/").unwrap().is(200).text();
        text.parse().unwrap()
    };
    (0..requests).map(|_| number()).collect()
}

#[test]
fn an_instance_answers_as_many_requests_as_its_app_asks_for() {
    let platform = Platform::configured("workers = 1");
    let reuse = "[reuse]\nrequests = 3\nidle = '10s'";
    platform.deploy_with("count", &service("count"), reuse);
    assert_eq!(numbers(&platform, "count", 7), [1, 2, 3, 1, 2, 3, 1]);
    logged(&platform, "count", "met 3");
}

#[test]
fn an_instance_is_never_another_apps_or_versions() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("one", &service("count"), REUSE);
    platform.deploy_with("two", &service("count"), REUSE);
    assert_eq!(numbers(&platform, "one", 3), [1, 2, 3]);
    assert_eq!(numbers(&platform, "two", 2), [1, 2]);
    platform.deploy_with("one", &service("count"), REUSE);
    assert_eq!(numbers(&platform, "one", 2), [1, 2]);
    assert_eq!(numbers(&platform, "two", 1), [3]);
}

#[test]
fn an_idle_instance_goes() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("count", &service("count"), "[reuse]\nidle = '100ms'");
    assert_eq!(numbers(&platform, "count", 2), [1, 2]);
    eventually("it has gone", || {
        std::thread::sleep(Duration::from_millis(300));
        (numbers(&platform, "count", 1) == [1]).then_some(())
    });
}

#[test]
fn idle_instances_make_way_for_others() {
    let platform = Platform::configured("workers = 1\n[node]\nslots = 4\ntenant-slots = 4");
    for app in ["a", "b", "c", "d"] {
        platform.deploy_with(app, &service("count"), REUSE);
        assert_eq!(numbers(&platform, app, 1), [1]);
    }
    platform.deploy("hello", &guest("hello"));
    platform.get("hello", "/").is(200);
}

/// Sends a request and does not wait for its reply.
fn begin(platform: &Platform, app: &str, path: &str) -> Connection {
    let mut connection = platform.connect(app);
    connection.send_head("GET", path, "").unwrap();
    connection
}

#[test]
fn an_instance_answers_several_requests_at_once() {
    let platform = Platform::configured("workers = 1");
    let reuse = "[reuse]\nconcurrent = 2\nidle = '10s'";
    platform.deploy_with("count", &service("count"), reuse);
    let mut waiting: Vec<_> = (0..3).map(|_| begin(&platform, "count", "/500")).collect();
    let mut numbers: Vec<_> = waiting
        .iter_mut()
        .map(|connection| connection.reply("GET").unwrap().is(200).text())
        .collect();
    numbers.sort();
    // Two shared one, the third had one of its own.
    assert_eq!(numbers, ["1", "1", "2"]);
}

#[test]
fn what_fails_in_an_instance_ends_it_and_all_that_it_answers() {
    let platform = Platform::configured("workers = 1");
    platform.deploy("hello", &guest("hello"));
    for (app, code, status) in [("trap", "trap", 500), ("spin", "cpu-limit", 503)] {
        platform.deploy_with(app, &service("count"), REUSE);
        assert_eq!(numbers(&platform, app, 1), [1]);
        let mut beside = begin(&platform, app, "/20000");
        logged(&platform, app, "met 2");
        let failed = platform.get(app, &format!("/{app}"));
        failed.is(status).fails(code);
        beside.reply("GET").unwrap().is(status).fails(code);
        platform.get("hello", "/").is(200);
        assert_eq!(numbers(&platform, app, 2), [1, 2]);
    }
}

#[test]
fn a_request_that_is_given_up_costs_its_instance_the_next() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("count", &service("count"), REUSE);
    assert_eq!(numbers(&platform, "count", 2), [1, 2]);
    let given_up = begin(&platform, "count", "/20000");
    logged(&platform, "count", "met 3");
    drop(given_up);
    logged(
        &platform,
        "count",
        &format!("\"{}\"", Outcome::ClientGone.code()),
    );
    assert_eq!(numbers(&platform, "count", 2), [1, 2]);
}

#[test]
fn a_request_that_takes_too_long_ends_in_time_and_no_other_with_it() {
    let platform = Platform::configured("workers = 1");
    let manifest = format!("[limits]\nwall = '2s'\n{REUSE}");
    platform.deploy_with("count", &service("count"), &manifest);
    let mut late = begin(&platform, "count", "/60000");
    std::thread::sleep(Duration::from_secs(1));
    let mut other = begin(&platform, "count", "/1300");
    late.reply("GET").unwrap().is(504).fails("wall-limit");
    logged(&platform, "count", "`limits.wall` in the manifest");
    other.reply("GET").unwrap().is(200).says("2");
    assert_eq!(numbers(&platform, "count", 1), [1]);
    let mut cut = begin(&platform, "count", "/late/60000");
    let head = cut.head().unwrap();
    assert_eq!(head.status, 200);
    assert!(cut.body("GET", &head, &mut Vec::new()).is_err());
}

/// How many requests of an app ended so.
fn ended(platform: &Platform, app: &str, outcome: Outcome) -> f64 {
    let outcome = outcome.code();
    platform.metric(&format!(
        "midge_requests_total{{tenant=\"default\",app=\"{app}\",outcome=\"{outcome}\"}}"
    ))
}

fn eventually_ended(platform: &Platform, app: &str, outcome: Outcome, requests: f64) {
    eventually(&format!("{requests} end with `{outcome}`"), || {
        (ended(platform, app, outcome) == requests).then_some(())
    });
}

fn eventually_no_instance(platform: &Platform) {
    eventually("no instance is left", || {
        (platform.metric("midge_live_instances") == 0.0).then_some(())
    });
}

/// Waits until an app's instances have met so many requests in all.
fn met(platform: &Platform, app: &str, requests: usize) {
    let path = format!("tenants/default/apps/{app}/logs");
    eventually(&format!("`{app}` has met {requests}"), || {
        let logs = platform.api.get(&path).reply.text();
        (logs.matches("met ").count() == requests).then_some(())
    });
}

/// Of a wall time that no test waits for.
const PATIENT: &str = "[limits]\nwall = '5m'\n[reuse]\nidle = '10s'";

#[test]
fn who_leaves_holds_no_instance() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("count", &service("count"), PATIENT);
    let given_up: Vec<_> = (0..20)
        .map(|_| begin(&platform, "count", "/250000"))
        .collect();
    met(&platform, "count", 20);
    eventually("they are live", || {
        (platform.metric("midge_live_instances") > 0.0).then_some(())
    });
    drop(given_up);
    eventually_no_instance(&platform);
    eventually_ended(&platform, "count", Outcome::ClientGone, 20.0);
    // Another one is not disturbed, and nothing is left when it is through.
    let mut other = begin(&platform, "count", "/1000");
    let given_up = begin(&platform, "count", "/250000");
    met(&platform, "count", 22);
    drop(given_up);
    eventually_ended(&platform, "count", Outcome::ClientGone, 21.0);
    other.reply("GET").unwrap().is(200);
    eventually_no_instance(&platform);
}

#[test]
fn who_leaves_amid_a_reply_is_not_the_apps_failure() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("endless", &service("endless"), REUSE);
    for requests in 1..=20 {
        let mut connection = begin(&platform, "endless", "/");
        assert_eq!(connection.head().unwrap().status, 200);
        connection.chunk(&mut Vec::new()).unwrap();
        drop(connection);
        eventually_ended(
            &platform,
            "endless",
            Outcome::ClientGone,
            f64::from(requests),
        );
    }
    assert_eq!(ended(&platform, "endless", Outcome::BadResponse), 0.0);
}

#[test]
fn who_has_all_that_was_promised_has_not_left() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("count", &service("count"), REUSE);
    platform.get("count", "/hang/300").is(200).says("for now");
    eventually_ended(&platform, "count", Outcome::Ok, 1.0);
    assert_eq!(ended(&platform, "count", Outcome::ClientGone), 0.0);
}

#[test]
fn an_upload_that_breaks_is_its_clients_failure_though_the_guest_hands_it_on() {
    let platform = Platform::configured("workers = 1");
    for (app, manifest) in [("fresh", ""), ("reused", REUSE)] {
        platform.deploy_with(app, &service("echoed"), manifest);
        let mut malformed = platform.connect(app);
        malformed
            .send_head("POST", "/", "transfer-encoding: chunked\r\n")
            .unwrap();
        malformed.send(b"3\r\nabc\r\nZZ\r\n").unwrap();
        malformed.rest_or_reset().unwrap();
        eventually_ended(&platform, app, Outcome::BadRequest, 1.0);
        let mut short = platform.connect(app);
        short
            .send_head("POST", "/", "content-length: 7\r\n")
            .unwrap();
        short.send(b"abc").unwrap();
        short.finish().unwrap();
        short.rest_or_reset().unwrap();
        eventually_ended(&platform, app, Outcome::ClientGone, 1.0);
        assert_eq!(ended(&platform, app, Outcome::BadResponse), 0.0, "{app}");
    }
}

#[test]
fn what_a_request_does_after_its_reply_is_counted_as_its_own() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("count", &service("count"), PATIENT);
    let beside = begin(&platform, "count", "/250000");
    met(&platform, "count", 1);
    platform.get("count", "/after/100").is(200).says("2");
    // It is through though the other one is not.
    eventually_ended(&platform, "count", Outcome::Ok, 1.0);
    drop(beside);
    eventually_ended(&platform, "count", Outcome::ClientGone, 1.0);
    platform.get("count", "/trap-after").is(200).says("1");
    eventually_ended(&platform, "count", Outcome::Trap, 1.0);
    logged(&platform, "count", "unreachable");
    platform.get("count", "/spin-after").is(200).says("1");
    eventually_ended(&platform, "count", Outcome::CpuLimit, 1.0);
    logged(&platform, "count", "`limits.cpu` in the manifest");
    let used = platform.metric("midge_app_cpu_seconds_total{tenant=\"default\",app=\"count\"}");
    assert!(used >= 0.05, "{used} s: its limit is 50 ms");
    eventually("who always fails after its reply is in quarantine", || {
        let reply = platform.get("count", "/trap-after");
        (reply.header("midge-error") == Some("quarantined")).then_some(())
    });
}

#[test]
fn each_request_is_over_in_time_however_many_follow() {
    let platform = Platform::configured("workers = 1");
    let manifest = format!("[limits]\nwall = '1s'\n{REUSE}");
    for (app, method, path) in [
        ("head", "HEAD", "/hang/60000"),
        ("left", "GET", "/hang/60000"),
        ("after", "GET", "/after/60000"),
    ] {
        platform.deploy_with(app, &service("count"), &manifest);
        let mut connection = platform.connect(app);
        let reply = connection.request(method, path, "", b"");
        reply.unwrap().is(200);
        let mut traffic = platform.connect(app);
        eventually(&format!("{method} {path} is over"), || {
            traffic.get("/").unwrap().is(200);
            (ended(&platform, app, Outcome::WallLimit) == 1.0).then_some(())
        });
    }
}

#[test]
fn the_time_to_make_an_instance_is_counted_once_for_it() {
    let platform = Platform::configured("workers = 1");
    platform.deploy_with("count", &service("count"), REUSE);
    assert_eq!(numbers(&platform, "count", 10).last(), Some(&10));
    eventually_ended(&platform, "count", Outcome::Ok, 10.0);
    let made = platform.metric("midge_instantiate_duration_seconds_count");
    assert_eq!(made, 1.0);
}

#[test]
fn compressing_a_reply_is_charged_to_its_request_alone() {
    let platform = Platform::configured("workers = 1");
    let manifest = format!("[reply]\ncompress = ['br']\n{PATIENT}");
    platform.deploy_with("count", &service("count"), &manifest);
    let mut beside = begin(&platform, "count", "/3000");
    met(&platform, "count", 1);
    let mut connection = platform.connect("count");
    let accepts = "accept-encoding: br\r\n";
    let cut = connection.request("GET", "/noise/64", accepts, b"");
    assert!(cut.is_err(), "all of it was compressed within 50 ms");
    beside.reply("GET").unwrap().is(200).says("1");
    eventually_ended(&platform, "count", Outcome::CpuLimit, 1.0);
    eventually_ended(&platform, "count", Outcome::Ok, 1.0);
    eventually_no_instance(&platform);
}

#[test]
fn only_services_may_be_reused() {
    let platform = Platform::start();
    let manifest = manifest_of("hello", "[reuse]");
    let answer = platform.api.publish_or_refuse(&manifest, &guest("hello"));
    answer.refuses(422, "reuse-refused", "services of `wasi:http` 0.3");
}

/// A service in the text form, whose core module is `$m`: its `handle` takes a request's handle and returns what
/// becomes of its task, and so does its `callback`, which takes an event. `builtins` are what else it is made with.
fn by_hand(module: &str, builtins: &str, with: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.3.0" (instance $types
                (export "request" (type (sub resource)))
                (export "response" (type (sub resource)))
                (type $dns (record (field "rcode" (option string)) (field "info-code" (option u16))))
                (export "DNS-error-payload" (type $dns-error (eq $dns)))
                (type $alert (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
                (export "TLS-alert-received-payload" (type $tls-alert (eq $alert)))
                (type $size (record (field "field-name" (option string)) (field "field-size" (option u32))))
                (export "field-size-payload" (type $field-size (eq $size)))
                (type $code (variant
                    (case "DNS-timeout") (case "DNS-error" $dns-error) (case "destination-not-found")
                    (case "destination-unavailable") (case "destination-IP-prohibited")
                    (case "destination-IP-unroutable") (case "connection-refused") (case "connection-terminated")
                    (case "connection-timeout") (case "connection-read-timeout") (case "connection-write-timeout")
                    (case "connection-limit-reached") (case "TLS-protocol-error") (case "TLS-certificate-error")
                    (case "TLS-alert-received" $tls-alert) (case "HTTP-request-denied")
                    (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64))
                    (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid")
                    (case "HTTP-request-URI-too-long") (case "HTTP-request-header-section-size" (option u32))
                    (case "HTTP-request-header-size" (option $field-size))
                    (case "HTTP-request-trailer-section-size" (option u32))
                    (case "HTTP-request-trailer-size" $field-size) (case "HTTP-response-incomplete")
                    (case "HTTP-response-header-section-size" (option u32))
                    (case "HTTP-response-header-size" $field-size) (case "HTTP-response-body-size" (option u64))
                    (case "HTTP-response-trailer-section-size" (option u32))
                    (case "HTTP-response-trailer-size" $field-size)
                    (case "HTTP-response-transfer-coding" (option string))
                    (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout")
                    (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
                    (case "configuration-error") (case "internal-error" (option string))))
                (export "error-code" (type (eq $code)))))
            (alias export $types "request" (type $request))
            (alias export $types "response" (type $response))
            (alias export $types "error-code" (type $error))
            {builtins}
            (core module $m {module} (memory (export "memory") 1))
            (core instance $i (instantiate $m {with}))
            (func $handle async (param "request" (own $request)) (result (result (own $response) (error $error)))
                (canon lift (core func $i "handle") async
                    (memory (core memory $i "memory")) (callback (core func $i "callback"))))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/handler@0.3.0" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

/// A core module whose handler and callback have these bodies.
fn bodies(handle: &str, callback: &str) -> String {
    format!(
        r#"(func (export "handle") (param i32) (result i32) {handle})
           (func (export "callback") (param i32 i32 i32) (result i32) {callback})"#
    )
}

/// G51
#[test]
fn a_callback_of_a_wrong_type_is_refused_and_a_wrong_word_of_one_is_a_trap() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let two = r#"(func (export "handle") (param i32) (result i32) (i32.const 0))
        (func (export "callback") (param i32 i32) (result i32) (i32.const 0))"#;
    let none = r#"(func (export "handle") (param i32) (result i32) (i32.const 0))
        (func (export "callback") (param i32 i32 i32))"#;
    for module in [two, none] {
        let answer = platform
            .api
            .publish_or_refuse(&manifest_of("wrong", ""), &by_hand(module, "", ""));
        answer.refuses(422, "invalid-wasm", "callback");
    }
    // Done without an answer; a word that is none; a set to wait for that there is not; to yield, then no word at all.
    let cases = [
        ("(i32.const 0)", "unreachable"),
        ("(i32.const 15)", "unreachable"),
        ("(i32.const 0xffff2)", "unreachable"),
        ("(i32.const 1)", "(i32.const -1)"),
        ("unreachable", "unreachable"),
        ("(i32.const 1)", "unreachable"),
    ];
    for (handle, callback) in cases {
        platform.deploy("wrong", &by_hand(&bodies(handle, callback), "", ""));
        let status = platform.get("wrong", "/").status();
        assert_eq!(status, 500, "{handle} {callback}");
        platform.get("hello", "/").is(200);
    }
}

/// G53
#[test]
fn who_waits_before_its_handler_is_called_traps() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let builtins = "(core func $yield (canon thread.yield))";
    let with = r#"(with "host" (instance (export "yield" (func $yield))))"#;
    let import = r#"(import "host" "yield" (func $yield (result i32)))"#;
    let start = format!(
        r#"{import} (func $begin (drop (call $yield))) (start $begin) {}"#,
        bodies("unreachable", "unreachable")
    );
    platform.deploy("start", &by_hand(&start, builtins, with));
    let status = platform.get("start", "/").status();
    assert_eq!(status, 500);
    platform.get("hello", "/").is(200);
    // Within the handler it is let.
    let within = format!(
        "{import} {}",
        bodies("(drop (call $yield)) unreachable", "unreachable")
    );
    platform.deploy("within", &by_hand(&within, builtins, with));
    platform.get("within", "/").is(500).fails("trap");
}
