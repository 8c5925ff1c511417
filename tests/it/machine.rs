//! The machine below: ports, the data folder, the disk; each trouble is named, and nothing is lost.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use tests::{Platform, Settings, guest, variant};

#[test]
fn the_platform_is_ready_in_under_a_second() {
    // The best of three: this machine may be busy with other tests.
    let best = (0..3).map(|_| Platform::start().ready_in).min().unwrap();
    assert!(best < Duration::from_secs(1), "{best:?}");
}

#[test]
fn a_busy_port_is_named() {
    let platform = Platform::start();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let other = platform.folder().join("other");
    let other = other.to_str().unwrap();
    for flags in [
        ["--listen", &address, "--api", "127.0.0.1:0"],
        ["--listen", "127.0.0.1:0", "--api", &address],
    ] {
        let mut arguments = vec!["up", "--no-profile", "--data", other];
        arguments.extend(flags);
        platform
            .run_alone(&arguments)
            .exits(1)
            .says(&address)
            .says("hint:");
    }
}

#[test]
fn a_second_start_on_the_same_folder_says_so_and_exits() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let data = platform.data();
    let arguments = [
        "up",
        "--no-profile",
        "--listen",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
        "--data",
        data.to_str().unwrap(),
    ];
    platform
        .run_alone(&arguments)
        .exits(5)
        .says(data.to_str().unwrap());
    platform.get("hello", "/").is(200);
}

#[test]
fn a_configuration_that_cannot_be_used_is_named() {
    let platform = Platform::start();
    let check = |text: &str, part: &str| {
        let path = platform.folder().join("wrong.toml");
        std::fs::write(&path, text).unwrap();
        platform
            .run_alone(&["up", "--no-profile", "--config", path.to_str().unwrap()])
            .exits(2)
            .says(part);
    };
    check("listenn = []", "listenn");
    check("workers = 0", "workers");
    check("[ceiling]\nmemory = '1TiB'", "TiB");
}

#[test]
fn a_newer_folder_is_refused_in_words() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.signal(platform.id(), libc::SIGTERM);
    platform.ended();
    let records = records(&platform.data());
    // SQLite's file format: `user_version` lies at byte 60, big-endian; `midge` may keep its schema there or in a table.
    let mut file = std::fs::File::options().write(true).open(&records).unwrap();
    file.seek(SeekFrom::Start(60)).unwrap();
    file.write_all(&9_999u32.to_be_bytes()).unwrap();
    drop(file);
    let data = platform.data();
    let ran = platform.run_alone(&up(&data)).exits(1);
    assert!(
        ran.err.contains("9999") && ran.err.contains("newer"),
        "{}",
        ran.err
    );
}

#[test]
fn damaged_records_are_named_and_left_alone() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.signal(platform.id(), libc::SIGTERM);
    platform.ended();
    let records = records(&platform.data());
    let whole = std::fs::read(&records).unwrap();
    std::fs::write(&records, vec![0x5a; whole.len()]).unwrap();
    let data = platform.data();
    let ran = platform.run_alone(&up(&data)).exits(1);
    assert!(
        ran.err
            .contains(records.file_name().unwrap().to_str().unwrap()),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("hint:"), "{}", ran.err);
    std::fs::write(&records, whole).unwrap();
    platform.start_again();
    platform.get("hello", "/").is(200);
}

#[test]
fn a_data_folder_without_its_records_is_not_begun_anew() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.signal(platform.id(), libc::SIGTERM);
    platform.ended();
    let records = records(&platform.data());
    let whole = std::fs::read(&records).unwrap();
    let data = platform.data();
    for lose in [&|| std::fs::remove_file(&records).unwrap(), &|| {
        std::fs::write(&records, "").unwrap()
    }] as [&dyn Fn(); 2]
    {
        lose();
        let ran = platform.run_alone(&up(&data)).exits(1);
        for part in ["records.db", "missing or empty", "midge restore"] {
            assert!(ran.err.contains(part), "{}", ran.err);
        }
    }
    std::fs::write(&records, whole).unwrap();
    platform.start_again();
    platform.get("hello", "/").is(200);
}

