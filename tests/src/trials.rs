//! The long trials: `cargo xtask soak` runs them at their full counts, the tests with a fraction of them.

mod charged;
mod crashes;
mod flips;
mod handshakes;
mod one_connection;
mod parked;
mod stores;
mod upgrades;
mod worker_kills;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::{DeploymentCause, VersionNumber};

use crate::load::{Check, Protocol};
use crate::platform::manifest_of;
use crate::{Connection, Load, Platform, Reply, guest, variant};

pub use charged::{CHARGED, charged, cpu_us, is_charged};
pub use crashes::{CRASHES, crashes};
pub use flips::{FLIPS, flips};
pub use handshakes::{HANDSHAKES, handshakes};
pub use one_connection::{REQUESTS, ask_often, one_connection};
pub use parked::{PARKED, parked};
pub use stores::{STORE_CRASHES, stores};
pub use upgrades::{UPGRADES, upgrades};
pub use worker_kills::{WORKER_KILLS, worker_kills};

/// How many deploys and rollbacks `deploys` makes in full.
pub const DEPLOYS: u32 = 1_000;

/// How many instances `residue` makes in full.
pub const INSTANCES: u32 = 100_000;

/// Deploys and rolls back `count` times at five a second under a steady load: no request fails, and none that was sent
/// after a deployment was live, on a new connection or an old one, meets an older version.
pub fn deploys(count: u32, seed: u64) -> String {
    deploys_of(&guest("version"), "", Protocol::Http1, count, seed)
}

