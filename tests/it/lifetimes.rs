//! Who lives how long: drains, dead and silent workers, restarts, crashes, backups.

use std::sync::Arc;
use std::time::Duration;

use tests::load::Always;
use tests::{Load, Platform, guest, run, trials};

fn hello_load(platform: &Platform) -> Load {
    let pause = Duration::from_millis(5);
    Load::start(
        platform.listen,
        &platform.host("hello"),
        "/",
        4,
        pause,
        Arc::new(Always("Hello, Midge!\n")),
    )
}

#[test]
fn a_platform_that_is_told_to_stop_finishes_what_is_in_flight() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut platform = Platform::start();
        platform.deploy("slow", &guest("slow"));
        let mut connection = platform.connect("slow");
        connection.send_head("GET", "/10/200", "").unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        platform.signal(platform.id(), signal);
        let mut body = Vec::new();
        while connection.chunk(&mut body).unwrap() > 0 {}
        assert!(String::from_utf8_lossy(&body).ends_with("line 10\n"));
        assert!(platform.ended().success(), "{}", platform.said());
        assert!(
            tests::Connection::open(platform.listen, "x").is_err(),
            "somebody still listens"
        );
    }
}

#[test]
fn what_is_not_finished_within_the_grace_period_is_cut() {
    let mut platform = Platform::configured("grace = '500ms'");
    platform.deploy("slow", &guest("slow"));
    let mut connection = platform.connect("slow");
    connection.send_head("GET", "/1000/100", "").unwrap();
    connection.head().unwrap();
    platform.signal(platform.id(), libc::SIGTERM);
    let mut body = Vec::new();
    let cut = loop {
        match connection.chunk(&mut body) {
            Ok(0) => break false,
            Ok(_) => {}
            Err(_) => break true,
        }
    };
    assert!(cut, "the reply came to an end");
    platform.ended();
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut platform = Platform::configured("grace = '5m'");
        platform.deploy("slow", &guest("slow"));
        let mut connection = platform.connect("slow");
        connection.send_head("GET", "/1000/100", "").unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        let workers = platform.workers();
        platform.signal(platform.id(), signal);
        tests::eventually("it stops", || {
            platform.said().contains("requests in flight").then_some(())
        });
        assert!(workers.iter().any(|id| tests::lives(*id)));
        platform.signal(platform.id(), signal);
        assert_eq!(platform.ended().code(), Some(130), "{}", platform.said());
        assert!(platform.said().contains("stopped at once"));
        tests::eventually("workers go with it", || {
            (!workers.iter().any(|id| tests::lives(*id))).then_some(())
        });
    }
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let mut connection = platform.connect("hello");
    connection.get("/").unwrap().is(200);
    let began = std::time::Instant::now();
    platform.signal(platform.id(), libc::SIGTERM);
    assert!(platform.ended().success());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?} for an idle connection",
        began.elapsed()
    );
}

#[test]
fn a_killed_worker_is_replaced_and_no_other_notices() {
    let platform = Platform::configured("workers = 2");
    platform.deploy("hello", &guest("hello"));
    let workers = platform.workers();
    let (victim, survivor) = (workers[0], workers[1]);
    let mut kept = kept_by(&platform, survivor);
    platform.signal(victim, libc::SIGKILL);
    for _ in 0..20 {
        kept.get("/").unwrap().is(200).says("Hello, Midge!\n");
    }
    tests::eventually("a successor is there", || {
        let now = platform.workers();
        (now.len() == 2 && !now.contains(&victim) && now.contains(&survivor)).then_some(())
    });
    tests::eventually("the restart is counted", || {
        (platform.metric("midge_worker_restarts_total") == 1.0).then_some(())
    });
    // A connection that waited in the dead worker's backlog is served by its successor.
    let load = hello_load(&platform);
    tests::eventually("requests are answered", || {
        (load.requests() > 200).then_some(())
    });
    load.stop().is_clean();
}

/// A connection that this worker serves.
fn kept_by(platform: &Platform, worker: u32) -> tests::Connection {
    for _ in 0..200 {
        let mut connection = platform.connect("hello");
        connection.get("/").unwrap().is(200);
        if tests::serves(worker, &connection) {
            return connection;
        }
    }
    panic!("no connection of 200 reached worker {worker}");
}

