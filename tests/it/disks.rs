//! Disks in trouble: calls that fail, a disk that takes nothing, files that nobody may read, blocks that are not what was
//! written. What was acknowledged is there, what is served goes on being served, and who meets the trouble is told.
//!
//! C26 throughout.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use libc::{EIO, ENOSPC, EROFS};
use model::api::Deployed;
use model::{Digest, Version};
use serde_json::json;
use tests::disk::Call::{self, Change, Read, Sync, Write};
use tests::disk::{self, Disk};
use tests::platform::manifest_of;
use tests::{Answer, Platform, Reply, eventually, guest, variant};

/// A platform with the apps `hello` and `shop`, of which the second answers with the number of its release.
struct Site {
    platform: Platform,
    /// The number of the newest release that was tried, and of the newest that was acknowledged.
    tried: u32,
    acknowledged: u32,
}

impl Site {
    fn on(disk: &Disk) -> Self {
        Self::of(Platform::start_with(disk.settings()))
    }

    fn of(platform: Platform) -> Self {
        platform.deploy("hello", &guest("hello"));
        let mut site = Self {
            platform,
            tried: 0,
            acknowledged: 0,
        };
        site.deploys();
        site
    }

    /// Tries another release of `shop`, with an upload of its own; what the first request that was refused was answered,
    /// else the last.
    fn deploy(&mut self) -> Answer {
        self.tried += 1;
        let wasm = variant(&guest("version"), self.tried);
        self.deploy_of(&wasm)
    }

    /// Tries the release of the newest number, of `wasm`.
    fn deploy_of(&mut self, wasm: &[u8]) -> Answer {
        let api = &self.platform.api;
        let release = format!("[grant]\nenv = {{ RELEASE = '{}' }}", self.tried);
        let made = api.publish_or_refuse(&manifest_of("shop", &release), wasm);
        if made.reply.status() >= 300 {
            return made;
        }
        let number = made.body::<Version>().number;
        let moved = api.move_to("shop", Some(number), model::DeploymentCause::Deploy, None);
        if moved.reply.status() == 201 {
            self.acknowledged = self.tried;
        }
        moved
    }

    /// Another release of `shop` is live.
    #[track_caller]
    fn deploys(&mut self) -> Deployed {
        let deployed: Deployed = self.deploy().is(201).body();
        assert_eq!(deployed.live.nodes, deployed.live.of);
        self.serves();
        deployed
    }

    /// Both apps answer as was acknowledged last, and no worker ended.
    #[track_caller]
    fn serves(&self) {
        self.platform
            .get("hello", "/")
            .is(200)
            .says("Hello, Midge!\n");
        let shop = self.platform.get("shop", "/").is(200);
        assert_eq!(shop.text(), self.acknowledged.to_string());
        assert!(!self.platform.said().contains("panicked"));
    }

    /// Both apps answer after a start; `shop` with what was acknowledged, or with what was refused because nobody knew
    /// whether it was made.
    #[track_caller]
    fn serves_what_was_acknowledged_or_tried(&mut self) {
        let shop = self.platform.get("shop", "/").is(200).text();
        let shop: u32 = shop.parse().unwrap();
        assert!((self.acknowledged..=self.tried).contains(&shop), "{shop}");
        self.acknowledged = shop;
        self.serves();
    }

    /// Nothing that was begun is left in the artifacts, and each upload there is what its name says.
    #[track_caller]
    fn keeps_nothing_by_half(&self) {
        for path in files(&self.platform.data().join("artifacts")) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(!name.starts_with('.'), "{name}");
            if let Some(digest) = name.strip_suffix(".wasm") {
                let bytes = fs::read(&path).unwrap();
                assert_eq!(Digest::of(&bytes).to_string(), digest);
            }
        }
    }

    /// A start is refused, with these words.
    #[track_caller]
    fn refuses_to_start(&mut self, words: &[&str]) {
        fs::write(self.platform.folder().join("log"), "").unwrap();
        let said = match self.platform.try_start_again() {
            Err(said) => said,
            Ok(()) => panic!("it started: {words:?}"),
        };
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// The files of a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The file of an upload's native code.
fn native_of(platform: &Platform, wasm: &[u8]) -> PathBuf {
    let digest = Digest::of(wasm).to_string();
    let is_its = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&digest) && name.ends_with(".native")
    };
    let all = files(&platform.data().join("artifacts"));
    all.into_iter().find(is_its).expect("it has native code")
}

