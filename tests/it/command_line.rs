//! The CLI, as the tutorial walks through it, and what it says when something is wrong.

use std::os::unix::process::CommandExt as _;

use tests::{Platform, guest};

#[test]
fn the_way_from_a_file_to_an_answer_and_back() {
    let platform = Platform::start();
    let file = |name: &str, wasm: &[u8]| {
        let path = platform.folder().join(name);
        std::fs::write(&path, wasm).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let one = file("shop.wasm", &guest("hello"));
    let two = file("two.wasm", &guest("headers"));
    platform
        .run(&["deploy", &one])
        .exits(0)
        .says("deployed shop version 1: live on 1 of 1 nodes in ")
        .says("shop.localhost");
    platform.get("shop", "/").is(200).says("Hello, Midge!\n");
    platform
        .run(&["deploy", &two, "--name", "shop"])
        .exits(0)
        .says("version 2");
    platform.get("shop", "/").mentions("method GET");
    platform.run(&["apps"]).exits(0).says("shop");
    platform.run(&["versions", "shop"]).exits(0).says("2");
    platform
        .run(&["rollback", "shop"])
        .exits(0)
        .says("rolled back shop version 1: live on 1 of 1 nodes");
    platform.get("shop", "/").says("Hello, Midge!\n");
    platform.run(&["rollback", "shop", "--to", "2"]).exits(0);
    platform.get("shop", "/").mentions("method GET");
    tests::eventually("the log shows requests", || {
        platform
            .run(&["logs", "shop"])
            .out
            .contains("GET")
            .then_some(())
    });
    platform.run(&["status"]).exits(0).says("1");
    platform.run(&["delete", "shop"]).exits(2).says("--yes");
    platform.run(&["delete", "shop", "--yes"]).exits(0);
    platform.get("shop", "/").is(404);
}

#[test]
fn scripts_get_json() {
    let platform = Platform::start();
    let path = platform.folder().join("shop.wasm");
    std::fs::write(&path, guest("hello")).unwrap();
    let deployed = platform
        .run(&["deploy", path.to_str().unwrap(), "--json"])
        .exits(0)
        .json();
    assert_eq!(
        (&deployed["app"], &deployed["deployed"]["live"]["nodes"]),
        (&"shop".into(), &1.into())
    );
    assert!(
        platform
            .run(&["apps", "--json"])
            .exits(0)
            .json()
            .to_string()
            .contains("shop")
    );
    assert!(
        platform
            .run(&["versions", "shop", "--json"])
            .exits(0)
            .json()
            .to_string()
            .contains("http-component")
    );
    let token = platform
        .run(&["token", "create", "ci", "--json"])
        .exits(0)
        .json();
    let id = token["summary"]["id"].as_str().unwrap();
    assert!(
        platform
            .run(&["token", "list", "--json"])
            .exits(0)
            .out
            .contains(id)
    );
    platform.run(&["token", "revoke", id]).exits(0);
    assert_eq!(
        platform.run(&["status", "--json"]).exits(0).json()["apps"],
        1
    );
}

#[test]
fn each_exit_code_means_what_help_says() {
    let platform = Platform::start();
    let text = platform.folder().join("text.wasm");
    std::fs::write(&text, "not wasm").unwrap();
    let text = text.to_str().unwrap();
    platform
        .run(&["deploy", "no-such-file.wasm"])
        .exits(1)
        .says("no-such-file.wasm");
    platform.run(&["deploy", text]).says("error: ");
    platform.run(&["fly"]).exits(2);
    platform
        .run(&["versions", "nobody"])
        .exits(3)
        .says("nobody");
    platform
        .run_alone(&["apps", "--api", "http://127.0.0.1:1", "--token", "t"])
        .exits(4)
        .says("127.0.0.1:1")
        .says("hint:");
    let api = format!("http://{}", platform.api.address);
    platform
        .run_alone(&["apps", "--api", &api, "--token", "wrong"])
        .exits(3)
        .says("token");
    platform.run_alone(&["--help"]).exits(0).says("Exit codes");
    let hello = platform.folder().join("hello.wasm");
    std::fs::write(&hello, guest("hello")).unwrap();
    let hello = hello.to_str().unwrap();
    // A node that cannot keep what it serves.
    let kept = platform.data().join("node/catalog");
    std::fs::remove_dir_all(&kept).unwrap();
    std::fs::write(&kept, "no folder").unwrap();
    platform
        .run(&["deploy", hello])
        .exits(6)
        .says("is served but not kept");
    tests::eventually("it is served", || {
        (platform.get("hello", "/").status() == 200).then_some(())
    });
}

#[test]
fn what_could_never_show_a_line_is_refused_before_a_platform_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = [
        "logs",
        "shop",
        "--api",
        "http://127.0.0.1:1",
        "--token",
        "none",
    ];
    let check = |more: &[&str], exit: i32, part: &str| {
        let arguments = [&nobody, more].concat();
        let ran = tests::run(folder.path(), folder.path(), &arguments);
        ran.exits(exit).says(part);
    };
    for stream in ["stdout", "stderr", "platform"] {
        let part = format!("`--stream {stream}`");
        check(&["--status", "5xx", "--stream", stream], 2, &part);
    }
    check(
        &["--status", "5xx", "--stream", "request"],
        4,
        "127.0.0.1:1",
    );
    check(&["--stream", "stdout"], 4, "127.0.0.1:1");
}

