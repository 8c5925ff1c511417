//! CPU time of one request: a hello as a component, as a command and as a service, against plain hyper.
//!
//! Server and load generator share one core; CPU time is the operating system's, summed over supervisor and worker.

use std::net::SocketAddr;
use std::process::Command;

use tests::{Guest, Settings};

use crate::row::{Row, median};
use crate::servers::{Plain, ROUNDS, cpu_us_each, on_core, platform, processes};

/// A hello that costs at most so many times what plain hyper's does.
struct Promise {
    what: &'static str,
    app: &'static str,
    guest: Guest,
    manifest: &'static str,
    bound: f64,
}

const PROMISES: [Promise; 4] = [
    Promise {
        what: "CPU per request of a fresh-instance hello, `wasi:http` 0.2 component",
        app: "component",
        guest: Guest::Component("hello"),
        manifest: "",
        bound: 4.5,
    },
    Promise {
        what: "CPU per request of a fresh-instance hello, command",
        app: "command",
        guest: Guest::CommandModule("hello-command"),
        manifest: "",
        bound: 3.5,
    },
    Promise {
        what: "CPU per request of a fresh-instance hello, `wasi:http` 0.3 service",
        app: "service",
        guest: Guest::Service("hello"),
        manifest: "",
        bound: 9.0,
    },
    Promise {
        what: "CPU per request of a hello whose instances are reused, `wasi:http` 0.3 service",
        app: "reused",
        guest: Guest::Service("hello"),
        manifest: "[reuse]",
        bound: 5.0,
    },
];

/// Connections kept alive, each of which asks again when it is answered.
const CONNECTIONS: usize = 16;

pub fn measure() -> Vec<Row> {
    let plain = Plain::start(&["http1"]);
    let platform = platform(Settings::default());
    for promise in &PROMISES {
        platform.deploy_with(promise.app, &promise.guest.bytes(), promise.manifest);
        platform
            .get(promise.app, "/")
            .is(200)
            .says("Hello, Midge!\n");
    }
    let ours = processes(&platform);
    let of_ours = |app: &str| {
        cpu_us_each(&ours, || {
            load(platform.listen, &platform.host(app), CONNECTIONS)
        })
    };

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let plain = cpu_us_each(&plain.processes(), || {
            load(plain.address, "localhost", CONNECTIONS)
        });
        let ours: Vec<f64> = PROMISES
            .iter()
            .map(|promise| of_ours(promise.app))
            .collect();
        rounds.push((plain, ours));
    }

    let plain = median(rounds.iter().map(|(plain, _)| *plain).collect());
    let row = |(index, promise): (usize, &Promise)| {
        let took = median(rounds.iter().map(|(_, ours)| ours[index]).collect());
        let ratios = rounds.iter().map(|(plain, ours)| ours[index] / plain);
        Row {
            what: promise.what,
            figure: median(ratios.collect()),
            bound: Some(promise.bound),
            unit: "×",
            note: format!("{took:.1} µs against plain hyper's {plain:.1} µs"),
        }
    };
    PROMISES.iter().enumerate().map(row).collect()
}

/// Asks over so many connections for three seconds; how many replies came.
pub fn load(address: SocketAddr, host: &str, connections: usize) -> f64 {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-d3s", "-H", &format!("Host: {host}")])
        .arg(format!("-c{connections}"))
        .arg(format!("http://{address}/"));
    let output = on_core(&mut wrk)
        .output()
        .expect("`wrk` is in .tools; `cargo xtask bench` installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let requests = text.lines().find_map(|line| {
        line.trim()
            .split_once(" requests in ")?
            .0
            .parse::<f64>()
            .ok()
    });
    let requests =
        requests.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{text}"
    );
    requests
}
