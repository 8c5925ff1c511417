//! What an operator and an app's owner see: metrics, log lines, status, the description of the API.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use model::{Fault, Outcome};
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
fn a_log_is_chosen_by_status_and_time_and_followed_so() {
    // Lines of several workers come in no certain order.
    let platform = Platform::configured("workers = 1");
    platform.deploy("status", &guest("status"));
    for status in [200, 404, 500, 503] {
        platform.get("status", &format!("/{status}")).is(status);
    }
    tests::eventually("every request has its line", || {
        (logs(&platform, "status").len() == 4).then_some(())
    });
    let status = |line: &str| -> u64 {
        let line: Value = serde_json::from_str(line).unwrap();
        line["done"]["status"].as_u64().unwrap()
    };
    let check = |arguments: &str, expected: &[u64]| {
        let mut all = vec!["logs", "status", "--json"];
        all.extend(arguments.split(' '));
        let ran = platform.run(&all).exits(0);
        let found: Vec<u64> = ran.out.lines().map(status).collect();
        assert_eq!(found, expected, "{arguments}");
    };
    check("--status 5xx --since 10m", &[500, 503]);
    check("--status 4xx,503", &[404, 503]);
    check("--status 5xx --tail 1", &[503]);
    check("--since 2026-01-01T00:00:00Z", &[200, 404, 500, 503]);
    check("--since 2199-01-01T00:00:00Z", &[]);
    let query = "tenants/default/apps/status/logs?status=5xx&stream=stdout";
    let answer = platform.api.get(query);
    answer.refuses(400, "query-malformed", "have a status");

    let followed = "logs status -f --status 5xx --since 10m --json";
    let mut follower = platform.command(&followed.split(' ').collect::<Vec<_>>());
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| status(&line.unwrap()));
    assert_eq!([lines.next(), lines.next()], [Some(500), Some(503)]);
    platform.get("status", "/404").is(404);
    platform.get("status", "/501").is(501);
    assert_eq!(lines.next(), Some(501));
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

/// The words of a text that begin with `midge_`.
fn metrics_named(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(move |c| !is_part(c));
    words.filter(|word| word.starts_with("midge_"))
}

#[test]
fn the_board_and_the_page_name_metrics_and_outcomes_that_there_are() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.get("hello", "/").is(200);
    platform.get("nobody", "/").is(404);
    tests::eventually("both are counted", || {
        let counted = |name| platform.metric(name) == 1.0;
        let all = ["midge_requests_total", "midge_unrouted_requests_total"];
        all.into_iter().all(counted).then_some(())
    });
    let metrics = platform.api.get("/metrics").is(200).reply.text();
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let samples: Vec<_> = samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |page: &str| std::fs::read_to_string(docs.join(page)).unwrap();

    let board: Value = serde_json::from_str(&read("grafana/midge.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let expressions: Vec<_> = targets.map(|it| it["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 20, "{expressions:?}");
    for expression in &expressions {
        for name in metrics_named(expression) {
            assert!(samples.contains(&name), "`{name}` in `{expression}`");
        }
        let (_, outcomes) = expression.split_once("outcome=~\"").unwrap_or_default();
        let outcomes = outcomes.split('"').next().unwrap().split('|');
        for code in outcomes.filter(|code| !code.is_empty()) {
            let known = Outcome::ALL.iter().any(|outcome| outcome.code() == code);
            assert!(known, "`{code}` in `{expression}`");
        }
    }
    let variables = board["templating"]["list"].to_string();
    let page = read("guide/operating.md");
    for name in metrics_named(&variables).chain(metrics_named(&page)) {
        // A histogram is named without what its samples end with.
        let count = format!("{name}_count");
        assert!(
            samples.contains(&name) || samples.contains(&&*count),
            "`{name}`"
        );
    }
}

#[test]
fn the_page_of_errors_has_every_outcome_with_its_status_and_fault() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/errors.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table = page.split("| `midge-error` |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    for row in &rows {
        assert_eq!(row.len(), 5, "{row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
    let described: Vec<_> = rows.iter().map(|row| (row[0], row[1], row[2])).collect();
    let failures = Outcome::ALL
        .iter()
        .filter(|outcome| outcome.fault().is_some());
    for outcome in failures.clone() {
        let code = format!("`{outcome}`");
        let status = match outcome {
            // Nobody is there to be told.
            Outcome::ClientGone => format!("({})", outcome.status()),
            _ => outcome.status().to_string(),
        };
        let fault = match outcome.fault().unwrap() {
            Fault::Caller => "caller",
            Fault::App => "app",
            Fault::Platform => "platform",
        };
        assert!(
            described.contains(&(&*code, &*status, fault)),
            "{code} {status} {fault}"
        );
    }
    assert_eq!(described.len(), failures.count());
}
