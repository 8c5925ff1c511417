//! Quarantine: a version that fails and fails is not run for a while, and nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tests::load::Always;
use tests::{Load, Platform, bare, eventually, guest, variant};

use crate::siege::Siege;

/// The requests of one version of which one is bad.
const GOOD: usize = 1_000;

/// Each bad request costs little, so that a hundred of them fit into the window however busy the machine is.
const LIMITS: &str = "[limits]\ncpu = '10ms'\nmemory = '4MiB'";

/// How many requests of the sleeper ended so.
fn series(code: &str) -> String {
    format!("midge_requests_total{{tenant=\"default\",app=\"sleeper\",outcome=\"{code}\"}}")
}

/// G64
#[test]
fn a_sleeper_is_served_until_it_is_bad_for_everyone_and_nobody_else_notices() {
    let siege = Siege::configured("workers = 1");
    let platform = &siege.platform;
    let bob = platform.api.new_tenant("bob");
    bob.deploy(&bare("calm"), &guest("hello"));
    let neighbour = Load::start(
        platform.listen,
        &platform.host("calm.bob"),
        "/",
        2,
        Duration::from_millis(2),
        Arc::new(Always("Hello, Midge!\n")),
    );
    platform.deploy_with("sleeper", &guest("sleeper"), LIMITS);

    // One request in a thousand: each time it ends as the limits say, and it goes on being served.
    let mut connection = platform.connect("sleeper");
    for number in 1..=3 * GOOD {
        if number % GOOD == GOOD / 2 {
            let reply = connection.get("/bad").unwrap();
            reply.is(503).fails("cpu-limit");
        } else {
            connection.get("/").unwrap().is(200).says("good\n");
        }
    }
    eventually("each is counted", || {
        (platform.metric(&series("cpu-limit")) == 3.0).then_some(())
    });
    assert_eq!(platform.metric(&series("quarantined")), 0.0);

    // Every request: it is not run any more, not even for who would have been served.
    let mut failures = 0;
    let refused = eventually("it is in quarantine", || {
        let reply = connection.get("/bad").unwrap().is(503);
        failures += 1;
        (reply.header("midge-error") == Some("quarantined")).then_some(reply)
    });
    assert!(failures > 50, "{failures} failures were enough");
    let left: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&left), "{left} s");
    assert_eq!(
        refused.text(),
        "the app failed too often; it is tried again in a moment\n"
    );
    let quarantined = eventually("the log says `quarantined`", || {
        let ends = siege.ends("sleeper");
        ends.into_iter().find(|end| end["outcome"] == "quarantined")
    });
    let used = |what: &str| quarantined["usage"][what].clone();
    assert_eq!(
        [used("cpu_us"), used("instantiate_us"), used("memory_bytes")],
        [Value::from(0), Value::from(0), Value::from(0)],
        "something was run"
    );
    let reasons = siege.reasons("sleeper");
    let told: Vec<_> = reasons
        .lines()
        .filter(|line| line.contains("quarantine"))
        .collect();
    assert_eq!(told.len(), 1, "{reasons}");
    for part in [
        "`sleeper` version 1 is in quarantine for 10s",
        "failed by its own fault",
        "`cpu-limit`",
        "a new deployment ends it at once",
    ] {
        assert!(told[0].contains(part), "`{part}` is not in: {}", told[0]);
    }

    // A new deployment has done nothing yet.
    let wasm = variant(&guest("sleeper"), 2);
    platform.deploy_with("sleeper", &wasm, LIMITS);
    connection.get("/").unwrap().is(200).says("good\n");
    neighbour.stop().is_clean();
    siege.end();
}

#[test]
fn a_version_in_quarantine_is_tried_again_after_its_time() {
    let platform = Platform::configured("workers = 1");
    platform.deploy("sleeper", &guest("sleeper"));
    let mut connection = platform.connect("sleeper");
    let mut ask = |path: &str| {
        let reply = connection.get(path).unwrap();
        (reply.header("midge-error").unwrap_or("ok")).to_owned()
    };
    eventually("it is in quarantine", || {
        (ask("/panic") == "quarantined").then_some(())
    });
    eventually("it is tried again", || match ask("/").as_str() {
        "quarantined" => None,
        code => {
            assert_eq!(code, "ok");
            Some(())
        }
    });
    eventually("it is in quarantine again", || {
        (ask("/panic") == "quarantined").then_some(())
    });
    eventually("its refusals are counted", || {
        (platform.metric(&series("quarantined")) > 1.0).then_some(())
    });
}
