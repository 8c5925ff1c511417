//! What an operator and an app's owner see: metrics, log lines, status, the description of the API.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tests::{Platform, guest};

/// The lines of an app's log, oldest first.
fn logs(platform: &Platform, app: &str) -> Vec<Value> {
    let text = platform
        .api
        .get(&format!("tenants/default/apps/{app}/logs?tail=1000"))
        .is(200)
        .reply
        .text();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn metrics_count_requests_by_app_and_outcome() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.deploy("trap", &guest("trap"));
    for _ in 0..10 {
        platform.get("hello", "/").is(200);
    }
    platform.get("trap", "/").is(500);
    platform.get("nobody", "/").is(404);
    let series = |app: &str, outcome: &str| {
        format!("midge_requests_total{{tenant=\"default\",app=\"{app}\",outcome=\"{outcome}\"}}")
    };
    let value = |name: &str| {
        let text = platform.api.get("/metrics").is(200).reply.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        line.unwrap_or(0.0)
    };
    for (name, expected) in [
        (series("hello", "ok"), 10.0),
        (series("trap", "trap"), 1.0),
        (
            "midge_unrouted_requests_total{outcome=\"not-found\"}".to_owned(),
            1.0,
        ),
        // What met no app has no invocation to time.
        ("midge_request_duration_seconds_count".to_owned(), 11.0),
        ("midge_instantiate_duration_seconds_count".to_owned(), 11.0),
    ] {
        tests::eventually(&format!("{name} is {expected}"), || {
            (value(&name) == expected).then_some(())
        });
    }
    assert!(platform.metric("midge_cold_starts_total") >= 2.0);
    assert!(platform.metric("midge_resident_apps") >= 2.0);
    assert_eq!(platform.metric("midge_worker_restarts_total"), 0.0);
    assert!(platform.metric("midge_app_cpu_seconds_total") > 0.0);
}

#[test]
fn each_request_leaves_one_structured_line() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let reply = platform.get("hello", "/path?secret=1").is(200);
    let id = reply.header("midge-request-id").unwrap().to_owned();
    let line = tests::eventually("the line is there", || {
        logs(&platform, "hello")
            .into_iter()
            .find(|line| line["request"] == id.as_str() && line["stream"] == "request")
    });
    assert_eq!(
        (&line["tenant"], &line["app"], &line["version"]),
        (&"default".into(), &"hello".into(), &1.into())
    );
    assert_eq!(
        line["digest"],
        model::Digest::of(&guest("hello")).to_string()
    );
    let done = &line["done"];
    assert_eq!(
        (&done["method"], &done["path"], &done["status"]),
        (&"GET".into(), &"/path".into(), &200.into())
    );
    assert_eq!(
        (&done["outcome"], &done["client"]),
        (&"ok".into(), &"127.0.0.1".into())
    );
    assert!(done["usage"]["cpu_us"].as_u64().unwrap() > 0, "{line}");
    assert!(
        done["usage"]["memory_bytes"].as_u64().unwrap() > 0,
        "{line}"
    );
    assert_eq!(done["usage"]["bytes_out"], 14);
}

#[test]
fn what_a_guest_prints_is_its_owners_to_read() {
    let platform = Platform::start();
    platform.deploy("print", &guest("print"));
    platform.get("print", "/").is(200);
    let find = |stream: &str, part: &str| {
        tests::eventually(part, || {
            logs(&platform, "print").into_iter().find(|line| {
                line["stream"] == stream && line["text"].as_str().unwrap_or_default().contains(part)
            })
        })
    };
    find("stdout", "to standard output");
    let line = find("stderr", "to standard error");
    assert!(!line["text"].as_str().unwrap().contains('\u{1b}'), "{line}");
}

