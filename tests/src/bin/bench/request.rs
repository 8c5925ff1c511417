//! CPU time of one request: a fresh-instance hello as a component and as a command, against plain hyper.
//!
//! Server and load generator share one core; CPU time is the operating system's, summed over supervisor and worker.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use tests::{Guest, Platform, Settings, children, cpu_seconds, guest, pin};

use crate::row::{Row, median};

const ROUNDS: usize = 5;
const CORE: usize = 0;

pub fn measure() -> Vec<Row> {
    let mut baseline = Command::new(
        std::env::current_exe()
            .expect("a program has a file")
            .with_file_name("baseline"),
    );
    baseline.stdout(Stdio::piped());
    let mut baseline = on_core(&mut baseline).spawn().expect("the baseline starts");
    let mut line = String::new();
    let output = baseline.stdout.take().expect("its output is piped");
    BufReader::new(output)
        .read_line(&mut line)
        .expect("it says its address");
    let plain: SocketAddr = line.trim().parse().expect("an address");

    let settings = Settings {
        config: "workers = 1".into(),
        core: Some(CORE),
        ..Settings::default()
    };
    let platform = Platform::start_with(settings);
    platform.deploy("component", &guest("hello"));
    platform.deploy("command", &Guest::CommandModule("hello-command").bytes());
    for app in ["component", "command"] {
        platform.get(app, "/").is(200).says("Hello, Midge!\n");
    }
    let ours = || -> Vec<u32> {
        [platform.id()]
            .into_iter()
            .chain(children(platform.id()))
            .collect()
    };

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let plain = per_request(&[baseline.id()], plain, "localhost");
        let component = per_request(&ours(), platform.listen, &platform.host("component"));
        let command = per_request(&ours(), platform.listen, &platform.host("command"));
        rounds.push([plain, component, command]);
    }
    baseline.kill().expect("a child can be killed");
    baseline.wait().expect("a child can be waited for");

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

/// The servers' CPU time for each request of one load, in microseconds.
fn per_request(servers: &[u32], address: SocketAddr, host: &str) -> f64 {
    let used = || servers.iter().map(|id| cpu_seconds(*id)).sum::<f64>();
    let before = used();
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c16", "-d3s", "-H", &format!("Host: {host}")])
        .arg(format!("http://{address}/"));
    let output = on_core(&mut wrk)
        .output()
        .expect("`wrk` is in .tools; `cargo xtask bench` installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let used = used() - before;
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
    used / requests * 1e6
}

/// Keeps what is started on the bench's core.
fn on_core(command: &mut Command) -> &mut Command {
    // SAFETY: `sched_setaffinity` is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            pin(CORE);
            Ok(())
        })
    }
}
