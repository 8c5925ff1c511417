//! Ten thousand deployed apps: how long a start takes, what each weighs, and what one more deployment costs.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use model::{DeploymentCause, Digest};
use tests::{Platform, bare, children, guest, private_bytes, variant, workers};

use crate::row::{Row, median};

const APPS: u32 = 10_000;
const DIGESTS: u32 = 100;
const DEPLOYS: usize = 100;
/// How many callers fill the platform at once.
const CALLERS: usize = 4;

pub fn measure() -> Vec<Row> {
    let mut platform = Platform::configured("workers = 2");
    platform.restart();
    let empty = weight(&platform);
    fill(&platform);

    // Three starts: the machine may be busy with something else.
    let mut ready = Vec::new();
    for _ in 0..3 {
        platform.restart();
        ready.push(platform.ready_in.as_secs_f64());
    }
    let full = weight(&platform);
    let per_app = full.saturating_sub(empty) as f64 / f64::from(APPS);
    platform.get("app-9999", "/").is(200);

    let (stalls, deltas) = deploys(&platform);
    let worst = stalls.iter().copied().fold(0.0, f64::max);
    vec![
        Row {
            what: "ready with 10,000 deployed apps over 100 digests",
            figure: median(ready),
            bound: Some(1.0),
            unit: "s",
            note: String::new(),
        },
        Row {
            what: "memory of an app that is not resident, summed over supervisor and two workers",
            figure: per_app / 1024.0,
            bound: Some(4.0),
            unit: "KiB",
            note: format!("{} MiB with them, {} MiB empty", full >> 20, empty >> 20),
        },
        Row {
            what: "one deploy among 10,000 apps: all of a worker's CPU time for it, at the most",
            figure: worst,
            bound: Some(1.0),
            unit: "ms",
            note: format!("median {:.2} ms of {DEPLOYS}", median(stalls)),
        },
        Row {
            what: "one deploy among 10,000 apps: the signed step that is distributed",
            figure: median(deltas) / 1024.0,
            bound: Some(4.0),
            unit: "KiB",
            note: String::new(),
        },
    ]
}

/// Makes all the apps.
fn fill(platform: &Platform) {
    let wasm = guest("hello");
    let digests: Vec<Digest> = (0..DIGESTS)
        .map(|number| {
            let variant = variant(&wasm, number);
            platform.api.upload(&variant);
            Digest::of(&variant)
        })
        .collect();
    let began = Instant::now();
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= APPS {
                        return;
                    }
                    if number.is_multiple_of(1000) {
                        eprintln!(
                            "  {number} of {APPS} apps after {:.0} s",
                            began.elapsed().as_secs_f64()
                        );
                    }
                    let app = format!("app-{number}");
                    let made = platform
                        .api
                        .new_version(&bare(&app), digests[(number % DIGESTS) as usize]);
                    let version: model::Version = made.body();
                    platform
                        .api
                        .serve(&app, version.number, DeploymentCause::Deploy);
                }
            });
        }
    });
}

/// Memory of all of the platform's processes, in bytes, once it no longer changes much.
fn weight(platform: &Platform) -> u64 {
    let sum = || -> u64 {
        let all = [platform.id()].into_iter().chain(children(platform.id()));
        all.map(private_bytes).sum()
    };
    let mut last = sum();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = sum();
        if now.abs_diff(last) < 256 << 10 {
            return now;
        }
        last = now;
    }
}

/// For each of some deploys: the most CPU time that one worker spent meanwhile, in milliseconds, of which a stall is a
/// part; and the bytes of its signed step.
fn deploys(platform: &Platform) -> (Vec<f64>, Vec<f64>) {
    let length =
        || last_good_bytes(&platform.data()).expect("a node keeps its last good catalog") as f64;
    let mut deltas = Vec::new();
    let workers = workers(platform.id());
    let number = |deployed: usize| {
        model::VersionNumber::new(1 + (deployed % 2) as u32).expect("a version from 1")
    };
    platform
        .api
        .publish(&bare("app-5000"), &variant(&guest("hello"), DIGESTS));
    let mut stalls = Vec::new();
    for deployed in 1..=DEPLOYS {
        let length_before = length();
        let before: Vec<f64> = workers.iter().map(|id| thread_ms(*id)).collect();
        platform
            .api
            .serve("app-5000", number(deployed), DeploymentCause::Deploy);
        // What the worker frees afterwards counts as well.
        std::thread::sleep(Duration::from_millis(20));
        let spent = workers
            .iter()
            .zip(before)
            .map(|(id, before)| thread_ms(*id) - before);
        stalls.push(spent.fold(0.0, f64::max));
        // Now and then the file is written anew, and shorter.
        deltas.extend(Some(length() - length_before).filter(|grown| *grown > 0.0));
    }
    (stalls, deltas)
}

/// CPU time of a worker's one busy thread, in milliseconds.
fn thread_ms(worker: u32) -> f64 {
    let text =
        std::fs::read_to_string(format!("/proc/{worker}/schedstat")).expect("the worker lives");
    let nanoseconds: f64 = text
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("a number");
    nanoseconds / 1e6
}

/// The length of the file that each signed step towards a generation is appended to.
fn last_good_bytes(folder: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()));
    entries
        .into_iter()
        .find_map(|path| match path.file_name()?.to_str()? {
            "last-good" => Some(std::fs::metadata(&path).ok()?.len()),
            _ if path.is_dir() => last_good_bytes(&path),
            _ => None,
        })
}
