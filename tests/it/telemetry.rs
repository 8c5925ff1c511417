//! Traces, metrics and log lines as a collector gets them, and what a guest learns of its trace.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use model::LogRecord;
use tests::collector::{Collector, attribute, hex, said};
use tests::{Guest, Platform, Settings, eventually, guest};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A platform that sends to `collector`, with more lines below `[telemetry]`.
fn watched(collector: &Collector, more: &str) -> Platform {
    let url = collector.url();
    Platform::configured(&format!("[telemetry]\notlp = \"{url}\"\n{more}"))
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

/// What the guest `headers` says of a header of its request; several are joined.
fn seen(platform: &Platform, lines: &str, name: &str) -> String {
    let mut connection = platform.connect("headers");
    let reply = connection.request("GET", "/", lines, b"").unwrap().is(200);
    let text = reply.text();
    let lines = text.lines();
    let values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    values.collect::<Vec<_>>().join(" and ")
}

/// The lines of an app's log that have gone to its owner.
fn records(platform: &Platform, app: &str) -> Vec<LogRecord> {
    let path = format!("tenants/default/apps/{app}/logs");
    let text = platform.api.get(&path).is(200).reply.text();
    let lines = text.lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn a_request_is_followed_from_its_traceparent_to_its_guests_calls() {
    let collector = Collector::start();
    let platform = watched(&collector, "traces = 0.0");
    let grant = "[grant]\nconfig = { color = 'blue' }";
    platform.deploy_with("environment", &guest("environment"), grant);
    let before = now_ns();
    let asked = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\n");
    let mut connection = platform.connect("environment");
    let reply = connection
        .request("GET", "/there?secret=1", &asked, b"")
        .unwrap()
        .is(200)
        .mentions("config color=blue\n");
    let request = reply.header("midge-request-id").unwrap();

    let spans = collector.trace(TRACE);
    let named = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        let first = found.next().unwrap_or_else(|| panic!("{name}: {spans:?}"));
        assert!(found.next().is_none(), "{name} is there twice");
        first
    };
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    let all = [
        "GET",
        "routing",
        "load",
        "instantiate",
        "guest",
        "config.get-all",
    ];
    assert_eq!(names, all);
    let whole = named("GET");
    assert_eq!(hex(&whole.parent_span_id), SPAN);
    // A server's, the others internal.
    assert_eq!((whole.kind, named("guest").kind), (2, 1));
    for (child, parent) in [
        ("routing", "GET"),
        ("load", "GET"),
        ("instantiate", "GET"),
        ("guest", "GET"),
        ("config.get-all", "guest"),
    ] {
        let (child, parent) = (named(child), named(parent));
        assert_eq!(child.parent_span_id, parent.span_id, "{}", child.name);
        assert!(parent.start_time_unix_nano <= child.start_time_unix_nano);
        assert!(child.start_time_unix_nano <= child.end_time_unix_nano);
        assert!(child.end_time_unix_nano <= parent.end_time_unix_nano);
    }
    for (earlier, later) in [
        ("routing", "load"),
        ("load", "instantiate"),
        ("instantiate", "guest"),
    ] {
        let (earlier, later) = (named(earlier), named(later));
        assert!(earlier.end_time_unix_nano <= later.start_time_unix_nano);
    }
    assert!(before <= whole.start_time_unix_nano && whole.end_time_unix_nano <= now_ns());
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/there"),
        ("url.scheme", "http"),
        ("server.address", "environment.localhost"),
        ("client.address", "127.0.0.1"),
        ("faas.coldstart", "true"),
        ("midge.tenant", "default"),
        ("midge.app", "environment"),
        ("midge.version", "1"),
        ("midge.outcome", "ok"),
        ("midge.request.id", request),
    ] {
        let found = attribute(&whole.attributes, key);
        assert_eq!(found.as_deref(), Some(value), "{key}");
    }
    for span in &spans {
        assert_eq!((&*span.trace_state, &span.status), ("a=1", &None));
        let ids = spans.iter().filter(|other| other.span_id == span.span_id);
        assert_eq!(ids.count(), 1);
        assert!(!format!("{span:?}").contains("secret"));
    }
    let resource = collector.received().resources.remove(0);
    let service = attribute(&resource.attributes, "service.name");
    assert_eq!(service.as_deref(), Some("midge"));

    let line = eventually("the request's line is there", || {
        let mut lines = records(&platform, "environment").into_iter();
        lines.find(|line| line.request == request && line.done.is_some())
    });
    assert_eq!(line.trace.unwrap().to_string(), TRACE);
}