/// The same with another build of the guest `version`, with these lines in its manifest, under a load over this protocol.
pub fn deploys_of(wasm: &[u8], lines: &str, protocol: Protocol, count: u32, seed: u64) -> String {
    let platform = Platform::start();
    let release = |number: u32| {
        let grant = format!("[grant]\nenv = {{ RELEASE = \"{number}\" }}");
        manifest_of("shop", &format!("{lines}\n{grant}"))
    };
    let first = platform.api.deploy(&release(1), wasm).deployment.version;
    let pointer = Arc::new(Pointer::default());
    pointer.begin(1);

    let host = platform.host("shop");
    let load = Load::over(
        protocol,
        platform.listen,
        &host,
        "/",
        4,
        Duration::from_millis(2),
        pointer.clone(),
    );
    let mut chance = Chance(seed);
    // What was deployed, oldest first: a rollback goes to the one before.
    let mut history: Vec<(VersionNumber, u32)> = vec![(first, 1)];
    let mut newest = 1;
    let began = Instant::now();
    for turn in 1..=count {
        let due = began + Duration::from_millis(200) * turn;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let back = history.len() > 1 && chance.below(4) == 0;
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
            let version = platform.api.publish(&release(newest), wasm).number;
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
    /// The release that is served at first.
    fn begin(&self, release: u32) {
        let mut begun = self.begun.lock().expect("no holder panicked");
        begun.push(release.to_string());
    }

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

/// How many apps of each of two kinds `residue` deploys: together more than there are places for their instances, so
/// that each is placed where another kind was.
const APPS: u32 = 16;

/// Runs `count` instances of apps that fill memory, tables, globals and stack with a canary, and of apps that look for
/// anything but zero there. None finds anything.
pub fn residue(count: u32, seed: u64) -> String {
    let platform = Platform::configured("workers = 1\n[node]\nslots = 1\ntenant-slots = 1");
    let limits = "[limits]\ncpu = '2s'";
    let deploy = |name: &str, number: u32, fills: bool, looks: bool| {
        // Some stay within what an instance leaves resident, some go far beyond.
        let pages = [2, 16, 40, 128][(number % 4) as usize];
        let wasm = variant(&canary(pages, fills, looks), number);
        platform.deploy_with(&format!("{name}-{number}"), &wasm, limits);
    };
    for number in 0..APPS {
        deploy("fill", number, true, false);
        deploy("look", number, false, true);
    }
    deploy("both", 0, true, true);

    let mut connection = platform.connect("both-0");
    let ask = |connection: &mut Connection, app: &str, expected: &str| {
        connection.host(&platform.host(app));
        let reply = connection.get("/").expect("the platform answers").is(200);
        assert_eq!(reply.text(), expected, "{app} (seed {seed})");
    };
    // Who looks after it has filled finds something wherever a guest can see it: looking works.
    ask(&mut connection, "both-0", "7");
    let mut chance = Chance(seed);
    for turn in 0..count {
        let number = chance.below(APPS as usize);
        match turn % 2 {
            0 => ask(&mut connection, &format!("fill-{number}"), "0"),
            _ => ask(&mut connection, &format!("look-{number}"), "0"),
        }
        if turn % 500 == 499 {
            connection = platform.connect("both-0");
        }
    }
    format!(
        "residue: {count} instances, every second one full of canaries: none was found in another (seed {seed})"
    )
}

/// A command that grows by so many pages, `fills` everything with a canary, `looks` for what is not zero, and answers
/// with the sum of the places where it found something: 1 memory, 2 table, 4 globals, 8 stack.
fn canary(pages: u32, fills: bool, looks: bool) -> Vec<u8> {
    let every = |write: &dyn Fn(u32) -> String| (0..100).map(write).collect::<String>();
    let globals = every(&|i| format!("(global $global{i} (mut i64) (i64.const 0)) "));
    let set_globals = every(&|i| format!("(global.set $global{i} (i64.const -1)) "));
    let any_global = every(&|i| format!("(global.get $global{i}) i64.or "));
    let locals = every(&|i| format!("(local $local{i} i64) "));
    let set_locals = every(&|i| format!("(local.set $local{i} (i64.load (i32.const {}))) ", 8 * i));
    let keep_locals =
        every(&|i| format!("(i64.store (i32.const {}) (local.get $local{i})) ", 8 * i));
    let any_local = every(&|i| format!("(local.get $local{i}) i64.or "));
    // Whoever fills has a memory image as well, which whoever looks has not.
    let (image, fill) = match fills {
        true => (r#"(data (i32.const 4096) "canary")"#, "(call $fill)"),
        false => ("", ""),
    };
    let look = if looks {
        "(call $look)"
    } else {
        "(i32.const 0)"
    };
    let wat = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (table $table 100 funcref)
            (elem declare func $fill)
            {globals} {image}
            (func $end (result i32) (i32.mul (memory.size) (i32.const 65536)))
            (func $fill
                (memory.fill (i32.const 0) (i32.const 0xca) (call $end))
                (table.fill $table (i32.const 0) (ref.func $fill) (table.size $table))
                {set_globals}
                (call $fill_stack (i32.const 100)))
            (func $fill_stack (param $deep i32) {locals}
                {set_locals}
                (if (local.get $deep) (then (call $fill_stack (i32.sub (local.get $deep) (i32.const 1)))))
                {keep_locals})
            (func $look (result i32) (i32.add
                (i32.add (call $in_memory) (i32.mul (call $in_table) (i32.const 2)))
                (i32.add
                    (i32.mul (call $in_globals) (i32.const 4))
                    (i32.mul (i64.ne (call $in_stack (i32.const 100)) (i64.const 0)) (i32.const 8)))))
            (func $in_memory (result i32) (local $at i32) (local $any i64)
                (loop $next
                    (local.set $any (i64.or (local.get $any) (i64.load (local.get $at))))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (br_if $next (i32.lt_u (local.get $at) (call $end))))
                (i64.ne (local.get $any) (i64.const 0)))
            (func $in_table (result i32) (local $at i32) (local $any i32)
                (loop $next
                    (local.set $any (i32.or (local.get $any)
                        (i32.eqz (ref.is_null (table.get $table (local.get $at))))))
                    (local.set $at (i32.add (local.get $at) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $at) (table.size $table))))
                (local.get $any))
            (func $in_globals (result i32) (i64.const 0) {any_global} (i64.ne (i64.const 0)))
            (func $in_stack (param $deep i32) (result i64) {locals}
                (if (result i64) (local.get $deep)
                    (then (call $in_stack (i32.sub (local.get $deep) (i32.const 1))))
                    (else (i64.const 0)))
                {any_local})
            (func (export "_start") (local $found i64)
                (drop (memory.grow (i32.const {pages})))
                (drop (table.grow $table (ref.null func) (i32.mul (i32.const {pages}) (i32.const 100))))
                {fill}
                (local.set $found (i64.extend_i32_u {look}))
                ;; "a:b", a blank line, and the sum as one digit.
                (i64.store (i32.const 0) (i64.add
                    (i64.const 0x300a0a623a61)
                    (i64.shl (local.get $found) (i64.const 40))))
                (i32.store (i32.const 16) (i32.const 0))
                (i32.store (i32.const 20) (i32.const 6))
                (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))"#
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}

/// Numbers that a seed brings back.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) % limit as u64) as usize
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

/// Says that it is over, also to threads beside one that panics.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
