//! `midge top`: what apps do and use, as a table for scripts and live on a terminal.

use serde_json::Value;
use tests::{Platform, Pty, guest};

fn busy() -> Platform {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.deploy("trap", &guest("trap"));
    for _ in 0..10 {
        platform.get("hello", "/").is(200);
    }
    platform.get("trap", "/").is(500);
    // Workers tell of their counts once a second.
    tests::eventually("all of it is counted", || {
        (platform.metric("midge_requests_total") == 11.0).then_some(())
    });
    platform
}

#[test]
fn one_table_tells_scripts_what_apps_did_and_used() {
    let platform = busy();
    let ran = platform.run(&["top", "--once", "--json"]).exits(0);
    let rows: Vec<Value> = serde_json::from_value(ran.json()).unwrap();
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["app"].as_str().unwrap(),
                &row["requests"],
                &row["errors"],
            )
        })
        .collect();
    let (ten, one, none) = (Value::from(10), Value::from(1), Value::from(0));
    assert_eq!(found, [("hello", &ten, &none), ("trap", &one, &one)]);
    for row in &rows {
        assert_eq!(row["tenant"], "default");
        for figure in ["p50_us", "p99_us", "cpu_us", "memory_peak_bytes"] {
            assert!(row[figure].as_u64().unwrap() > 0, "{figure}: {row}");
        }
    }
    assert_eq!(rows[0]["bytes_out"], 10 * "Hello, Midge!\n".len());

    // Where nobody looks on, a table is all there is.
    let ran = platform.run(&["top", "--sort", "errors"]).exits(0);
    let mut lines = ran.out.lines();
    let header = "app requests errors p50 p99 cpu memory out";
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(lines.next().unwrap()), words(header));
    assert!(
        lines.next().unwrap().starts_with("default/trap "),
        "{}",
        ran.out
    );
    platform
        .run(&["top", "--interval", "1ms"])
        .exits(2)
        .says("100ms");
}

#[test]
fn a_tenants_token_shows_its_own_apps_alone() {
    let platform = busy();
    platform.run(&["tenant", "create", "alice"]).exits(0);
    let create = [
        "token", "create", "x", "--tenant", "alice", "--verb", "read", "--json",
    ];
    let token = platform.run(&create).exits(0).json();
    let api = format!("http://{}", platform.api.address);
    let token = token["token"].as_str().unwrap();
    let ran = platform.run_alone(&["top", "--json", "--api", &api, "--token", token]);
    assert_eq!(ran.exits(0).json(), Value::Array(Vec::new()));
}

#[test]
fn a_terminal_shows_apps_live_and_is_given_back_as_it_was() {
    let platform = busy();
    for end in ["q", "\x03", "SIGTERM"] {
        let mut terminal = Pty::open();
        let before = terminal.modes();
        let mut command = platform.command(&["top", "--interval", "200ms"]);
        let mut top = terminal.start(&mut command);
        terminal.shows("default/hello");
        // A share of a core: rates, once it has looked twice. Of all else, only what changed is written anew.
        terminal.shows("%");
        assert_ne!(terminal.modes(), before, "keys are told one by one");
        match end {
            "SIGTERM" => platform.signal(top.id(), libc::SIGTERM),
            keys => terminal.press(keys.as_bytes()),
        }
        let status = tests::eventually("it ends", || top.try_wait().unwrap());
        assert!(status.success(), "{end:?}: {status}");
        assert_eq!(terminal.modes(), before, "{end:?}");
        // The screen from before, and the cursor.
        for given_back in ["\x1b[?1049l", "\x1b[?25h"] {
            terminal.shows(given_back);
        }
    }
}

#[test]
fn a_terminal_that_nobody_reads_holds_up_no_signal() {
    let platform = busy();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let terminal = Pty::open();
        let before = terminal.modes();
        let mut command = platform.command(&["top", "--interval", "100ms"]);
        let mut top = terminal.start(&mut command);
        terminal.shows("%");
        terminal.stop();
        // So that there is something new to show.
        tests::eventually("it waits for whoever reads", || {
            platform.get("hello", "/").is(200);
            tests::is_within(top.id(), libc::SYS_write).then_some(())
        });
        platform.signal(top.id(), signal);
        let status = tests::eventually("it ends", || top.try_wait().unwrap());
        assert!(status.success(), "signal {signal}: {status}");
        assert_eq!(terminal.modes(), before, "signal {signal}");
    }
}
