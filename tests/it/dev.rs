//! `midge dev`: what a developer sees while working on an app.

use std::fs;
use std::path::Path;

use tests::{Dev, eventually, guest, lives};

/// A project whose build copies `source.wasm`, or fails as `broken` says.
fn project(folder: &Path) {
    let manifest = "name = 'shop'\ncomponent = 'out/shop.wasm'\nbuild = 'sh build.sh'\n";
    fs::write(folder.join("midge.toml"), manifest).unwrap();
    let build = "test -e broken && { cat broken >&2; exit 1; }\n\
                 mkdir -p out && cp source.wasm out/shop.wasm && echo built > out/log\n";
    fs::write(folder.join("build.sh"), build).unwrap();
    fs::write(folder.join("source.wasm"), guest("hello")).unwrap();
}

#[test]
fn a_file_is_served_until_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my_app.wasm");
    fs::write(&file, guest("environment")).unwrap();
    let arguments = ["my_app.wasm", "--env", "LOG=debug", "--grant", "env.B=x=y"];
    let dev = Dev::start(folder.path(), &arguments);
    let address = dev.address();
    assert!(dev.err()[0].ends_with(&format!(" at http://{address}")));
    let reply = dev.get("/").is(200);
    assert!(reply.text().contains("LOG=debug"), "{}", reply.text());
    assert!(reply.text().contains("B=x=y"), "{}", reply.text());
    dev.says("GET / 200 in ");

    // Another file in its place is served in its place, and none that is broken.
    fs::write(&file, guest("hello")).unwrap();
    dev.serves("Hello, Midge!\n");
    dev.says("serving version 2");
    fs::write(&file, b"this is no wasm").unwrap();
    dev.says("goes on being served");
    dev.get("/").is(200).says("Hello, Midge!\n");
    let workers = tests::descendants(dev.id());
    assert!(!workers.is_empty());
    assert_eq!(dev.end(libc::SIGINT), Some(0));
    eventually("its processes are gone", || {
        (!workers.iter().any(|id| lives(*id))).then_some(())
    });
}

#[test]
fn a_project_is_built_and_served_at_every_change() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    project(folder);
    let dev = Dev::start(folder, &[]);
    dev.serves("Hello, Midge!\n");
    let builds = || {
        dev.err()
            .iter()
            .filter(|line| line.contains("building"))
            .count()
    };
    // What the build has written is no reason to build again for ever.
    let settled = builds();
    assert!(settled <= 3, "{settled} builds");

    let text = "error[E0308]: \u{1b}[1mmismatched types\u{1b}[0m";
    fs::write(folder.join("broken"), text).unwrap();
    // As the compiler has said it.
    dev.says(text);
    dev.says("the build failed");
    dev.says("goes on being served");
    dev.get("/").is(200).says("Hello, Midge!\n");

    fs::write(folder.join("source.wasm"), guest("version")).unwrap();
    fs::remove_file(folder.join("broken")).unwrap();
    let with_grant = "name = 'shop'\ncomponent = 'out/shop.wasm'\nbuild = 'sh build.sh'\n\
                      [[route]]\nhost = 'shop.example.com'\n[grant]\nenv = { RELEASE = 'two' }\n";
    fs::write(folder.join("midge.toml"), with_grant).unwrap();
    dev.serves("two");
    fs::write(
        folder.join("midge.toml"),
        with_grant.replace("two", "three"),
    )
    .unwrap();
    dev.serves("three");
    fs::write(folder.join("midge.toml"), "name = 7").unwrap();
    dev.says("cannot be used");
    dev.get("/").is(200).says("three");
    assert_eq!(dev.end(libc::SIGTERM), Some(0));
}