#[test]
fn a_write_to_the_records_that_fails_changes_nothing_and_the_next_is_made() {
    let Some(disk) = Disk::new("records that cannot be written") else {
        return;
    };
    let mut site = Site::on(&disk);
    let unused = json!({ "scope": { "verb": "read" } });
    let unused = site
        .platform
        .api
        .ask("POST", "tokens", Some(unused))
        .is(201);
    let unused = unused.json["token"].as_str().unwrap().to_owned();
    for (calls, error) in [(&[Write][..], EIO), (&[Write, Change], EROFS)] {
        disk.fails(calls, error, "/records.db");
        site.deploy()
            .refuses(500, "disk-failed", "nothing was changed");
        site.serves();
        // Who only asks is answered, a token's first use though it cannot be written down.
        let reader = site.platform.api.with_token(&unused);
        reader.get("tenants/default/apps/shop/versions").is(200);
        assert!(disk.met() > 0);
        site.platform.get("shop", "/").is(200);
        disk.heals();
        site.deploys();
    }
    site.platform.crash();
    site.serves();
    site.deploys();
}

/// An fsync that failed may have lost what it was to bring to the disk, and the next one says nothing of it.
#[test]
fn after_a_failed_fsync_the_records_take_nothing_before_a_restart() {
    let Some(disk) = Disk::new("records whose fsync fails") else {
        return;
    };
    let mut site = Site::on(&disk);
    let wasm = guest("version");
    site.tried += 1;
    site.deploy_of(&wasm).is(201);
    site.tried += 1;
    disk.fails(&[Sync], EIO, "/records.db-wal");
    site.deploy_of(&wasm)
        .refuses(500, "disk-failed", "whether it was made is known once");
    disk.heals();
    // The disk says that it is well; what it holds is unknown all the same.
    for _ in 0..2 {
        site.deploy_of(&wasm)
            .refuses(503, "records-stopped", "apps are served on");
        site.serves();
    }
    let refused = site.platform.run(&["apps"]).exits(1);
    refused.says("started the platform again");
    let told = eventually("the operator is told", || {
        let said = site.platform.said();
        said.contains("take no more").then_some(said)
    });
    assert_eq!(told.matches("take no more").count(), 1, "{told}");
    // What serves needs no records.
    site.platform
        .signal(site.platform.workers()[0], libc::SIGKILL);
    eventually("a worker serves", || {
        let reply = site.platform.connect("shop").get("/").ok()?;
        (reply.status() == 200).then_some(())
    });
    site.serves();

    site.platform.kill_tree();
    site.platform.start_again();
    site.serves_what_was_acknowledged_or_tried();
    site.deploys();
    // What follows the change that never reached the disk must not hang on it.
    site.platform.kill_tree();
    disk.loses_power(&site.platform.data());
    site.platform.start_again();
    site.serves();
    site.deploys();
}

#[test]
fn records_that_cannot_be_moved_from_their_log_are_not_lost() {
    let Some(disk) = Disk::new("records whose log cannot be moved") else {
        return;
    };
    let mut site = Site::on(&disk);
    for calls in [Sync, Write] {
        disk.fails(&[calls], EIO, "/records.db$");
        site.deploys();
        // At its end the log is moved into the file.
        site.platform.stop();
        assert!(disk.met() > 0);
        disk.heals();
        disk.loses_power(&site.platform.data());
        site.platform.start_again();
        site.serves();
    }
    site.deploys();
}

#[test]
fn records_that_cannot_be_read_are_named_at_a_start() {
    let Some(disk) = Disk::new("records that cannot be read") else {
        return;
    };
    let mut site = Site::on(&disk);
    let backup = site.platform.folder().join("backup.tar");
    let backup = backup.to_str().unwrap();
    disk.fails(&[Read], EIO, "/records.db$");
    let refused = site.platform.run(&["backup", backup]).exits(1);
    refused.says("the platform cannot use its disk");
    assert!(!Path::new(backup).exists());
    site.serves();
    site.platform.kill_tree();
    for (calls, error, part) in [
        (&[Read][..], EIO, "/records.db$"),
        (&[Read], EIO, "/records.db-wal$"),
        (&[Write], EIO, "/records.db-wal$"),
        (&[Sync], EIO, "/records.db-wal$"),
        (&[Write, Change], EROFS, "/records.db"),
    ] {
        disk.heals();
        disk.fails(calls, error, part);
        site.refuses_to_start(&["records.db", "see to the disk"]);
        assert!(disk.met() > 0, "{part}");
    }
    disk.heals();
    site.platform.start_again();
    site.serves();
    site.deploys();
    site.platform.run(&["backup", backup]).exits(0);
}