#[test]
fn each_request_of_a_reused_instance_has_the_guests_span_that_it_was_told_of() {
    let collector = Collector::start();
    let url = collector.url();
    let platform = Platform::configured(&format!(
        "workers = 1\n[telemetry]\notlp = \"{url}\"\ntraces = 0.0"
    ));
    let wasm = Guest::Service("count").bytes();
    platform.deploy_with("count", &wasm, "[reuse]\nidle = '10s'");
    let mut connection = platform.connect("count");
    for number in 1..=3 {
        let trace = TRACE.replace("4bf9", &format!("000{number}"));
        let asked = format!("traceparent: 00-{trace}-{SPAN}-01\r\n");
        let reply = connection.request("GET", "/told", &asked, b"");
        let told = reply.unwrap().is(200).text();
        let spans = collector.trace(&trace);
        let named = |name: &str| spans.iter().filter(|span| span.name == name).count();
        assert_eq!(named("instantiate"), usize::from(number == 1), "{number}");
        assert_eq!(named("guest"), 1, "{number}");
        let guest = spans.iter().find(|span| span.name == "guest").unwrap();
        assert_eq!(told, format!("00-{trace}-{}-01", hex(&guest.span_id)));
        let whole = spans.iter().find(|span| span.name == "GET").unwrap();
        assert_eq!(guest.parent_span_id, whole.span_id);
        assert!(whole.start_time_unix_nano <= guest.start_time_unix_nano);
        assert!(guest.end_time_unix_nano <= whole.end_time_unix_nano);
    }
}

#[test]
fn a_failure_is_in_its_spans_and_a_request_that_ran_nothing_has_none_of_a_guest() {
    let collector = Collector::start();
    let platform = watched(&collector, "traces = 1.0");
    platform.deploy("trap", &guest("trap"));
    platform.get("trap", "/").is(500);
    let spans = collector.eventually("the failure is there", |received| {
        let found = received.spans.iter().any(|span| span.name == "GET");
        found.then(|| received.spans.clone())
    });
    let span = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    assert!(span("GET").parent_span_id.is_empty());
    let kind = attribute(&span("GET").attributes, "error.type");
    assert_eq!(kind.as_deref(), Some("trap"));
    for name in ["GET", "guest"] {
        let status = span(name).status.as_ref().unwrap();
        assert_eq!((status.code, &*status.message), (2, "trap"), "{name}");
    }
    assert_eq!(span("routing").status, None);

    // Fails until the version is in quarantine: then nothing is run.
    eventually("it is in quarantine", || {
        let reply = platform.get("trap", "/");
        (reply.header("midge-error") == Some("quarantined")).then_some(())
    });
    collector.eventually("a request that ran nothing is there", |received| {
        let quarantined = received.spans.iter().find(|span| {
            attribute(&span.attributes, "midge.outcome").as_deref() == Some("quarantined")
        })?;
        let whole = received.spans.iter();
        let whole: Vec<&str> = whole
            .filter(|span| span.trace_id == quarantined.trace_id)
            .map(|span| &*span.name)
            .collect();
        assert_eq!(whole, ["GET", "routing"]);
        Some(())
    });
}

#[test]
fn a_guest_learns_its_trace_where_there_are_traces_and_else_what_the_client_said() {
    let (parent, invalid) = (format!("00-{TRACE}-{SPAN}-01"), "00-what-ever");
    let header = |value: &str| format!("traceparent: {value}\r\ntracestate: a=1\r\n");

    let platform = Platform::start();
    platform.deploy("headers", &guest("headers"));
    for said in [&*parent, invalid] {
        assert_eq!(seen(&platform, &header(said), "traceparent"), said);
        assert_eq!(seen(&platform, &header(said), "tracestate"), "a=1");
    }
    assert_eq!(seen(&platform, "", "traceparent"), "");
    let lines = eventually("every request has its line", || {
        let lines = records(&platform, "headers");
        (lines.len() == 5).then_some(lines)
    });
    assert!(lines.iter().all(|line| line.trace.is_none()));
    drop(platform);

    let collector = Collector::start();
    let platform = watched(&collector, "traces = 0.0");
    platform.deploy("headers", &guest("headers"));
    let told = seen(&platform, &header(&parent), "traceparent");
    let spans = collector.trace(TRACE);
    let its_own = spans.iter().find(|span| span.name == "guest").unwrap();
    let expected = format!("00-{TRACE}-{}-01", hex(&its_own.span_id));
    assert_eq!(told, expected);
    assert_eq!(seen(&platform, &header(&parent), "tracestate"), "a=1");
    // Not recorded here, as the client had it.
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let told = seen(&platform, &header(&unsampled), "traceparent");
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"));
    assert!(!told.contains(SPAN), "{told}");
    // A new trace, and the state goes with the old one.
    let twice = header(&parent) + &header(&parent);
    for said in [header(invalid), twice, String::new()] {
        let told = seen(&platform, &said, "traceparent");
        assert!(!told.contains(TRACE) && told.ends_with("-00"), "{told}");
        assert_eq!(told.len(), 55);
        assert_eq!(seen(&platform, &said, "tracestate"), "");
    }
}