#[test]
fn damaged_artifacts_are_made_anew_or_named() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    platform.signal(platform.id(), libc::SIGTERM);
    platform.ended();
    // Every file of native code gets one byte changed in its middle.
    let mut changed = 0;
    for path in files(&platform.data()) {
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.len() > 50_000 && bytes.windows(4).any(|four| four == b"\x7fELF") {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
            changed += 1;
        }
    }
    assert!(changed > 0);
    platform.start_again();
    // Never run as it is: made anew from the upload while the first request waits.
    platform.get("hello", "/").is(200);
    platform.deploy("other", &guest("version"));
    platform.get("other", "/").is(200);
    platform.deploy("hello", &guest("hello"));
    platform.get("hello", "/").is(200);
}

#[test]
fn a_full_disk_is_named_and_nothing_is_lost() {
    let name = "machine::a_full_disk_is_named_and_nothing_is_lost";
    tests::disk::apart("a full disk", name, "size=48m", fill_the_disk);
}

fn fill_the_disk() {
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let fill = platform.folder().join("fill");
    let mut file = std::fs::File::create(&fill).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);

    let answer = platform
        .api
        .publish_or_refuse(&tests::bare("more"), &variant(&guest("headers"), 1));
    answer.refuses(507, "disk-full", "full");
    platform.get("hello", "/").is(200).says("Hello, Midge!\n");
    // Nothing that was deployed needs room to be served again.
    let file = std::fs::File::options().write(true).open(&fill).unwrap();
    file.set_len(file.metadata().unwrap().len() - (64 << 10))
        .unwrap();
    drop(file);
    platform.restart();
    platform.get("hello", "/").is(200).says("Hello, Midge!\n");
    std::fs::remove_file(&fill).unwrap();
    platform.deploy("more", &variant(&guest("headers"), 1));
    platform.get("more", "/").is(200);
    platform.restart();
    platform.get("hello", "/").is(200);
    platform.get("more", "/").is(200);
}

#[test]
fn a_worker_that_is_no_workers_ends_at_once() {
    let platform = Platform::start();
    platform.run_alone(&["worker"]).exits(2);
}

#[test]
fn settings_reach_the_platform() {
    let settings = Settings {
        config: "workers = 3\ndomain = 'apps.test'".into(),
        ..Settings::default()
    };
    let platform = Platform::start_with(settings);
    let status = platform.api.get("status").is(200).json;
    assert_eq!(status["domain"], "apps.test");
    assert_eq!(status["nodes"][0]["workers"], 3);
    assert_eq!(platform.workers().len(), 3);
    platform.deploy("hello", &guest("hello"));
    let mut connection = tests::Connection::open(platform.listen, "hello.apps.test").unwrap();
    connection.get("/").unwrap().is(200);
}

fn up(data: &Path) -> [&str; 8] {
    let data = data.to_str().expect("temporary folders have plain names");
    [
        "up",
        "--no-profile",
        "--listen",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
        "--data",
        data,
    ]
}

/// The file of the control plane's records.
fn records(data: &Path) -> std::path::PathBuf {
    let is_sqlite = |path: &std::path::PathBuf| {
        std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3"))
    };
    files(data)
        .into_iter()
        .find(is_sqlite)
        .expect("there are records")
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// In a folder that anyone may look into, too.
#[test]
fn what_is_kept_is_readable_by_its_owner_alone() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    assert!(platform.data().join("records.db").exists());
    owners_alone(&platform.data());
    let backup = platform.folder().join("backup.tar");
    platform.run(&["backup", backup.to_str().unwrap()]).exits(0);
    let restored = platform.folder().join("restored");
    let arguments = ["restore", backup.to_str().unwrap(), "--data"];
    let arguments = [&arguments[..], &[restored.to_str().unwrap()]].concat();
    platform.run_alone(&arguments).exits(0);
    owners_alone(&restored);
}

/// Asserts it of everything in a folder.
#[track_caller]
fn owners_alone(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let facts = fs::symlink_metadata(&path).unwrap();
        let mode = facts.permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has the mode {mode:o}", path.display());
        if facts.is_dir() {
            owners_alone(&path);
        }
    }
}
