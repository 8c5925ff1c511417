//! `midge upgrade`: a platform makes way for another program while it serves.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::http2::frames::Frames;
use tests::{Platform, eventually, guest};

#[test]
fn an_upgrade_under_load_is_noticed_by_nobody_in_small() {
    println!("{}", tests::trials::upgrades(3, 7));
}

#[test]
fn what_is_in_flight_is_finished_by_the_process_that_leaves() {
    let mut platform = Platform::configured("workers = 2");
    platform.deploy("slow", &guest("slow"));
    let mut streaming = platform.connect("slow");
    streaming.send_head("GET", "/30/100", "").unwrap();
    assert_eq!(streaming.head().unwrap().status, 200);
    let mut idle = platform.connect("slow");
    idle.get("/1/1").unwrap().is(200);

    let (_, mut leaving) = platform.upgrade();
    // It is asked once more: it is answered, and told that this was the last, as soon as its worker knows.
    eventually("a reply is the last", || {
        let reply = idle.get("/1/1").unwrap().is(200);
        (reply.header("connection") == Some("close")).then_some(())
    });
    let mut body = Vec::new();
    while streaming.chunk(&mut body).unwrap() > 0 {}
    assert!(String::from_utf8_lossy(&body).ends_with("line 30\n"));
    eventually("it ends", || leaving.has_ended().then_some(()));
    platform.get("slow", "/1/1").is(200);
    platform.stop();
}

/// Over HTTP/2 a client is told that there is no more to ask. This one does not listen, and is refused before a deployment
/// is called live.
#[test]
fn who_goes_on_asking_over_http_2_meets_no_older_version() {
    let mut platform = Platform::start();
    platform.api.deploy(&release(1), &guest("version"));
    let host = platform.host("shop");
    let mut deaf = Frames::open(platform.listen, &host).unwrap();
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        let stream = 2 * asked - 1;
        deaf.ask(stream, "/").and_then(|()| deaf.fate(stream))
    };
    assert_eq!(ask().unwrap().text(), "1");
    platform.upgrade();
    let live = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            platform.api.deploy(&release(2), &guest("version"));
            live.store(true, Ordering::SeqCst);
        });
        eventually("it is refused", || {
            let was_live = live.load(Ordering::SeqCst);
            match ask() {
                Ok(fate) if fate.is(200) => {
                    assert!(!was_live || fate.text() == "2", "{fate:?}");
                    None
                }
                Ok(_) | Err(_) => Some(()),
            }
        });
    });
}

/// A manifest of the app `shop` that answers with its release.
fn release(number: u32) -> model::Manifest {
    let grants = format!("[grant]\nenv = {{ RELEASE = \"{number}\" }}");
    tests::manifest_of("shop", &grants)
}

#[test]
fn upgrades_one_after_the_other_forget_no_connection_of_the_first() {
    let mut platform = Platform::start();
    platform.api.deploy(&release(1), &guest("version"));
    let mut kept: Vec<_> = (0..4).map(|_| platform.connect("shop")).collect();
    for connection in &mut kept {
        connection.get("/").unwrap().is(200).says("1");
    }
    platform.upgrade();
    platform.upgrade();
    platform.api.deploy(&release(2), &guest("version"));
    for connection in &mut kept {
        // Closed by now, or served as a new one is.
        if let Ok(reply) = connection.get("/") {
            reply.is(200).says("2");
        }
    }
}

#[test]
fn a_stop_after_an_upgrade_ends_the_connections_of_both_processes() {
    let mut platform = Platform::start();
    platform.api.deploy(&release(1), &guest("version"));
    platform.deploy("slow", &guest("slow"));
    let mut kept = platform.connect("shop");
    kept.get("/").unwrap().is(200).says("1");
    let mut streaming = platform.connect("slow");
    streaming.send_head("GET", "/20/100", "").unwrap();
    assert_eq!(streaming.head().unwrap().status, 200);
    let (_, leaving) = platform.upgrade();
    platform.stop();
    platform.start_again();
    platform.api.deploy(&release(2), &guest("version"));
    assert!(kept.get("/").is_err(), "the old process serves on");
    // What was in flight has the grace period.
    let mut body = Vec::new();
    while streaming.chunk(&mut body).unwrap() > 0 {}
    assert!(String::from_utf8_lossy(&body).ends_with("line 20\n"));
    leaving.ended();
}

#[test]
fn a_process_that_leaves_and_is_told_to_stop_finishes_within_the_grace_period() {
    let mut platform = Platform::start();
    platform.deploy("slow", &guest("slow"));
    let stream = |lines: u32| {
        let mut connection = platform.connect("slow");
        connection
            .send_head("GET", &format!("/{lines}/100"), "")
            .unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        connection
    };
    let mut streaming = stream(20);
    let (_, leaving) = platform.upgrade();
    platform.signal(leaving.id(), libc::SIGTERM);
    let mut body = Vec::new();
    while streaming.chunk(&mut body).unwrap() > 0 {}
    assert!(String::from_utf8_lossy(&body).ends_with("line 20\n"));
    leaving.ended();
    platform.get("slow", "/1/1").is(200);
}