#[test]
fn an_artifact_that_does_not_reach_the_disk_is_refused_and_not_there() {
    let Some(disk) = Disk::new("artifacts that cannot be kept") else {
        return;
    };
    let mut site = Site::on(&disk);
    let trials: [(&[Call], i32, &str); 7] = [
        (&[Write], EIO, "/temporary/"),
        (&[Change], EIO, "/temporary/"),
        (&[Sync], EIO, "/artifacts/.put-"),
        (&[Sync], EIO, "/artifacts$"),
        (&[Change], EIO, "/artifacts/"),
        (&[Read], EIO, ".wasm"),
        (&[Write, Change], EROFS, "/data/"),
    ];
    for (calls, error, part) in trials {
        let before = files(&site.platform.data().join("artifacts"));
        disk.fails(calls, error, part);
        let refused = site.deploy();
        assert_eq!(refused.reply.status(), 500, "{part}: {}", refused.json);
        refused.refuses(500, "disk-failed", "see to the disk, then try again");
        assert!(disk.met() > 0, "{part}");
        site.serves();
        disk.heals();
        site.keeps_nothing_by_half();
        if calls != [Read] {
            let after = files(&site.platform.data().join("artifacts"));
            assert_eq!(after, before, "{part}");
        }
        // The same again, as who is told to try again does.
        let wasm = variant(&guest("version"), site.tried);
        site.deploy_of(&wasm).is(201);
        site.serves();
    }
    site.platform.crash();
    site.serves();
}

#[test]
fn a_catalog_that_cannot_be_kept_is_served_and_kept_as_soon_as_it_can_be() {
    let Some(disk) = Disk::new("a catalog that cannot be kept") else {
        return;
    };
    let mut site = Site::on(&disk);
    let trials: [(&[Call], i32, &str); 4] = [
        (&[Write], EIO, "/catalog/last-good"),
        (&[Sync], EIO, "/catalog/last-good"),
        (&[Change, Write], EIO, "/catalog/last-good"),
        (&[Change, Write], EROFS, "/catalog/"),
    ];
    for (calls, error, part) in trials {
        disk.fails(calls, error, part);
        let deployed = site.deploys();
        let refusal = deployed.live.refusals.join(" ");
        assert!(
            refusal.contains("is served but not kept"),
            "{part}: {refusal}"
        );
        assert!(refusal.contains("last-good"), "{part}: {refusal}");
        assert!(disk.met() > 0, "{part}");
        // Nobody deploys anything again.
        disk.heals();
        let generation = deployed.deployment.generation;
        eventually("it is kept", || {
            let said = site.platform.said();
            said.contains(&format!("generation {generation} is kept"))
                .then_some(())
        });
        let now = site
            .platform
            .api
            .get("tenants/default/apps/shop/deployment");
        let now: Deployed = now.is(200).body();
        assert_eq!(now.live.refusals, [""; 0], "{part}");
    }
    // Where the file cannot be made longer it is written anew, and that is not believed before its folder is on disk.
    disk.fails(&[Write], EIO, "/last-good$");
    disk.fails(&[Sync], EIO, "/catalog$");
    site.deploys();
    eventually("it is tried again", || (disk.met() > 2).then_some(()));
    site.serves();
    disk.heals();
    // A start on a catalog that cannot be read goes on with what the records know.
    site.platform.crash();
    site.serves();
    site.platform.stop();
    disk.fails(&[Read], EIO, "/catalog/last-good$");
    site.platform.start_again();
    assert!(disk.met() > 0);
    site.serves();
    site.deploys();
    let said = site.platform.said();
    assert!(said.contains("set aside as `last-good.damaged`"), "{said}");
    disk.heals();
    site.platform.crash();
    site.serves();
    // One that cannot be kept though a whole platform was ended meanwhile is not what is served next.
    disk.fails(&[Write, Change], EIO, "/catalog/last-good");
    site.deploys();
    site.platform.kill_tree();
    site.platform.start_again();
    site.serves();
    disk.heals();
    site.platform.crash();
    site.serves();
}