#[test]
fn a_guest_that_prints_without_end_is_bounded() {
    let platform = Platform::start();
    platform.deploy_with("print", &guest("print"), "[limits]\ncpu = '5s'");
    platform.get("print", "/20000").is(200);
    let lines = tests::eventually("the request is over", || {
        let lines = logs(&platform, "print");
        lines
            .iter()
            .any(|line| line["stream"] == "request")
            .then_some(lines)
    });
    let bytes: usize = lines
        .iter()
        .filter_map(|line| line["text"].as_str())
        .map(str::len)
        .sum();
    assert!(
        bytes < 70 << 10,
        "{bytes} bytes of a guest's output were kept"
    );
}

#[test]
fn why_a_guest_failed_is_in_its_log() {
    let platform = Platform::start();
    platform.deploy("trap", &guest("trap"));
    platform.get("trap", "/").is(500);
    tests::eventually("the reason is there", || {
        let lines = logs(&platform, "trap");
        let printed = lines.iter().any(|line| {
            line["text"]
                .as_str()
                .unwrap_or_default()
                .contains("this guest panics on purpose")
        });
        let told = lines
            .iter()
            .any(|line| line["stream"] == "platform" && line["text"] != "");
        (printed && told).then_some(())
    });
}

/// D21
#[test]
fn the_owners_log_of_a_trap_names_the_functions_that_led_to_it() {
    let platform = Platform::start();
    let parts = "(func $deepest (unreachable)) (func $between (call $deepest))";
    let wasm = crate::siege::command("", parts, "(call $between)");
    platform.deploy("trap", &wasm);
    let told = platform.get("trap", "/").is(500).text();
    assert!(!told.contains("deepest"), "{told}");
    let log = tests::eventually("the reason is there", || {
        let lines = logs(&platform, "trap");
        let texts = lines.iter().filter_map(|line| line["text"].as_str());
        let log: String = texts.map(|text| format!("{text}\n")).collect();
        log.contains("backtrace").then_some(log)
    });
    let place = |name: &str| log.find(name).unwrap_or_else(|| panic!("{name}: {log}"));
    assert!(place("!deepest") < place("!between"), "{log}");
    assert!(log.contains("`unreachable` instruction"), "{log}");
}

#[test]
fn a_log_can_be_followed() {
    let platform = Platform::start();
    platform.deploy("print", &guest("print"));
    let mut follower = platform.command(&["logs", "print", "--follow"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    platform.get("print", "/").is(200);
    assert!(lines.any(|line| line.unwrap().contains("to standard output")));
    platform.get("print", "/").is(200);
    assert!(lines.any(|line| line.unwrap().contains("to standard output")));
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn status_tells_what_is_served_where() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let status = platform.api.get("status").is(200).json;
    assert_eq!(
        (&status["apps"], &status["domain"]),
        (&1.into(), &"localhost".into())
    );
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(status["nodes"][0]["generation"], status["generation"]);
}

#[test]
fn the_api_describes_itself_as_it_is_committed() {
    let platform = Platform::start();
    let served = platform.api.get("openapi.json").is(200).json;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/control/openapi.json");
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(served, committed);
    for path in [
        "/v1/status",
        "/v1/tokens",
        "/v1/tenants/{tenant}/apps/{app}/deployments",
    ] {
        assert!(committed["paths"][path].is_object(), "{path}");
    }
}

#[test]
fn the_api_refuses_what_it_does_not_know() {
    let platform = Platform::start();
    let api = &platform.api;
    assert_eq!(api.get("nowhere").is(404).json["status"], 404);
    assert_eq!(api.ask("PATCH", "status", None).reply.status(), 405);
    let send = |body: &[u8]| api.send("POST", "tokens", "content-type: application/json\r\n", body);
    for body in [
        &b"{"[..],
        b"",
        b"[]",
        b"{\"scope\":{\"verb\":\"read\"},\"unknown\":1}",
        b"\xff\xfe",
        &b"[".repeat(100_000),
    ] {
        let answer = send(body);
        assert!(
            matches!(answer.reply.status(), 400 | 415 | 422),
            "{}",
            answer.reply.text()
        );
        assert_eq!(
            answer.reply.header("content-type"),
            Some("application/problem+json")
        );
    }
    let large = send(&vec![b' '; 2 << 20]);
    assert_eq!(large.reply.status(), 413, "{}", large.reply.text());
}
