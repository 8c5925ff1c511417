//! CPU time of one request: a fresh-instance hello as a component and as a command, against plain hyper.
//!
//! Server and load generator share one core; CPU time is the operating system's, summed over supervisor and worker.

use std::net::SocketAddr;
use std::process::Command;

use tests::{Guest, Settings, guest};

use crate::row::{Row, median};
use crate::servers::{Plain, ROUNDS, cpu_us_each, on_core, platform, processes};

pub fn measure() -> Vec<Row> {
    let plain = Plain::start(&["http1"]);
    let platform = platform(Settings::default());
    platform.deploy("component", &guest("hello"));
    platform.deploy("command", &Guest::CommandModule("hello-command").bytes());
    for app in ["component", "command"] {
        platform.get(app, "/").is(200).says("Hello, Midge!\n");
    }
    let ours = processes(&platform);
    let of_ours = |app: &str| cpu_us_each(&ours, || load(platform.listen, &platform.host(app)));

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let plain = cpu_us_each(&plain.processes(), || load(plain.address, "localhost"));
        rounds.push([plain, of_ours("component"), of_ours("command")]);
    }

    let of = |index: usize| median(rounds.iter().map(|round| round[index]).collect());
    let ratio = |index: usize| median(rounds.iter().map(|round| round[index] / round[0]).collect());
    let note = |index: usize| format!("{:.1} µs against plain hyper's {:.1} µs", of(index), of(0));
    let row = |what, index, bound| Row {
        what,
        figure: ratio(index),
        bound: Some(bound),
        unit: "×",
        note: note(index),
    };
    vec![
        row(
            "CPU per request of a fresh-instance hello, `wasi:http` 0.2 component",
            1,
            4.5,
        ),
        row("CPU per request of a fresh-instance hello, command", 2, 3.5),
    ]
}

/// Asks over 16 connections for three seconds; how many replies came.
pub fn load(address: SocketAddr, host: &str) -> f64 {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c16", "-d3s", "-H", &format!("Host: {host}")])
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