#[test]
fn native_code_that_cannot_be_read_is_made_anew_or_named_and_never_run() {
    let Some(disk) = Disk::new("native code that cannot be read") else {
        return;
    };
    let mut site = Site::on(&disk);
    let native = native_of(&site.platform, &guest("hello"));
    // A place on the disk that is broken for good: another is found.
    site.platform.stop();
    disk.fails_within(&[Read], EIO, fs::metadata(&native).unwrap().ino());
    site.platform.start_again();
    site.serves();
    assert!(disk.met() > 0);
    disk.heals();
    // Neither is it believed any longer once a page of it, mapped, ended a worker. The first signal is taken back by who
    // looks for overflows of the stack.
    let native = native_of(&site.platform, &guest("hello"));
    let inode = fs::metadata(&native).unwrap().ino();
    disk.fails_within(&[Read], EIO, inode);
    let worker = site.platform.workers()[0];
    eventually("the worker ends", || {
        if tests::lives(worker) {
            site.platform.signal(worker, libc::SIGBUS);
        }
        (!tests::lives(worker)).then_some(())
    });
    eventually("a worker serves", || {
        let reply = site.platform.connect("hello").get("/").ok()?;
        (reply.status() == 200).then_some(())
    });
    site.serves();
    assert_ne!(fs::metadata(&native).unwrap().ino(), inode);
    disk.heals();
    // Nothing of it can be read wherever it lies: its app alone is refused, and comes back by itself.
    let name = native.file_name().unwrap().to_str().unwrap().to_owned();
    site.platform.stop();
    disk.fails(&[Read], EIO, &name);
    site.platform.start_again();
    let refused = site.platform.get("hello", "/").is(503);
    assert_eq!(refused.header("midge-error"), Some("unavailable"));
    assert!(disk.met() > 0);
    let shop = site.platform.get("shop", "/").is(200);
    assert_eq!(shop.text(), site.acknowledged.to_string());
    let log = ["logs", "hello", "--stream", "platform"];
    eventually("its log says why", || {
        let ran = site.platform.run(&log).exits(0);
        ran.out.contains("Input/output error").then_some(())
    });
    disk.heals();
    eventually("it is served again", || {
        (site.platform.get("hello", "/").status() == 200).then_some(())
    });
    site.serves();
}

#[test]
fn keys_that_cannot_be_read_are_named_and_not_made_anew() {
    let Some(disk) = Disk::new("keys that cannot be read") else {
        return;
    };
    let mut site = Site::on(&disk);
    let keys = ["catalog.key", "compile.key", "secrets"];
    let bytes = |site: &Site| {
        keys.map(|key| fs::read(site.platform.data().join("keys").join(key)).unwrap())
    };
    let before = bytes(&site);
    site.platform.stop();
    for key in keys {
        disk.fails(&[Read], EIO, &format!("/keys/{key}"));
        site.refuses_to_start(&[key, "see to the disk"]);
        disk.heals();
    }
    assert_eq!(bytes(&site), before);
    site.platform.start_again();
    site.serves();
    site.deploys();
}