#[test]
fn an_interrupted_deploy_says_how_far_it_came() {
    let platform = Platform::start();
    let hello = platform.folder().join("hello.wasm");
    std::fs::write(&hello, guest("hello")).unwrap();
    // It answers nobody until it goes on.
    platform.signal(platform.id(), libc::SIGSTOP);
    let mut deploy = platform.command(&["deploy", hello.to_str().unwrap()]);
    deploy.stderr(std::process::Stdio::piped());
    let deploy = deploy.spawn().unwrap();
    tests::eventually("it has begun", || {
        tests::catches(deploy.id(), libc::SIGINT).then_some(())
    });
    platform.signal(deploy.id(), libc::SIGINT);
    let ended = deploy.wait_with_output().unwrap();
    platform.signal(platform.id(), libc::SIGCONT);
    assert_eq!(ended.status.code(), Some(130));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("interrupted while uploading"), "{said}");
    platform.get("hello", "/").is(404);
}

#[test]
fn files_that_never_end_or_are_no_text_are_refused_in_words() {
    let home = tempfile::tempdir().unwrap();
    let profiles = home.path().join(".config/midge/profiles.toml");
    std::fs::create_dir_all(profiles.parent().unwrap()).unwrap();
    let check = |line: &str, exit: i32, said: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let ran = tests::run(home.path(), home.path(), &words);
        ran.exits(exit).says("error: ").says(said);
    };
    check("inspect /dev/zero", 1, "larger than 100MiB");
    check(
        "deploy --manifest /dev/zero --token t",
        2,
        "larger than 64KiB",
    );
    check("up --config /dev/zero", 2, "larger than 1MiB");
    let profile = |text: &str| std::fs::write(&profiles, text).unwrap();
    profile("[default]\napi = 'http://127.0.0.1:1'\ntoken-file = '/dev/zero'\n");
    check("apps", 2, "larger than 4KiB");
    std::fs::remove_file(&profiles).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &profiles).unwrap();
    check("apps", 2, "larger than 1MiB");
    std::fs::write(home.path().join("latin1"), b"name = '\xe4'\n").unwrap();
    check("build --manifest latin1", 2, "byte 8 is not UTF-8");
    check("up --config latin1", 2, "byte 8 is not UTF-8");
}

#[test]
fn the_first_deploy_needs_no_ceremony() {
    // `midge up` points the default profile at itself; this one is started by hand to let it.
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let mut up = std::process::Command::new(tests::binary());
    up.env("HOME", folder.path())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_DATA_HOME")
        .current_dir(folder.path());
    up.args([
        "up",
        "--listen",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
        "--ready-file",
    ])
    .arg(&ready);
    up.stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut up = up.spawn().unwrap();
    tests::eventually("the platform is ready", || ready.exists().then_some(()));
    let path = folder.path().join("shop.wasm");
    std::fs::write(&path, guest("hello")).unwrap();
    let ran = tests::run(folder.path(), folder.path(), &["deploy", "shop.wasm"]);
    // SAFETY: a signal to a process of ours.
    unsafe { libc::kill(up.id() as libc::pid_t, libc::SIGTERM) };
    up.wait().unwrap();
    ran.exits(0).says("live on 1 of 1 nodes");
}