#[test]
fn a_killed_worker_costs_its_own_connections_alone_in_small() {
    println!("{}", trials::worker_kills(trials::WORKER_KILLS / 20, 7));
}

#[test]
fn a_silent_worker_is_replaced() {
    let platform = Platform::configured("workers = 2");
    platform.deploy("hello", &guest("hello"));
    let victim = platform.workers()[0];
    platform.signal(victim, libc::SIGSTOP);
    tests::eventually("a successor is there", || {
        let now = platform.workers();
        (now.len() == 2 && !now.contains(&victim)).then_some(())
    });
    let load = hello_load(&platform);
    tests::eventually("requests are answered", || {
        (load.requests() > 200).then_some(())
    });
    load.stop().is_clean();
}

#[test]
fn workers_go_when_their_supervisor_is_gone() {
    let mut platform = Platform::configured("workers = 2");
    let workers = platform.workers();
    assert_eq!(workers.len(), 2);
    platform.kill();
    for worker in workers {
        // A process that ends gives back its memory before it is gone.
        tests::eventually("no worker is left", || {
            tests::parent(worker).is_none().then_some(())
        });
    }
}

#[test]
fn a_restart_serves_what_was_served_last() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.deploy_with(
        "shop",
        &guest("version"),
        "[grant]\nenv = { RELEASE = '1' }",
    );
    platform.deploy_with(
        "shop",
        &guest("version"),
        "[grant]\nenv = { RELEASE = '2' }",
    );
    let token = platform.api.token.clone();
    for how in [Platform::restart, Platform::crash] {
        how(&mut platform);
        platform.get("hello", "/").is(200).says("Hello, Midge!\n");
        platform.get("shop", "/").is(200).says("2");
        assert_eq!(platform.api.token, token);
    }
    platform.deploy_with(
        "shop",
        &guest("version"),
        "[grant]\nenv = { RELEASE = '3' }",
    );
    platform.get("shop", "/").is(200).says("3");
}

#[test]
fn what_was_acknowledged_outlives_any_crash_in_small() {
    println!("{}", trials::crashes(trials::CRASHES / 20, 7));
}

#[test]
fn a_backup_restores_everything_elsewhere() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.deploy_with(
        "shop",
        &guest("version"),
        "[grant]\nenv = { RELEASE = '1' }",
    );
    let backup = platform.folder().join("backup.tar");
    let backup = backup.to_str().unwrap();
    let load = hello_load(&platform);
    platform.run(&["backup", backup]).exits(0);
    load.stop().is_clean();
    platform.deploy_with(
        "shop",
        &guest("version"),
        "[grant]\nenv = { RELEASE = '2' }",
    );
    let data = platform.data();
    platform
        .run_alone(&["restore", backup, "--data", data.to_str().unwrap()])
        .says("into an empty folder only")
        .says("hint:");
    platform.signal(platform.id(), libc::SIGTERM);
    platform.ended();
    std::fs::rename(&data, platform.folder().join("lost")).unwrap();
    platform
        .run_alone(&["restore", backup, "--data", data.to_str().unwrap()])
        .exits(0);
    platform.start_again();
    // A backup holds no native code: it is made again while the first request waits.
    platform.get("hello", "/").is(200);
    platform.get("shop", "/").is(200).says("1");
    platform.deploy_with(
        "shop",
        &guest("version"),
        "[grant]\nenv = { RELEASE = '3' }",
    );
    platform.get("shop", "/").is(200).says("3");
}

#[test]
fn a_damaged_backup_is_refused() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let backup = platform.folder().join("backup.tar");
    platform.run(&["backup", backup.to_str().unwrap()]).exits(0);
    let whole = std::fs::read(&backup).unwrap();
    let to = platform.folder().join("to");
    let check = |bytes: &[u8]| {
        std::fs::write(&backup, bytes).unwrap();
        let arguments = [
            "restore",
            backup.to_str().unwrap(),
            "--data",
            to.to_str().unwrap(),
        ];
        let ran = run(platform.folder(), platform.folder(), &arguments);
        assert_ne!(ran.exit, 0, "{}", ran.out);
        assert!(ran.err.contains("error: "), "{}", ran.err);
        assert!(!to.join("admin.token").exists());
    };
    check(&whole[..whole.len() / 2]);
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    check(&changed);
    check(b"not a backup");
}