#[test]
fn a_disk_that_becomes_read_only_stops_changes_and_nothing_that_is_served() {
    let Some(disk) = Disk::new("a disk that becomes read-only") else {
        return;
    };
    let mut site = Site::on(&disk);
    site.platform.get("shop", "/none").is(200);
    disk.fails(&[Write, Change], EROFS, "/data/");
    for _ in 0..2 {
        let refused = site
            .deploy()
            .refuses(500, "disk-failed", "Read-only file system");
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(detail.contains("nothing was changed"), "{detail}");
        site.serves();
    }
    let wasm = site.platform.folder().join("hello.wasm");
    fs::write(&wasm, variant(&guest("hello"), 99)).unwrap();
    let ran = site
        .platform
        .run(&["deploy", wasm.to_str().unwrap(), "--name", "hello"])
        .exits(1);
    ran.says("Read-only file system");
    // Who asks is answered, log lines that cannot be written are counted.
    site.platform.run(&["versions", "shop"]).exits(0);
    site.platform.run(&["status"]).exits(0);
    eventually("lines are counted", || {
        let dropped = site
            .platform
            .metric(r#"midge_log_lines_dropped_total{by="files"}"#);
        (dropped > 0.0).then_some(())
    });
    // A worker that dies is replaced, and finds all it needs.
    site.platform
        .signal(site.platform.workers()[0], libc::SIGKILL);
    eventually("a worker serves", || {
        let reply = site.platform.connect("shop").get("/").ok()?;
        (reply.status() == 200).then_some(())
    });
    site.serves();
    disk.heals();
    site.deploys();
    site.platform.crash();
    site.serves();
    // At its end it needs no disk.
    disk.fails(&[Write, Change], EROFS, "/data/");
    site.platform.stop();
    site.refuses_to_start(&["read-only", "mount it writable"]);
    disk.heals();
    site.platform.start_again();
    site.serves();
    site.deploys();
}

/// As above, and the kernel's own: a mount that is read-only, under a running platform and at a start.
#[test]
fn a_read_only_mount_is_named_and_served_from() {
    let name = "disks::a_read_only_mount_is_named_and_served_from";
    disk::apart("a read-only mount", name, "size=256m", || {
        let mut site = Site::of(Platform::configured("workers = 1"));
        let data = site.platform.data();
        let data = data.to_str().unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).status().unwrap();
            assert!(status.success(), "{program} {arguments:?}");
        };
        let read_only = || {
            run("mount", &["--bind", data, data]);
            run("mount", &["-o", "remount,bind,ro", data]);
        };
        let writable = || run("umount", &["-l", data]);
        read_only();
        assert!(fs::write(Path::new(data).join("probe"), "").is_err());
        site.deploy()
            .refuses(500, "disk-failed", "Read-only file system");
        site.serves();
        writable();
        site.deploys();
        site.platform.stop();
        read_only();
        site.refuses_to_start(&["Read-only file system", "mount it writable", "data"]);
        writable();
        site.platform.start_again();
        site.serves();
        site.deploys();
    });
}

#[test]
fn files_that_may_not_be_used_are_named_and_what_is_served_is_served_on() {
    disk::held_to_modes(|| {
        let mut site = Site::of(Platform::configured("workers = 1"));
        let data = site.platform.data();
        let set = |place: &str, mode: u32| {
            let path = data.join(place);
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            before
        };
        for (place, mode) in [
            ("artifacts", 0o500),
            ("temporary", 0o000),
            ("artifacts", 0o000),
        ] {
            let before = set(place, mode);
            site.deploy()
                .refuses(500, "disk-failed", "Permission denied");
            site.serves();
            fs::set_permissions(data.join(place), before).unwrap();
            site.keeps_nothing_by_half();
            site.deploys();
        }
        site.platform.stop();
        for (place, mode, named, cure) in [
            (".", 0o000, "data", "give it to the user"),
            ("midge.lock", 0o400, "data", "give it to the user"),
            ("midge.lock", 0o000, "data", "give it to the user"),
            ("records.db", 0o000, "records.db", "who may read and write"),
            (
                "records.db",
                0o400,
                "records.db",
                "give the file to the user",
            ),
            ("artifacts", 0o000, "artifacts", "who may read and write"),
            (
                "keys/catalog.key",
                0o000,
                "catalog.key",
                "who may read and write",
            ),
            (
                "keys/compile.key",
                0o000,
                "compile.key",
                "who may read and write",
            ),
            ("keys/secrets", 0o000, "secrets", "who may read and write"),
            ("node", 0o000, "node", "who may read and write"),
            ("node/catalog", 0o000, "catalog", "who may read and write"),
            (
                "node/catalog/last-good",
                0o000,
                "catalog",
                "who may read and write",
            ),
            ("node/logs", 0o000, "logs", "who may read and write"),
        ] {
            let before = set(place, mode);
            site.refuses_to_start(&[named, cure]);
            fs::set_permissions(data.join(place), before).unwrap();
        }
        // Nothing was made anew or left behind by those that were refused.
        site.platform.start_again();
        site.serves();
        site.deploys();
        // Native code that may not be read is made anew.
        site.platform.stop();
        for path in files(&data.join("artifacts")) {
            if path
                .extension()
                .is_some_and(|extension| extension != "wasm")
            {
                fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
            }
        }
        site.platform.start_again();
        site.serves();
    });
}

