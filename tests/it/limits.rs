//! Limits of one invocation: what a guest that breaks one comes to, and that nobody else is harmed.

use std::sync::Arc;
use std::time::Duration;

use tests::load::Always;
use tests::{Load, Platform, guest};

#[test]
fn each_way_to_fail_has_a_status_and_a_code() {
    let platform = Platform::start();
    let check = |name: &'static str, path: &str, limits: &str, status: u16, code: &str| {
        platform.deploy_with(name, &guest(name), limits);
        platform.get(name, path).is(status).fails(code);
    };
    check("spin", "/", "", 503, "cpu-limit");
    check(
        "slow",
        "/wait/60000",
        "[limits]\nwall = '300ms'",
        504,
        "wall-limit",
    );
    check(
        "grow",
        "/64",
        "[limits]\nmemory = '16MiB'\ncpu = '2s'",
        503,
        "memory-limit",
    );
    check("trap", "/", "", 500, "trap");
    check("exit", "/3", "", 500, "trap");
    check("silent", "/", "", 500, "no-response");
}

#[test]
fn a_guest_may_use_what_it_asked_for() {
    let platform = Platform::start();
    platform.deploy_with(
        "grow",
        &guest("grow"),
        "[limits]\nmemory = '256MiB'\ncpu = '5s'",
    );
    platform.get("grow", "/200").is(200).says("200 MiB\n");
    // The next one meets none of it.
    platform.get("grow", "/1").is(200).says("1 MiB\n");
}

#[test]
fn a_guest_that_goes_on_after_its_answer_is_stopped() {
    let platform = Platform::start();
    platform.deploy("spin", &guest("spin"));
    let mut connection = platform.connect("spin");
    connection
        .get("/after")
        .unwrap()
        .is(200)
        .says("answered, and on\n");
    connection
        .get("/after")
        .unwrap()
        .is(200)
        .says("answered, and on\n");
    tests::eventually("the log says `cpu-limit`", || {
        let logs = platform
            .api
            .get("tenants/default/apps/spin/logs")
            .reply
            .text();
        logs.contains("cpu-limit").then_some(())
    });
}

#[test]
fn a_reply_that_takes_too_long_is_cut() {
    let platform = Platform::start();
    platform.deploy_with("slow", &guest("slow"), "[limits]\nwall = '500ms'");
    let mut connection = platform.connect("slow");
    connection.send_head("GET", "/1000/100", "").unwrap();
    let head = connection.head().unwrap();
    assert!(connection.body("GET", &head, &mut Vec::new()).is_err());
}

#[test]
fn statuses_pass_as_the_guest_says_them() {
    let platform = Platform::start();
    platform.deploy("status", &guest("status"));
    let mut connection = platform.connect("status");
    for status in [200, 201, 204, 301, 304, 400, 404, 418, 500, 503, 599] {
        let reply = connection.get(&format!("/{status}")).unwrap().is(status);
        assert_eq!(reply.header("midge-error"), None, "{status}");
        assert_eq!(
            reply.body.is_empty(),
            matches!(status, 204 | 304),
            "{status}"
        );
    }
    for status in [0, 99, 100, 101, 103, 600, 1000] {
        let reply = platform.get("status", &format!("/{status}"));
        assert!(
            matches!(reply.status(), 500 | 502),
            "{status}: {}",
            reply.status()
        );
        assert!(reply.header("midge-error").is_some(), "{status}");
    }
}

#[test]
fn bad_neighbours_do_not_fail_anyones_requests() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.deploy("spin", &guest("spin"));
    platform.deploy_with("grow", &guest("grow"), "[limits]\nmemory = '16MiB'");
    platform.deploy("trap", &guest("trap"));
    let pause = Duration::from_millis(2);
    let load = Load::start(
        platform.listen,
        &platform.host("hello"),
        "/",
        4,
        pause,
        Arc::new(Always("Hello, Midge!\n")),
    );
    let hostile = |app: &'static str, path: &'static str| {
        let (listen, host) = (platform.listen, platform.host(app));
        std::thread::spawn(move || {
            for _ in 0..20 {
                let mut connection = tests::Connection::open(listen, &host).unwrap();
                let reply = connection.get(path).unwrap();
                assert!(reply.status() >= 500, "{}", reply.status());
            }
        })
    };
    let hostiles = [
        hostile("spin", "/"),
        hostile("grow", "/64"),
        hostile("trap", "/"),
    ];
    for hostile in hostiles {
        hostile.join().unwrap();
    }
    load.stop().is_clean();
}

#[test]
fn while_two_tenants_flood_a_worker_ten_others_are_served() {
    let platform = Platform::configured("workers = 1\n[node]\nslots = 100\ntenant-slots = 50");
    let others: Vec<String> = (0..10).map(|number| format!("other-{number}")).collect();
    let slow = guest("slow");
    for tenant in others.iter().map(String::as_str).chain(["alice", "bob"]) {
        let api = platform.api.new_tenant(tenant);
        api.deploy(&tests::bare("slow"), &slow);
    }
    // A reply that takes as long as it may; none if it is refused.
    let park = |tenant: &str| {
        let mut connection = platform.connect(&format!("slow.{tenant}"));
        connection.send_head("GET", "/1000/100", "").unwrap();
        match connection.head().unwrap().status {
            200 => Some(connection),
            other => {
                assert_eq!(other, 503);
                None
            }
        }
    };
    let flood = |tenant: &str| Vec::from_iter(std::iter::from_fn(|| park(tenant)));
    let (alice, bob) = (flood("alice"), flood("bob"));
    assert_eq!((alice.len(), bob.len()), (50, 40));
    let parked: Vec<_> = others.iter().filter_map(|other| park(other)).collect();
    assert_eq!(parked.len(), 10);
    platform
        .get("slow.alice", "/1/1")
        .is(503)
        .fails("overloaded");
}

#[test]
fn when_every_slot_is_taken_a_request_is_told_to_come_again() {
    let platform = Platform::configured("workers = 1\n[node]\nslots = 4\ntenant-slots = 4");
    platform.deploy("slow", &guest("slow"));
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut connection = platform.connect("slow");
        connection.send_head("GET", "/1/5000", "").unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        waiting.push(connection);
    }
    let reply = platform.get("slow", "/1/1").is(503).fails("overloaded");
    assert!(reply.header("retry-after").is_some());
    drop(waiting);
    tests::eventually("slots come free", || {
        (platform.get("slow", "/1/1").status() == 200).then_some(())
    });
}