#[test]
fn one_upgrade_at_a_time_is_made() {
    let platform = Platform::start();
    let idle = platform.folder().join("idle");
    std::fs::write(&idle, "#!/bin/sh\nexec sleep 30\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&idle, mode).unwrap();
    let data = platform.data();
    let data = data.to_str().unwrap();
    let first = platform.run_alone(&["upgrade", "--workers", "2", "--data", data]);
    first.exits(2).says("--workers");
    std::thread::scope(|scope| {
        let idle = idle.to_str().unwrap();
        let slow = scope.spawn(|| platform.run_alone(&["upgrade", idle, "--data", data]));
        eventually("the first is under way", || {
            platform
                .said()
                .contains("is to take the place")
                .then_some(())
        });
        let second = platform.run_alone(&["upgrade", "--data", data]);
        second.exits(1).says("another upgrade is under way");
        let children = tests::children(platform.id());
        let workers = platform.workers();
        for id in children.iter().filter(|id| !workers.contains(id)) {
            platform.signal(*id, libc::SIGKILL);
        }
        slow.join().unwrap().exits(1).says("the new program ended");
    });
}

#[test]
fn a_deployment_after_an_upgrade_is_live_when_no_old_connection_can_miss_it() {
    let mut platform = Platform::start();
    platform.api.deploy(&release(1), &guest("version"));
    let mut kept = platform.connect("shop");
    kept.get("/").unwrap().is(200).says("1");
    platform.upgrade();
    platform.api.deploy(&release(2), &guest("version"));
    // The old process has closed the connection by now, or answers as the new one would.
    if let Ok(reply) = kept.get("/") {
        reply.is(200).says("2");
    }
    platform.get("shop", "/").is(200).says("2");
}

#[test]
fn a_program_that_cannot_take_over_leaves_everything_as_it_was() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let data = platform.data();
    let upgrade = |arguments: &[&str]| {
        let data = ["--data", data.to_str().unwrap()];
        platform.run_alone(&[&["upgrade"], arguments, &data].concat())
    };
    let unharmed = || {
        platform.get("hello", "/").is(200);
        platform.deploy("hello", &guest("hello"));
    };
    upgrade(&["/bin/true"])
        .exits(1)
        .says("nothing was replaced")
        .says("the new program ended");
    unharmed();
    upgrade(&["/nowhere/midge"])
        .exits(1)
        .says("`/nowhere/midge`");
    let text = platform.folder().join("midge.config.toml");
    upgrade(&[text.to_str().unwrap()])
        .exits(1)
        .says("cannot be started");
    unharmed();
    // What an upgrade cannot change is refused before anything has happened.
    std::fs::write(&text, "workers = 7").unwrap();
    upgrade(&[]).exits(1).says("`workers` is `7` by now");
    std::fs::write(&text, "ceilings = 1").unwrap();
    upgrade(&["--config", "/dev/null"])
        .exits(1)
        .says("nothing was replaced");
    std::fs::write(&text, "").unwrap();
    unharmed();
}

#[test]
fn a_successor_that_fails_after_it_was_handed_the_records_gives_them_back() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    // Neither process can read this: the new one fails when it opens it, the old one has it open no longer.
    let key = platform.data().join("keys");
    let aside = platform.data().join("keys-aside");
    let data = platform.data();
    let data = data.to_str().unwrap();
    std::fs::rename(&key, &aside).unwrap();
    std::fs::write(&key, "").unwrap();
    let refused = platform.run_alone(&["upgrade", "--data", data]).exits(1);
    refused
        .says("nothing was replaced")
        .says("apps are served, but the control plane");
    platform.get("hello", "/").is(200);
    std::fs::remove_file(&key).unwrap();
    std::fs::rename(&aside, &key).unwrap();
    // Asked again, it hands over what it still has, and all is well.
    platform.upgrade();
    platform.deploy("hello", &guest("hello"));
    platform.get("hello", "/").is(200);
}

#[test]
fn a_successor_that_fails_though_it_serves_is_not_left_to() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    // It cannot say that it is ready: the file that it would say it in is a folder.
    let ready = platform.folder().join("ready");
    std::fs::remove_file(&ready).unwrap();
    std::fs::create_dir(&ready).unwrap();
    let data = platform.data();
    let data = data.to_str().unwrap();
    let refused = platform.run_alone(&["upgrade", "--data", data]).exits(1);
    refused.says("nothing was replaced").says("ready");
    platform.get("hello", "/").is(200);
    platform.deploy("hello", &guest("hello"));
    std::fs::remove_dir(&ready).unwrap();
    platform.upgrade();
    platform.get("hello", "/").is(200);
}

#[test]
fn where_nothing_runs_nothing_is_upgraded() {
    let mut platform = Platform::start();
    let data = platform.data();
    platform.stop();
    let run = |data: &Path| platform.run_alone(&["upgrade", "--data", data.to_str().unwrap()]);
    run(&data)
        .exits(4)
        .says("no platform runs on the data folder");
    run(Path::new("/nowhere"))
        .exits(4)
        .says("no platform runs on the data folder");
}

#[test]
fn a_service_manager_is_told_which_process_is_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut platform = Platform::start_with(tests::Settings {
        environment: vec![("NOTIFY_SOCKET".into(), path.to_str().unwrap().into())],
        ..tests::Settings::default()
    });
    let told = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(told(), format!("READY=1\nMAINPID={}\n", platform.id()));
    platform.upgrade();
    assert_eq!(told(), format!("READY=1\nMAINPID={}\n", platform.id()));
}
