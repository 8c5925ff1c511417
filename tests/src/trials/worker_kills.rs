//! Workers killed at random moments under a steady load: their own connections end, and nobody else notices.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Chance, SetWhenDropped};
use crate::{Connection, Platform, clients, eventually, guest, is_stopped, lives};

/// How many workers `worker_kills` kills in full.
pub const WORKER_KILLS: u32 = 500;

const CLIENTS: u32 = 16;

/// The most milliseconds between two kills.
const BETWEEN: usize = 2_000;

/// Kills one of two workers `count` times under a steady load on keep-alive connections. Requests fail on connections
/// that the killed worker had accepted, and on no others: not on the other worker's, not on new ones that waited.
pub fn worker_kills(count: u32, seed: u64) -> String {
    let platform = Platform::configured("workers = 2");
    platform.deploy("hello", &guest("hello"));
    platform.deploy("slow", &guest("slow"));
    let (kills, over) = (Kills::default(), AtomicBool::new(false));
    let began = Instant::now();
    let mut all = Tally::default();
    thread::scope(|scope| {
        let _stop = SetWhenDropped(&over);
        let load = |number| {
            let (platform, kills, over) = (&platform, &kills, &over);
            let chance = Chance(seed ^ u64::from(number + 1));
            scope.spawn(move || Tally::of(platform, number, kills, over, chance))
        };
        let load: Vec<_> = (0..CLIENTS).map(load).collect();
        let mut chance = Chance(seed);
        for _ in 0..count {
            // One that dies young several times in a row is replaced after a pause, in which its connections wait: the
            // next moment is drawn when it is back, or it would always die at its very start.
            let workers = eventually("there is a survivor", || {
                <[u32; 2]>::try_from(platform.workers()).ok()
            });
            thread::sleep(Duration::from_millis(chance.below(BETWEEN) as u64));
            kills.kill(&platform, workers[chance.below(2)]);
        }
        eventually("every worker has a successor", || {
            let restarts = platform.metric("midge_worker_restarts_total");
            (restarts == f64::from(count) && platform.workers().len() == 2).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        for client in load {
            all.add(client.join().expect("a client does not panic"));
        }
    });
    let shown = &all.failures[..all.failures.len().min(20)];
    assert!(
        shown.is_empty(),
        "{} requests failed that were not the killed workers' own (seed {seed}): {shown:#?}",
        all.failures.len()
    );
    assert!(
        all.in_flight > 0,
        "no kill met a request in flight (seed {seed})"
    );
    format!(
        "worker-kills: {count} workers killed in {:.0} s under {} requests on {} connections: {} in flight on theirs failed, {} were sent when theirs was gone, none failed on another; the slowest reply took {} ms (seed {seed})",
        began.elapsed().as_secs_f64(),
        all.served,
        all.connections,
        all.in_flight,
        all.after,
        all.slowest.as_millis()
    )
}

/// Who was killed, and whose connections that cost.
#[derive(Default)]
struct Kills(Mutex<Vec<Kill>>);

struct Kill {
    at: Instant,
    clients: BTreeSet<u16>,
}

impl Kills {
    /// Stops a worker, so that it accepts nothing after its connections were looked at, and kills it.
    fn kill(&self, platform: &Platform, worker: u32) {
        platform.signal(worker, libc::SIGSTOP);
        eventually("the worker is stopped", || is_stopped(worker).then_some(()));
        let clients = clients(worker);
        let mut kills = self.0.lock().expect("no holder panicked");
        kills.push(Kill {
            at: Instant::now(),
            clients,
        });
        drop(kills);
        platform.signal(worker, libc::SIGKILL);
        eventually("a killed worker is gone", || (!lives(worker)).then_some(()));
    }

    /// When the worker was killed that had accepted a connection from `port` which began to be opened at `opened`.
    fn took(&self, port: u16, opened: Instant) -> Option<Instant> {
        let kills = self.0.lock().expect("no holder panicked");
        let mut since = kills.iter().rev().take_while(|kill| kill.at > opened);
        since
            .find(|kill| kill.clients.contains(&port))
            .map(|kill| kill.at)
    }
}

/// What came of a client's requests.
#[derive(Default)]
struct Tally {
    connections: u64,
    served: u64,
    /// Under way when their worker was killed.
    in_flight: u64,
    /// Sent on a connection whose worker was gone already, which its client did not know yet.
    after: u64,
    slowest: Duration,
    failures: Vec<String>,
}

impl Tally {
    /// A client that asks again and again, on each connection some times, until it is over.
    fn of(
        platform: &Platform,
        number: u32,
        kills: &Kills,
        over: &AtomicBool,
        mut chance: Chance,
    ) -> Self {
        // Some are mostly in flight, some mostly between two requests.
        let (app, path, says, pause) = match number % 2 {
            0 => ("hello", "/", "Hello, Midge!\n", 4),
            _ => ("slow", "/wait/20", "waited\n", 1),
        };
        let host = platform.host(app);
        let mut tally = Self::default();
        while !over.load(Ordering::Relaxed) {
            // Before it is opened: it may be accepted and lost before this thread has its turn again.
            let opened = Instant::now();
            let mut connection = match Connection::open(platform.listen, &host) {
                Ok(connection) => connection,
                Err(error) => {
                    tally.fail(format!("a new connection was not taken: {error}"));
                    continue;
                }
            };
            tally.connections += 1;
            for request in 0..=chance.below(40) {
                if !tally.ask(&mut connection, opened, path, says, kills, request) {
                    break;
                }
                thread::sleep(Duration::from_millis(pause));
            }
        }
        tally
    }

    /// Asks once; whether the connection can be used again.
    fn ask(
        &mut self,
        connection: &mut Connection,
        opened: Instant,
        path: &str,
        says: &str,
        kills: &Kills,
        request: usize,
    ) -> bool {
        let sent = Instant::now();
        let reply = connection
            .send_head("GET", path, "")
            .and_then(|()| connection.reply("GET"));
        let error = match reply {
            Ok(reply) if reply.status() == 200 && reply.text() == says => {
                self.served += 1;
                self.slowest = self.slowest.max(sent.elapsed());
                return true;
            }
            Ok(reply) => {
                let error = reply.header("midge-error");
                let text = reply.text();
                self.fail(format!("{path}: {} {error:?} {text:?}", reply.status()));
                return false;
            }
            Err(error) => error,
        };
        match kills.took(connection.address().port(), opened) {
            Some(killed) if sent < killed => self.in_flight += 1,
            Some(_) => self.after += 1,
            None => self.fail(format!(
                "request {request} of a connection that no killed worker had accepted: {error}"
            )),
        }
        false
    }

    fn fail(&mut self, what: String) {
        self.failures.push(what);
        // Where nobody listens, there is no end of failures.
        thread::sleep(Duration::from_millis(10));
    }

    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.served += other.served;
        self.in_flight += other.in_flight;
        self.after += other.after;
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures);
    }
}