/// The records are `hostile_api::records_that_are_not_what_was_written_are_named`, single bits and cuts are `flips`.
/// Stores, and an app that has one.
const CART: &str = "grant = { kv = ['default'] }";

/// Sets the only key of the app `cart`.
fn set_cart(platform: &Platform, value: &str) -> Reply {
    platform.post("cart", "/set/default?k", value.as_bytes())
}

/// The key holds this.
#[track_caller]
fn cart_holds(platform: &Platform, value: &str) {
    let held = platform.post("cart", "/get/default?k", b"").is(200);
    held.says(&format!("value {value}"));
}

/// A write that failed may be on the disk by half, and a flush that failed may have lost it: nothing is written after it.
#[test]
fn after_a_failed_write_or_fsync_the_stores_take_nothing_before_a_restart_and_the_operator_is_told()
{
    for call in [Write, Sync] {
        let Some(disk) = Disk::new("stores whose disk fails") else {
            return;
        };
        let mut site = Site::on(&disk);
        site.platform.deploy_with("cart", &guest("kv_draft2"), CART);
        set_cart(&site.platform, "kept").is(200);
        assert_eq!(site.platform.metric("midge_stores_failed"), 0.0);
        disk.fails(&[call], EIO, "/stores/data.mdb");
        set_cart(&site.platform, "lost").is(500).mentions("failed");
        assert!(disk.met() > 0, "{call:?}");
        disk.heals();
        // The disk says that it is well; what it holds is unknown all the same.
        for _ in 0..2 {
            set_cart(&site.platform, "lost, too")
                .is(500)
                .mentions("failed");
            cart_holds(&site.platform, "kept");
            site.serves();
        }
        let told = eventually("the operator is told", || {
            let said = site.platform.said();
            said.contains("take no more changes").then_some(said)
        });
        assert_eq!(told.matches("take no more changes").count(), 1, "{told}");
        assert_eq!(site.platform.metric("midge_stores_failed"), 1.0);
        site.platform
            .run(&["kv", "set", "cart", "k", "x"])
            .exits(1)
            .says("the platform failed");
        // What needs no store needs none.
        site.deploys();
        site.platform.kill_tree();
        site.platform.start_again();
        site.serves();
        cart_holds(&site.platform, "kept");
        set_cart(&site.platform, "new").is(200);
        cart_holds(&site.platform, "new");
    }
}

#[test]
fn a_full_disk_refuses_what_stores_would_write_and_takes_it_once_there_is_room() {
    let Some(disk) = Disk::new("stores on a full disk") else {
        return;
    };
    let mut site = Site::on(&disk);
    site.platform.deploy_with("cart", &guest("kv_draft2"), CART);
    set_cart(&site.platform, "kept").is(200);
    for _ in 0..3 {
        disk.fails(&[Write], ENOSPC, "/stores/data.mdb");
        set_cart(&site.platform, "refused")
            .is(500)
            .mentions("no room");
        assert!(disk.met() > 0);
        cart_holds(&site.platform, "kept");
        site.serves();
        disk.heals();
        set_cart(&site.platform, "kept").is(200);
    }
    assert_eq!(site.platform.metric("midge_stores_failed"), 0.0);
    site.platform.kill_tree();
    site.platform.start_again();
    cart_holds(&site.platform, "kept");
    site.deploys();
}

#[test]
fn stores_that_cannot_be_used_are_named_at_a_start() {
    let Some(disk) = Disk::new("stores that cannot be used") else {
        return;
    };
    let mut site = Site::on(&disk);
    site.platform.deploy_with("cart", &guest("kv_draft2"), CART);
    set_cart(&site.platform, "kept").is(200);
    site.platform.kill_tree();
    for (calls, error) in [([Read, Change], EIO), ([Write, Change], EROFS)] {
        disk.heals();
        disk.fails(&calls, error, "/stores/");
        site.refuses_to_start(&["key-value stores in", "/stores`"]);
        assert!(disk.met() > 0, "{calls:?}");
    }
    disk.heals();
    site.platform.start_again();
    site.serves();
    cart_holds(&site.platform, "kept");
}