#[test]
fn a_client_cannot_have_more_recorded_than_the_bound() {
    let collector = Collector::start();
    let platform = Platform::start_with(Settings {
        config: format!("[telemetry]\notlp = \"{}\"\ntraces = 0.0", collector.url()),
        flags: vec!["--workers".into(), "1".into()],
        ..Settings::default()
    });
    platform.deploy("headers", &guest("headers"));
    let mut connection = platform.connect("headers");
    let asked = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let mut refused = 0;
    // Many more than the bound of a second, however fast they are: one is refused before they end, or the machine
    // takes over a minute for them.
    for _ in 0..20_000 {
        let reply = connection.request("GET", "/", &asked, b"").unwrap().is(200);
        let text = reply.text();
        assert!(text.contains(TRACE), "{text}");
        if text.contains("-00\n") {
            refused += 1;
        }
        if refused == 50 {
            return;
        }
    }
    panic!("all were recorded");
}

#[test]
fn metrics_reach_the_collector_as_they_stand_at_the_api() {
    let collector = Collector::start();
    let platform = watched(&collector, "metrics-every = '200ms'");
    platform.deploy("hello", &guest("hello"));
    platform.deploy("trap", &guest("trap"));
    for _ in 0..10 {
        platform.get("hello", "/").is(200);
    }
    platform.get("trap", "/").is(500);
    platform.get("nobody", "/").is(404);
    let of = |app: &'static str, outcome: &'static str| {
        vec![("tenant", "default"), ("app", app), ("outcome", outcome)]
    };
    for (name, attributes, expected) in [
        ("midge_requests", of("hello", "ok"), 10.0),
        ("midge_requests", of("trap", "trap"), 1.0),
        (
            "midge_unrouted_requests",
            vec![("outcome", "not-found")],
            1.0,
        ),
        ("midge_catalog_apps", vec![], 2.0),
        ("midge_app_sent", of("hello", "")[..2].to_vec(), 140.0),
        ("midge_telemetry_dropped", vec![("kind", "metrics")], 0.0),
    ] {
        collector.eventually(&format!("{name} {attributes:?}"), |received| {
            (received.value(name, &attributes) == Some(expected)).then_some(())
        });
    }
    // Every name of Prometheus' is there, and its other way round.
    let text = platform.api.get("/metrics").is(200).reply.text();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !name.starts_with("midge_control_"));
    let mut names: Vec<String> = names
        .map(|name| name.trim_end_matches("_seconds").trim_end_matches("_bytes"))
        .map(str::to_owned)
        .collect();
    names.sort();
    collector.eventually("each is there", |received| {
        let mut found: Vec<String> = received.metrics.iter().map(|m| m.name.clone()).collect();
        found.sort();
        found.dedup();
        (found == names).then_some(())
    });
    assert!(collector.received().spans.is_empty() && collector.received().logs.is_empty());
}

#[test]
fn log_lines_reach_the_collector_with_their_trace() {
    let collector = Collector::start();
    let platform = watched(&collector, "traces = 0.0\nlogs = ['otlp']");
    platform.deploy("print", &guest("print"));
    platform.deploy("trap", &guest("trap"));
    let asked = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let ask = |app: &str| {
        let mut connection = platform.connect(app);
        let reply = connection.request("GET", "/", &asked, b"").unwrap();
        reply.header("midge-request-id").unwrap().to_owned()
    };
    let (printed, trapped) = (ask("print"), ask("trap"));
    let find = |part: &str, request: &str| {
        collector.eventually(part, |received| {
            let mut logs = received.logs.iter();
            let found = logs.find(|log| {
                let of = attribute(&log.attributes, "midge.request.id");
                let body = said(log.body.as_ref()).unwrap_or_default();
                of.as_deref() == Some(request) && body.contains(part)
            });
            found.cloned()
        })
    };
    for (part, request, severity, app) in [
        ("GET print.localhost/ 200 ok", &printed, "INFO", "print"),
        ("to standard output", &printed, "INFO", "print"),
        ("to standard error", &printed, "WARN", "print"),
        ("GET trap.localhost/ 500 trap", &trapped, "ERROR", "trap"),
    ] {
        let log = find(part, request);
        assert_eq!(log.severity_text, severity, "{part}");
        assert_eq!(hex(&log.trace_id), TRACE, "{part}");
        let of = attribute(&log.attributes, "midge.app");
        assert_eq!(of.as_deref(), Some(app));
        assert!(log.time_unix_nano > 0 && log.time_unix_nano <= now_ns());
    }
    // Nobody wants files.
    assert!(!platform.data().join("node/logs").exists());
    assert!(!records(&platform, "print").is_empty());
}

