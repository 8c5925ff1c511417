//! The long trials: `cargo xtask soak` runs them at their full counts, the tests at a twentieth.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::{DeploymentCause, VersionNumber};

use crate::load::Check;
use crate::platform::manifest_of;
use crate::{Load, Platform, Reply, guest};

/// How many deploys and rollbacks `deploys` makes in full.
pub const DEPLOYS: u32 = 1_000;

/// Deploys and rolls back `count` times at five a second under a steady load: no request fails, and none that was sent
/// after a deployment was live, on a new connection or an old one, meets an older version.
pub fn deploys(count: u32, seed: u64) -> String {
    let platform = Platform::start();
    let wasm = guest("version");
    let release = |number: u32| {
        manifest_of(
            "shop",
            &format!("[grant]\nenv = {{ RELEASE = \"{number}\" }}"),
        )
    };
    let first = platform.api.deploy(&release(1), &wasm).deployment.version;
    let pointer = Arc::new(Pointer::default());
    pointer
        .begun
        .lock()
        .expect("no holder panicked")
        .push("1".to_owned());

    let host = platform.host("shop");
    let load = Load::start(
        platform.listen,
        &host,
        "/",
        4,
        Duration::from_millis(2),
        pointer.clone(),
    );
    let mut chance = seed;
    // What was deployed, oldest first: a rollback goes to the one before.
    let mut history: Vec<(VersionNumber, u32)> = vec![(first, 1)];
    let mut newest = 1;
    let began = Instant::now();
    for turn in 1..=count {
        let due = began + Duration::from_millis(200) * turn;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        chance = chance
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let back = history.len() > 1 && chance >> 62 == 0;
        if back {
            history.pop();
            let (version, number) = *history.last().expect("one is left");
            pointer.moves_to(number, || {
                platform
                    .api
                    .serve("shop", version, DeploymentCause::Rollback)
            });
        } else {
            newest += 1;
            let version = platform.api.publish(&release(newest), &wasm).number;
            history.push((version, newest));
            pointer.moves_to(newest, || {
                platform.api.serve("shop", version, DeploymentCause::Deploy)
            });
        }
    }
    let took = began.elapsed();
    let report = load.stop().is_clean();
    format!(
        "deploys: {count} deploys and rollbacks in {:.0} s under {} requests: 0 failed, none met an older version; the slowest reply took {} ms (seed {seed})",
        took.as_secs_f64(),
        report.requests,
        report.slowest.as_millis(),
    )
}

/// Which releases were served, in order, and how many of them are known to be live.
#[derive(Default)]
struct Pointer {
    begun: Mutex<Vec<String>>,
    live: AtomicUsize,
}

impl Pointer {
    fn moves_to<T>(&self, release: u32, act: impl FnOnce() -> T) {
        let mut begun = self.begun.lock().expect("no holder panicked");
        begun.push(release.to_string());
        let last = begun.len() - 1;
        drop(begun);
        act();
        self.live.store(last, Ordering::SeqCst);
    }
}

impl Check for Pointer {
    type Sent = usize;

    fn before(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    fn after(&self, live: usize, reply: &Reply) -> Result<(), String> {
        let begun = self.begun.lock().expect("no holder panicked");
        let allowed = &begun[live..];
        let text = reply.text();
        if reply.status() == 200 && allowed.contains(&text) {
            return Ok(());
        }
        let error = reply.header("midge-error");
        Err(format!(
            "{} {error:?} release {text}, when only {allowed:?} could answer",
            reply.status()
        ))
    }
}