/// Each page of the stores in turn is nothing but zeros: the stores are named and not used, or whoever meets the page is
/// told, and no key holds what was not set.
#[test]
fn pages_of_stores_that_are_zeros_are_named_and_never_read_as_values() {
    const PAGE: usize = 4096;
    const KEYS: usize = 300;
    let mut site = Site::of(Platform::configured("workers = 1"));
    site.platform.deploy_with("cart", &guest("kv_draft2"), CART);
    let all: Vec<String> = (0..KEYS).map(|key| format!("{key}=of {key}")).collect();
    let set = all.join("\n");
    site.platform
        .post("cart", "/set-many/default", set.as_bytes())
        .is(200);
    site.platform.stop();
    let path = site.platform.data().join("stores/data.mdb");
    let whole = fs::read(&path).unwrap();
    let (mut refused, mut told) = (0, 0);
    for page in 0..whole.len() / PAGE {
        let mut bytes = whole.clone();
        bytes[page * PAGE..][..PAGE].fill(0);
        if bytes == whole {
            continue;
        }
        replace(&path, &bytes);
        if let Err(said) = site.platform.try_start_again() {
            assert!(said.contains("key-value stores in"), "page {page}: {said}");
            refused += 1;
            continue;
        }
        site.serves();
        for key in 0..KEYS {
            let path = format!("/get/default?{key}");
            let reply = site.platform.post("cart", &path, b"");
            match reply.status() {
                200 => drop(reply.says(&format!("value of {key}"))),
                _ => {
                    reply.is(500).mentions("failed");
                    told += 1;
                }
            }
        }
        site.serves();
        site.platform.stop();
    }
    assert!(refused > 0 && told > 0, "{refused} {told}");
    replace(&path, &whole);
    site.platform.start_again();
    let last = format!("/get/default?{}", KEYS - 1);
    site.platform.post("cart", &last, b"").is(200);
}

#[test]
fn files_of_zeros_and_with_swapped_blocks_are_named_or_made_anew() {
    let mut site = Site::of(Platform::configured("workers = 1"));
    site.platform.stop();
    let data = site.platform.data();
    let kinds = [
        ("artifacts", ".native"),
        ("artifacts", ".header"),
        ("artifacts", ".wasm"),
        ("node/catalog", "last-good"),
        ("keys", "catalog.key"),
        ("keys", "compile.key"),
        ("keys", "secrets"),
        (".", "admin.token"),
    ];
    for (folder, end) in kinds {
        for (what, change) in [
            ("zeros", zeros as fn(&[u8]) -> Vec<u8>),
            ("zeros at the end", zeros_at_the_end),
            ("swapped blocks", swapped),
        ] {
            let is_one = |path: &PathBuf| path.to_str().unwrap().ends_with(end);
            let changed: Vec<PathBuf> = files(&data.join(folder))
                .into_iter()
                .filter(is_one)
                .collect();
            assert!(!changed.is_empty(), "{end}");
            let whole: Vec<Vec<u8>> = changed.iter().map(|path| fs::read(path).unwrap()).collect();
            for (path, bytes) in changed.iter().zip(&whole) {
                replace(path, &change(bytes));
                assert_ne!(&fs::read(path).unwrap(), bytes, "{what}: {end}");
            }
            if folder == "keys" && what == "zeros" {
                site.refuses_to_start(&[end, "all zeros", "restore it from a backup"]);
            } else {
                site.platform.start_again();
                site.serves();
                site.platform.stop();
            }
            for (path, bytes) in changed.iter().zip(&whole) {
                replace(path, bytes);
            }
        }
    }
    site.platform.start_again();
    site.serves();
    site.deploys();
}

fn zeros(bytes: &[u8]) -> Vec<u8> {
    vec![0; bytes.len()]
}

fn zeros_at_the_end(bytes: &[u8]) -> Vec<u8> {
    let half = bytes.len() / 2;
    [&bytes[..half], &vec![0; bytes.len() - half]].concat()
}

/// The first block and the second change places: of 4 KiB, or of a half where there are no two.
fn swapped(bytes: &[u8]) -> Vec<u8> {
    let block = 4096.min(bytes.len() / 2);
    [
        &bytes[block..2 * block],
        &bytes[..block],
        &bytes[2 * block..],
    ]
    .concat()
}

/// Puts other bytes into a file's place, under its mode.
fn replace(path: &Path, bytes: &[u8]) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}