#[test]
fn a_collector_that_is_gone_or_refuses_costs_records_and_no_request() {
    let collector = Collector::start();
    let (address, more) = (
        collector.address,
        "traces = 1.0\nlogs = ['otlp']\nmetrics-every = '100ms'",
    );
    // What will never be right is not sent again.
    collector.answer(400);
    let mut platform = watched(&collector, more);
    platform.deploy("hello", &guest("hello"));
    let dropped = |platform: &Platform, kind: &str| {
        platform.metric(&format!("midge_telemetry_dropped_total{{kind=\"{kind}\"}}"))
    };
    for kind in ["traces", "logs", "metrics"] {
        eventually(&format!("{kind} are dropped"), || {
            platform.get("hello", "/").is(200);
            (dropped(&platform, kind) > 0.0).then_some(())
        });
    }
    assert!(platform.said().contains("takes no traces"));

    // One that never answers, and then none at all.
    collector.answer(0);
    for _ in 0..100 {
        platform.get("hello", "/").is(200);
    }
    drop(collector);
    let before = dropped(&platform, "metrics");
    eventually("metrics find nobody", || {
        platform.get("hello", "/").is(200);
        (dropped(&platform, "metrics") > before).then_some(())
    });

    // Back again, it gets what is new, and what was kept for it.
    let collector = Collector::at(address);
    let asked = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let mut connection = platform.connect("hello");
    connection.request("GET", "/", &asked, b"").unwrap().is(200);
    assert!(!collector.trace(TRACE).is_empty());
    eventually("an operator is told", || {
        platform.said().contains("takes traces again").then_some(())
    });
    // A platform that stops waits for one that does not answer, and not for ever.
    collector.answer(0);
    platform.get("hello", "/").is(200);
    platform.stop();
}

#[test]
fn what_waits_is_sent_before_the_end() {
    let collector = Collector::start();
    let mut platform = watched(
        &collector,
        "traces = 0.0\nlogs = ['file', 'otlp']\nmetrics-every = '1h'",
    );
    platform.deploy("hello", &guest("hello"));
    let asked = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let mut connection = platform.connect("hello");
    connection.request("GET", "/", &asked, b"").unwrap().is(200);
    drop(connection);
    platform.stop();
    let received = collector.received();
    let traced = received.spans.iter().filter(|span| span.name == "GET");
    assert_eq!((traced.count(), received.logs.len()), (1, 1));
    let requests = [("app", "hello"), ("outcome", "ok")];
    assert_eq!(received.value("midge_requests", &requests), Some(1.0));
}

#[test]
fn log_lines_go_to_standard_output_as_json_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stdout");
    File::create(&file).unwrap();
    let mut platform = Platform::start_with(Settings {
        config: "[telemetry]\nlogs = ['stdout', 'file']".into(),
        stdout: Some(file.clone()),
        ..Settings::default()
    });
    platform.deploy("print", &guest("print"));
    platform.get("print", "/").is(200);
    platform.stop();
    let text = fs::read_to_string(&file).unwrap();
    let lines = text.lines();
    let lines: Vec<LogRecord> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines.iter().any(|line| line.done.is_some()));
    let kept = fs::read_to_string(platform.data().join("node/logs/requests-1.ndjson")).unwrap();
    assert_eq!(kept, text);
    assert!(platform.said().contains("ready in"), "people are told");
}

#[test]
fn a_reader_of_standard_output_that_does_not_read_costs_lines_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("stdout");
    let name = std::ffi::CString::new(pipe.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is a string of C's.
    let made = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    // Both ends, so that opening it waits for nobody, and nobody reads.
    let _held = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut platform = Platform::start_with(Settings {
        config: "[telemetry]\nlogs = ['stdout']".into(),
        stdout: Some(pipe),
        ..Settings::default()
    });
    platform.deploy("hello", &guest("hello"));
    let mut connection = platform.connect("hello");
    eventually("lines are dropped", || {
        for _ in 0..500 {
            connection.get("/").unwrap().is(200);
        }
        let dropped = platform.metric("midge_log_lines_dropped_total{by=\"stdout\"}");
        (dropped > 0.0).then_some(())
    });
    platform.get("hello", "/").is(200);
    drop(connection);
    platform.stop();
}
