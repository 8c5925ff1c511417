//! Engine revisions: what an older one compiled is never loaded, and nobody is refused while it is made anew.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tests::load::Check;
use tests::{Load, Platform, Reply, eventually, guest, manifest_of, variant};

use crate::siege::command;

const APPS: u32 = 30;

/// Every reply must be 200 with the app's own number.
struct Numbered(u32);

impl Check for Numbered {
    type Sent = ();
    fn before(&self) {}
    fn after(&self, (): (), reply: &Reply) -> Result<(), String> {
        if reply.status() == 200 && reply.text().trim() == self.0.to_string() {
            Ok(())
        } else {
            let error = reply.header("midge-error");
            Err(format!("app-{}: {} {error:?}", self.0, reply.status()))
        }
    }
}

/// D32
#[test]
fn after_an_upgrade_of_the_engine_every_app_is_served_by_what_is_made_anew() {
    let mut platform = Platform::configured("workers = 2");
    for number in 0..APPS {
        // A few take long to compile, most are quick.
        let wasm = match number % 5 {
            0 => variant(&guest("version"), number),
            _ => variant(&command(&number.to_string(), "", "(call $say)"), number),
        };
        let release = format!("[grant]\nenv = {{ RELEASE = '{number}' }}");
        platform.deploy_with(&format!("app-{number}"), &wasm, &release);
    }
    // A version that nobody is served comes last.
    let unserved = variant(&guest("version"), APPS);
    platform.api.publish(&manifest_of("app-0", ""), &unserved);
    let unserved = model::Digest::of(&unserved).to_string();

    platform.stop();
    let artifacts = platform.data().join("artifacts");
    let build = make_older(&platform.data(), APPS + 1);
    // As old as code is after an upgrade: what is younger than an hour might be about to become a version.
    let oldest = names(&artifacts, &format!(".{OLDER}{build}.native")).remove(0);
    let before = SystemTime::now() - Duration::from_secs(2 * 3600);
    let file = File::open(artifacts.join(&oldest)).unwrap();
    file.set_modified(before).unwrap();

    platform.start_again();
    let loads: Vec<Load> = (0..APPS).map(|number| ask(&platform, number)).collect();
    let made = format!(".{build}.native");
    eventually("all native code is made anew", || {
        (names(&artifacts, &made).len() as u32 == APPS + 1).then_some(())
    });
    for (number, load) in loads.iter().enumerate() {
        eventually(&format!("app-{number} is served"), || {
            (load.requests() > 2).then_some(())
        });
    }
    for load in loads {
        load.stop().is_clean();
    }

    let modified = |name: &String| {
        fs::metadata(artifacts.join(name))
            .unwrap()
            .modified()
            .unwrap()
    };
    let (last, others): (Vec<_>, Vec<_>) = names(&artifacts, &made)
        .into_iter()
        .partition(|name| name.starts_with(&unserved));
    let newest = others.iter().map(modified).max().unwrap();
    assert!(
        modified(&last[0]) >= newest,
        "what nobody is served came first"
    );
    for worker in platform.workers() {
        let maps = fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
        assert!(!maps.contains(OLDER), "{maps}");
        assert!(maps.contains(&made), "{maps}");
    }
    eventually("what is old and of no use is removed", || {
        (!artifacts.join(&oldest).exists()).then_some(())
    });
}

/// D32, while it serves: what is served is compiled before the new program takes over.
#[test]
fn a_program_with_another_engine_compiles_what_is_served_before_it_takes_over() {
    const SERVED: u32 = 6;
    let mut platform = Platform::configured("workers = 1");
    for number in 0..SERVED {
        let release = format!("[grant]\nenv = {{ RELEASE = '{number}' }}");
        let wasm = variant(&guest("version"), number);
        platform.deploy_with(&format!("app-{number}"), &wasm, &release);
    }
    let loads: Vec<Load> = (0..SERVED).map(|number| ask(&platform, number)).collect();
    // What the running workers have loaded they keep: only the new ones find nothing.
    eventually("every app is loaded", || {
        let loaded = platform.metric("midge_resident_apps");
        (loaded as u32 == SERVED).then_some(())
    });
    let build = make_older(&platform.data(), SERVED);
    platform.upgrade();
    let artifacts = platform.data().join("artifacts");
    let made = names(&artifacts, &format!(".{build}.native"));
    let anew = made.iter().filter(|name| !name.contains(OLDER)).count();
    assert_eq!(anew as u32, SERVED, "{made:?}");
    for load in loads {
        load.stop().is_clean();
    }
}

/// A client that asks an app again and again.
fn ask(platform: &Platform, number: u32) -> Load {
    let host = platform.host(&format!("app-{number}"));
    let pause = Duration::from_millis(10);
    let check = Arc::new(Numbered(number));
    Load::start(platform.listen, &host, "/", 1, pause, check)
}

/// What an older revision's name begins with here.
const OLDER: &str = "0.0-before-";

/// Makes everything that was compiled the work of an older revision; returns the name of the present one.
fn make_older(data: &Path, uploads: u32) -> String {
    let artifacts = data.join("artifacts");
    let mut builds = Vec::new();
    for kind in ["native", "header"] {
        for name in names(&artifacts, kind) {
            let (digest, build) = name.split_once('.').unwrap();
            fs::rename(
                artifacts.join(&name),
                artifacts.join(format!("{digest}.{OLDER}{build}")),
            )
            .unwrap();
            builds.push(build.strip_suffix(&format!(".{kind}")).unwrap().to_owned());
        }
    }
    assert_eq!(builds.len() as u32, 2 * uploads);
    // Those of an older one do not count, so that there are none is the same.
    let records = rusqlite::Connection::open(data.join("records.db")).unwrap();
    let forgotten = records.execute("DELETE FROM natives", []).unwrap();
    assert_eq!(forgotten as u32, uploads);
    builds.remove(0)
}

/// The artifacts whose names end so.
fn names(artifacts: &Path, end: &str) -> Vec<String> {
    let files = fs::read_dir(artifacts).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).collect()
}