#[test]
fn a_first_build_that_fails_waits_to_be_mended() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    project(folder);
    fs::write(folder.join("broken"), "no").unwrap();
    let dev = Dev::start(folder, &[]);
    dev.says("nothing is served yet");
    fs::remove_file(folder.join("broken")).unwrap();
    dev.serves("Hello, Midge!\n");
    // A build under way ends with it, also when its terminal is closed.
    fs::write(
        folder.join("build.sh"),
        "echo $$ > building; exec sleep 100",
    )
    .unwrap();
    let build = eventually("the build has begun", || {
        fs::read_to_string(folder.join("building"))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    assert_eq!(dev.end(libc::SIGHUP), Some(0));
    eventually("the build is gone", || (!lives(build)).then_some(()));
}

#[test]
fn what_the_app_says_is_shown_as_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("print.wasm"), guest("print")).unwrap();
    fs::write(folder.path().join("trap.wasm"), guest("trap")).unwrap();
    let dev = Dev::start(folder.path(), &["print.wasm"]);
    dev.get("/");
    dev.says("  out: ");
    dev.says("  err: ");
    let dev = Dev::start(folder.path(), &["trap.wasm"]);
    dev.get("/").is(500);
    dev.says("GET / 500 trap in ");
    dev.says("  midge: ");
}

#[test]
fn what_was_granted_is_reached_on_the_developers_own_machine() {
    let origin = tests::origin::Origin::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("app.wasm"), guest("wstd_app")).unwrap();
    let granted = format!("http=http://{}", origin.address);
    let dev = Dev::start(folder.path(), &["app.wasm", "--grant", &granted]);
    let fetch = |authority: &str| dev.get(&format!("/fetch?http://{authority}/echo"));
    fetch(&origin.address.to_string())
        .is(200)
        .mentions("GET /echo HTTP/1.1");
    fetch("127.0.0.1:1").is(500).mentions("HttpRequestDenied");
}

#[test]
fn the_last_request_before_the_end_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hello.wasm"), guest("hello")).unwrap();
    let mut dev = Dev::start(folder.path(), &["hello.wasm"]);
    dev.get("/first").is(200);
    dev.get("/last").is(200);
    dev.signal(libc::SIGINT);
    assert_eq!(dev.wait(), Some(0));
    dev.says("GET /first 200 in ");
    dev.says("GET /last 200 in ");
}

#[test]
fn nothing_is_kept_of_what_was_served_or_only_begun() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hello.wasm"), guest("hello")).unwrap();
    let nothing: [std::path::PathBuf; 0] = [];
    // What a start makes, in its order.
    for made in [
        "data",
        "data/keys",
        "data/records.db",
        "data/records.db-wal",
        "data/node/logs",
    ] {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            let mut dev = Dev::start(folder.path(), &["hello.wasm"]);
            dev.makes(made);
            dev.signal(signal);
            assert_eq!(dev.wait(), Some(0), "signal {signal} at `{made}`");
            assert_eq!(dev.kept(), nothing, "signal {signal} at `{made}`");
        }
    }
    let mut dev = Dev::start(folder.path(), &["hello.wasm"]);
    dev.get("/").is(200);
    dev.signal(libc::SIGTERM);
    assert_eq!(dev.wait(), Some(0));
    assert_eq!(dev.kept(), nothing);
}

#[test]
fn what_cannot_be_served_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], exit: i32, part: &str| {
        let mut dev = Dev::start(folder.path(), arguments);
        assert_eq!(dev.wait(), Some(exit), "{arguments:?}");
        dev.says(part);
    };
    check(&[], 1, "there is no manifest `midge.toml`");
    check(&["missing.wasm"], 1, "there is no file `missing.wasm`");
    fs::write(folder.path().join("bad.wasm"), "x").unwrap();
    check(&["bad.wasm"], 1, "`bad.wasm`");
    fs::write(folder.path().join("module.wasm"), b"\0asm\x01\0\0\0").unwrap();
    check(&["module.wasm"], 3, "error: ");
    check(&["bad.wasm", "--env", "X"], 2, "NAME=VALUE");
    check(&["bad.wasm", "--grant", "moon.X=1"], 2, "config.NAME=VALUE");
    fs::write(folder.path().join("hello.wasm"), guest("hello")).unwrap();
    let dev = Dev::start(folder.path(), &["hello.wasm"]);
    let taken = dev.address().to_string();
    let second = tests::run(
        folder.path(),
        folder.path(),
        &["dev", "hello.wasm", "--addr", &taken],
    );
    second.exits(1).says("--addr 127.0.0.1:0");
}
