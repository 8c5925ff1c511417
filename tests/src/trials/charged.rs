//! Guests that spin until they are stopped, on a machine that is busy: each is charged its budget, and hardly more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use super::{Chance, SetWhenDropped};
use crate::{Platform, cpu_seconds, eventually, guest};

/// How many guests of each budget `charged` stops in full.
pub const CHARGED: u32 = 100;

const BUDGETS_MS: [u64; 3] = [10, 50, 500];

/// What a guest may be charged beyond its budget.
const BEYOND_US: u64 = 5_000;

/// Stops `count` spinning guests of each of three budgets while every other core is kept busy: each is charged its
/// budget at least, and no more than 5 ms beyond it, but for one in twenty, when the machine itself was late.
pub fn charged(count: u32, seed: u64) -> String {
    let platform = Platform::configured("workers = 1");
    for budget in BUDGETS_MS {
        let limits = format!("[limits]\ncpu = '{budget}ms'");
        platform.deploy_with(&app(budget), &guest("spin"), &limits);
    }
    // They take turns, so that a moment at which the machine is late meets all of them.
    let mut turns: Vec<u64> = BUDGETS_MS.repeat(count as usize);
    Chance(seed).shuffle(&mut turns);
    let mut charged = BUDGETS_MS.map(|_| Vec::new());
    let worker = platform.workers()[0];
    let began = cpu_seconds(worker);
    beside_busy_cores(|| {
        for budget in turns {
            let place = BUDGETS_MS.iter().position(|other| *other == budget);
            charged[place.expect("each is one of them")].push(charge(&platform, &app(budget)));
        }
    });
    // By the kernel's own account of the worker: what is not charged is not merely unseen.
    let used = cpu_seconds(worker) - began;
    let sum = charged.iter().flatten().sum::<u64>() as f64 / 1e6;
    let allowed = sum * 1.05 + 0.005 * f64::from(count) * BUDGETS_MS.len() as f64;
    let account = format!("the worker used {used:.2} s of CPU for {sum:.2} s charged");
    assert!(used <= allowed, "{account} (seed {seed})");
    let figures = BUDGETS_MS.iter().zip(charged).map(|(budget, charged)| {
        let budget_us = budget * 1000;
        let app = format!("{} (seed {seed})", app(*budget));
        is_charged(&app, charged.clone(), budget_us, BEYOND_US);
        let most = charged.iter().max().expect("there are some") - budget_us;
        let beyond = |charged: &&u64| **charged > budget_us + BEYOND_US;
        let late = charged.iter().filter(beyond).count();
        assert!(
            late <= 2.max(charged.len() / 20),
            "{app}: {late} were charged more than {BEYOND_US} µs too much: {charged:?}"
        );
        format!("{most} µs beyond {budget} ms ({late} over {BEYOND_US})")
    });
    let figures: Vec<String> = figures.collect();
    format!(
        "charged: {count} guests of each budget, none stopped before it; at most {}; {account} (seed {seed})",
        figures.join(", ")
    )
}

/// Each was charged its budget at least; and but for those when the machine itself was late, no more than `beyond_us`
/// over it.
#[track_caller]
pub fn is_charged(app: &str, mut charged: Vec<u64>, budget_us: u64, beyond_us: u64) {
    charged.sort_unstable();
    let middle = charged[charged.len() / 2];
    let bounds = format!("from {budget_us} to {beyond_us} more, but {charged:?}");
    assert!(charged[0] >= budget_us, "{app}: charged not {bounds}");
    assert!(
        middle <= budget_us + beyond_us,
        "{app}: charged not {bounds}"
    );
}

/// What the log record of a request's end says that it was charged.
pub fn cpu_us(end: &Value) -> Option<u64> {
    end["usage"]["cpu_us"].as_u64()
}

fn app(budget_ms: u64) -> String {
    format!("spin-{budget_ms}")
}

/// Asks once; what that was charged.
fn charge(platform: &Platform, app: &str) -> u64 {
    let reply = platform.get(app, "/").is(503).fails("cpu-limit");
    let request = reply
        .header("midge-request-id")
        .expect("every reply has one");
    let path = format!("tenants/default/apps/{app}/logs?stream=request");
    eventually("the log tells of the request", || {
        let text = platform.api.get(&path).reply.text();
        let mut records = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a log is JSON lines"));
        let record = records.find(|record| record["request"] == request)?;
        cpu_us(&record["done"])
    })
}

/// Does something while all cores but one have a thread that spins.
fn beside_busy_cores(work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        let others = thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
        for _ in 0..others {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _stop = SetWhenDropped(done);
        work();
    });
}