#[test]
fn an_upload_is_inspected_without_a_platform() {
    let platform = Platform::start();
    let path = platform.folder().join("x.wasm");
    let path = path.to_str().unwrap();
    std::fs::write(path, guest("outbound")).unwrap();
    platform
        .run_alone(&["inspect", path])
        .exits(0)
        .says("incoming-handler")
        .says("outgoing-handler");
    std::fs::write(path, guest("unknown")).unwrap();
    platform
        .run_alone(&["inspect", path])
        .says("acme:vault/keys@1.2.3");
    std::fs::write(path, "text").unwrap();
    platform
        .run_alone(&["inspect", path])
        .exits(1)
        .says("error: ");
}

#[test]
fn a_new_app_is_built_deployed_and_answers() {
    let platform = Platform::start();
    platform.run_alone(&["new", "fresh"]).exits(0);
    let folder = platform.folder().join("fresh");
    let real_home = std::env::var("HOME").unwrap_or_default();
    let api = format!("http://{}", platform.api.address);
    let mut deploy = std::process::Command::new(tests::binary());
    // Cargo needs its own home to find Rust and its registry.
    deploy
        .current_dir(&folder)
        .env("HOME", real_home)
        .env_remove("CARGO_TARGET_DIR");
    deploy.args(["deploy", "--api", &api, "--token", &platform.api.token]);
    let output = deploy.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("live on 1 of 1 nodes"), "{said}");
    platform.get("fresh", "/").is(200);
    platform
        .run_alone(&["new", "fresh"])
        .says("error: ")
        .says("fresh");
}

#[test]
fn who_revokes_the_token_of_the_command_is_told_how_to_get_another() {
    let mut platform = Platform::start();
    let tokens = platform.run(&["token", "list", "--json"]).exits(0).json();
    let id = tokens[0]["id"].as_str().unwrap();
    platform
        .run(&["token", "revoke", id])
        .exits(0)
        .says("start the platform again");
    platform
        .run(&["apps"])
        .exits(3)
        .says("revoked")
        .says("start the platform again");
    platform.restart();
    platform.run(&["apps"]).exits(0);
}

#[test]
fn what_the_platform_starts_itself_says_so_to_people() {
    for command in ["worker", "compile-child"] {
        let mut internal = std::process::Command::new(tests::binary());
        internal.arg(command);
        // SAFETY: `close` is safe to call between fork and exec. Whoever runs the tests may have left something there.
        unsafe {
            internal.pre_exec(|| {
                libc::close(3);
                Ok(())
            });
        }
        let ran = internal.output().unwrap();
        assert_eq!(ran.status.code(), Some(2));
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.contains("started by the platform itself"), "{said}");
        assert!(said.contains("hint: "), "{said}");
    }
}

#[test]
fn an_upload_larger_than_the_platform_takes_is_refused_in_words() {
    let platform = Platform::configured("[control]\nwasm = '1KiB'");
    let path = platform.folder().join("hello.wasm");
    std::fs::write(&path, guest("hello")).unwrap();
    platform
        .run(&["deploy", path.to_str().unwrap()])
        .exits(3)
        .says("what was sent has ")
        .says("`control.wasm`");
}

#[test]
fn the_doctor_and_the_shells_are_served() {
    let platform = Platform::start();
    let doctor = platform.run_alone(&["doctor"]);
    assert!(
        doctor.out.contains("PAGEMAP_SCAN") || doctor.out.to_lowercase().contains("pagemap"),
        "{}",
        doctor.out
    );
    platform
        .run_alone(&["completions", "bash"])
        .exits(0)
        .says("midge");
    platform.run_alone(&["limits"]).exits(0).says("limits.cpu");
}
