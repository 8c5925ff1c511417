//! The first answer of an app that is not resident: verified before and its file in the page cache; and the first load
//! after a restart.

use std::time::Instant;

use tests::{Connection, Platform, Settings, guest, pin, variant};

use crate::row::{Row, median};

const APPS: u32 = 60;
/// About a second: what the deployments before left to do is no part of it.
const ROUNDS: usize = 50;
const CORE: usize = 0;
/// What a component has that the promise is about: some 75 KB, and something it was granted to read.
const COMPONENT_BYTES: usize = 75_000;
const GRANT: &str = "grant = { env = { GREETING = 'Hello' } }";

pub fn measure() -> Vec<Row> {
    // One app stays loaded, so every request that goes round meets one that is not.
    let config = "workers = 1\n[node]\nresident-apps = 1".to_owned();
    let settings = Settings {
        config,
        core: Some(CORE),
        ..Settings::default()
    };
    let mut platform = Platform::start_with(settings);
    let wasm = guest("environment");
    assert!(
        wasm.len() >= COMPONENT_BYTES,
        "a smaller one was promised nothing"
    );
    for number in 0..APPS {
        let app = format!("app-{number}");
        platform.deploy_with(&app, &variant(&wasm, number), GRANT);
    }
    // Server and client on one core: no wake-up of another one is counted.
    pin(CORE);
    let mut warm = Vec::new();
    round(&platform);
    let before = platform.metric("midge_cold_starts_total");
    for _ in 0..ROUNDS {
        warm.extend(round(&platform));
    }
    tests::eventually("each of them was a cold start", || {
        let cold = platform.metric("midge_cold_starts_total") - before;
        (cold >= f64::from(APPS) * ROUNDS as f64).then_some(())
    });
    platform.restart();
    let first = round(&platform);
    let size = wasm.len() / 1000;
    vec![
        Row {
            what: "first answer of an app that is not resident (verified, page cache warm), as its client sees it",
            figure: median(warm),
            bound: Some(400.0),
            unit: "µs",
            note: format!("a {size} KB component"),
        },
        Row {
            what: "the same, first load after a restart",
            figure: median(first),
            bound: None,
            unit: "µs",
            note: "its native code is verified on the way".into(),
        },
    ]
}

/// Asks every app once on one connection; microseconds each.
fn round(platform: &Platform) -> Vec<f64> {
    let mut times = Vec::new();
    let mut connection =
        Connection::open(platform.listen, "nobody.localhost").expect("the platform accepts");
    connection.get("/").expect("the platform answers");
    for number in 0..APPS {
        connection.host(&platform.host(&format!("app-{number}")));
        let began = Instant::now();
        let reply = connection.get("/").expect("the app answers");
        times.push(began.elapsed().as_secs_f64() * 1e6);
        reply.is(200).mentions("env GREETING=Hello\n");
    }
    times
}
