//! Upgrades under load: the binary takes its own place again and again, and nobody who asks anything notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use model::DeploymentCause;

use super::{Chance, Pointer};
use crate::load::Always;
use crate::platform::{Leaving, manifest_of};
use crate::{Connection, Load, Platform, guest};

/// How many upgrades are made in full.
pub const UPGRADES: u32 = 20;

/// Lines of a long stream, with a pause before each.
const LINES: usize = 80;
const LINE_PAUSE: Duration = Duration::from_millis(50);
/// Pieces of a long upload, with a pause before each.
const PIECES: usize = 64;
const PIECE: usize = 64 << 10;

/// Upgrades `count` times under keep-alive connections, new connections, long streams and long uploads: none is refused,
/// reset or cut; and no request that was sent after a deployment was live meets an older version.
pub fn upgrades(count: u32, seed: u64) -> String {
    let mut platform = Platform::configured("workers = 2");
    for app in ["hello", "slow", "sum"] {
        platform.deploy(app, &guest(app));
    }
    let release = |number: u32| {
        let grants = format!("[grant]\nenv = {{ RELEASE = \"{number}\" }}");
        manifest_of("shop", &grants)
    };
    let pointer = Arc::new(Pointer::default());
    pointer.begin(0);
    platform.api.deploy(&release(0), &guest("version"));

    let pause = Duration::from_millis(2);
    let host = |app: &str| platform.host(app);
    let hello = Arc::new(Always("Hello, Midge!\n"));
    let kept = Load::start(platform.listen, &host("hello"), "/", 6, pause, hello);
    let shop = Load::start(
        platform.listen,
        &host("shop"),
        "/",
        2,
        pause,
        pointer.clone(),
    );
    let callers = [
        Callers::start(2, &platform, "hello", knock),
        Callers::start(4, &platform, "slow", stream),
        Callers::start(4, &platform, "sum", upload),
    ];

    let mut chance = Chance(seed);
    let mut leaving: Vec<Leaving> = Vec::new();
    let mut pauses = Vec::new();
    let began = Instant::now();
    for number in 1..=count {
        thread::sleep(Duration::from_millis(200 + chance.below(1500) as u64));
        let (upgraded, old) = platform.upgrade();
        assert_eq!(upgraded.pid, platform.id());
        pauses.push(upgraded.api_pause_ms);
        leaving.push(old);
        let version = platform
            .api
            .publish(&release(number), &guest("version"))
            .number;
        pointer.moves_to(number, || {
            platform.api.serve("shop", version, DeploymentCause::Deploy)
        });
    }
    let took = began.elapsed();
    let kept = kept.stop().is_clean();
    let shop = shop.stop().is_clean();
    let [knocks, streams, uploads] = callers.map(Callers::stop);
    let count_leaving = leaving.len();
    leaving.into_iter().for_each(Leaving::ended);
    assert_eq!(platform.get("hello", "/").is(200).text(), "Hello, Midge!\n");
    pauses.sort_unstable();
    format!(
        "upgrades: {count} in {:.0} s under {} requests on kept connections, {knocks} on new ones, {streams} streams and {uploads} uploads: 0 refused, 0 reset, 0 cut; all {count_leaving} old processes ended; the API paused for {} ms in the middle, {} ms at most; the slowest reply took {} ms (seed {seed})",
        took.as_secs_f64(),
        kept.requests + shop.requests,
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1],
        kept.slowest.max(shop.slowest).as_millis(),
    )
}

/// Threads that each do the same again and again.
struct Callers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    /// `call` is given a new connection each time and panics if anything is not as it should be.
    fn start(count: usize, platform: &Platform, app: &str, call: fn(Connection)) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let (address, host) = (platform.listen, platform.host(app));
        let begin = |_| {
            let (stop, done, host) = (stop.clone(), done.clone(), host.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    call(Connection::open(address, &host).expect("no connection is refused"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..count).map(begin).collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("every call went well");
        }
        self.done.load(Ordering::Relaxed)
    }
}

/// One request on a connection of its own.
fn knock(mut connection: Connection) {
    let reply = connection.request("GET", "/", "connection: close\r\n", b"");
    let reply = reply.expect("a new connection is served");
    reply.is(200).says("Hello, Midge!\n");
}

/// A reply that takes some seconds.
fn stream(mut connection: Connection) {
    let path = format!("/{LINES}/{}", LINE_PAUSE.as_millis());
    let reply = connection.get(&path).expect("a stream is not cut");
    let reply = reply.is(200);
    let text = reply.text();
    assert_eq!(text.lines().count(), LINES, "{text}");
    assert!(text.ends_with(&format!("line {LINES}\n")));
}

/// A request that takes some seconds.
fn upload(mut connection: Connection) {
    let length = PIECES * PIECE;
    let head = format!("content-length: {length}\r\n");
    connection
        .send_head("POST", "/", &head)
        .expect("an upload is not cut");
    for _ in 0..PIECES {
        thread::sleep(Duration::from_millis(40));
        connection.send(&[7; PIECE]).expect("an upload is not cut");
    }
    let reply = connection.reply("POST").expect("an upload is answered");
    reply.is(200).says(&length.to_string());
}
