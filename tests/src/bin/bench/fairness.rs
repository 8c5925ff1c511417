//! What one tenant's excess costs another, and what overload costs: one worker on a core of its own, its callers on the
//! other.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tests::{Connection, Platform, Settings, guest, manifest_of, pin};

use crate::row::{Row, median};

const CORE: usize = 0;
const CALLERS_CORE: usize = 1;
const TIME: Duration = Duration::from_secs(8);
/// The overload and the peak that it is held against alternate: the machine is not always as fast.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
/// What a noisy request spins, in milliseconds.
const SPIN_MS: f64 = 40.0;
/// What a request of the overload burns, in milliseconds.
const BURN_MS: f64 = 2.0;

pub fn measure() -> Vec<Row> {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: fairness: this machine has one core");
        return Vec::new();
    }
    pin(CALLERS_CORE);
    let platform = Platform::start_with(Settings {
        config: "workers = 1".into(),
        core: Some(CORE),
        ..Settings::default()
    });
    let spins = "[limits]\ncpu = '100ms'";
    platform.deploy("calm", &guest("hello"));
    let noisy = platform.api.new_tenant("noisy");
    noisy.deploy(&manifest_of("noise", spins), &guest("burn"));
    platform.deploy_with("burn", &guest("burn"), spins);
    let rounds = rounds_per_ms(&platform);
    let mut rows = noisy_neighbour(&platform, rounds);
    rows.extend(overload(&platform, rounds));
    rows
}

/// How often the guest goes round in a millisecond, in thousands.
fn rounds_per_ms(platform: &Platform) -> f64 {
    const ROUNDS: u32 = 20_000;
    let mut connection = platform.connect("burn");
    let times = (0..9).map(|_| {
        let began = Instant::now();
        let reply = connection.get(&format!("/{ROUNDS}"));
        reply.expect("the app answers").is(200);
        began.elapsed().as_secs_f64() * 1e3
    });
    f64::from(ROUNDS) / median(times.collect())
}

/// One tenant at a fifth of what the core could do, alone and beside another that wants ten times its half of it.
fn noisy_neighbour(platform: &Platform, rounds: f64) -> Vec<Row> {
    let calm = Target::of(platform, "calm", "/".into());
    let peak = calm.closed(16, Duration::from_secs(3)).answered as f64 / 3.0;
    let rate = peak / 5.0;
    let quiet = calm.open(16, rate, TIME);
    let noise = Target::of(platform, "noise.noisy", format!("/{:.0}", rounds * SPIN_MS));
    let noise_rate = 10.0 * 0.5 * 1000.0 / SPIN_MS;
    let (beside, noisy) = thread::scope(|scope| {
        let noisy = scope.spawn(|| noise.open(600, noise_rate, TIME + Duration::from_secs(2)));
        // The other has taken all that it gets by then.
        thread::sleep(Duration::from_secs(2));
        let beside = calm.open(16, rate, TIME);
        (beside, noisy.join().expect("a caller does not panic"))
    });
    let (alone, other) = (quiet.p99(), beside.p99());
    let missed = 100.0 * (1.0 - beside.answered as f64 / quiet.answered as f64);
    vec![
        Row {
            what: "99th percentile of a tenant at a fifth of the core, beside one that wants ten times its share",
            figure: other,
            bound: Some((1.5 * alone).max(alone + 5.0)),
            unit: "ms",
            note: format!(
                "alone {alone:.2} ms; {rate:.0} requests a second, beside {noise_rate:.0} of {SPIN_MS} ms each, of which {} were answered, {} refused and {} failed in {} s",
                noisy.answered,
                noisy.refused.len(),
                noisy.failed,
                TIME.as_secs() + 2
            ),
        },
        Row {
            what: "requests that it missed meanwhile",
            figure: missed.max(0.0),
            bound: Some(1.0),
            unit: "%",
            note: format!("{} answered, {} alone", beside.answered, quiet.answered),
        },
    ]
}

/// Five times what the core can do of one app.
fn overload(platform: &Platform, rounds: f64) -> Vec<Row> {
    let burn = Target::of(platform, "burn", format!("/{:.0}", rounds * BURN_MS));
    let mut figures = Vec::new();
    let mut refused = Vec::new();
    for _ in 0..ROUNDS {
        let peak = burn.closed(16, ROUND).answered as f64 / ROUND.as_secs_f64();
        let over = burn.open(700, 5.0 * peak, ROUND);
        figures.push([peak, over.answered as f64 / ROUND.as_secs_f64()]);
        refused.extend(over.refused);
    }
    let of = |index: usize| median(figures.iter().map(|round| round[index]).collect());
    let lost = figures
        .iter()
        .map(|[peak, over]| 100.0 * (1.0 - over / peak));
    vec![
        Row {
            what: "work that overload of five times the peak loses of it",
            figure: median(lost.collect()),
            bound: Some(10.0),
            unit: "%",
            note: format!(
                "{:.0} of {:.0} requests of {BURN_MS} ms a second",
                of(1),
                of(0)
            ),
        },
        Row {
            what: "99th percentile of the refusals meanwhile",
            figure: percentile(&refused, 99.0),
            bound: Some(5.0),
            unit: "ms",
            note: format!("{} refused", refused.len()),
        },
    ]
}

/// What is asked.
struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

/// What came of it.
#[derive(Default)]
struct Came {
    /// Replies within the time.
    answered: u64,
    /// From the moment when each of these was due to its reply, in milliseconds.
    took: Vec<f64>,
    /// From sending each request that was refused to its refusal, in milliseconds.
    refused: Vec<f64>,
    /// Other replies, and none.
    failed: u64,
}

impl Came {
    fn p99(&self) -> f64 {
        percentile(&self.took, 99.0)
    }
}

impl Target {
    fn of(platform: &Platform, app: &str, path: String) -> Self {
        Self {
            address: platform.listen,
            host: platform.host(app),
            path,
        }
    }

    /// So many callers that each ask again as soon as they were answered.
    fn closed(&self, callers: u32, time: Duration) -> Came {
        self.call(callers, Duration::ZERO, time)
    }

    /// `rate` requests a second, due at even distances whether the ones before were answered or not.
    fn open(&self, callers: u32, rate: f64, time: Duration) -> Came {
        let period = Duration::from_secs_f64(f64::from(callers) / rate);
        self.call(callers, period, time)
    }

    fn call(&self, callers: u32, period: Duration, time: Duration) -> Came {
        let came = Mutex::new(Came::default());
        let begin = Instant::now() + Duration::from_millis(200);
        let end = begin + time;
        thread::scope(|scope| {
            for number in 0..callers {
                let first = begin + period * number / callers;
                let came = &came;
                thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, move || {
                        let own = self.caller(first, period, end);
                        let mut came = came.lock().expect("no caller panicked");
                        came.answered += own.answered;
                        came.took.extend(own.took);
                        came.refused.extend(own.refused);
                        came.failed += own.failed;
                    })
                    .expect("a thread starts");
            }
        });
        came.into_inner().expect("no caller panicked")
    }

    /// One caller on one connection.
    fn caller(&self, first: Instant, period: Duration, end: Instant) -> Came {
        let mut came = Came::default();
        let open = || Connection::open(self.address, &self.host).expect("the platform accepts");
        let mut connection = open();
        let mut due = first;
        while due < end && Instant::now() < end {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            let head = connection.send_head("GET", &self.path, "");
            let reply = head.and_then(|()| connection.reply("GET"));
            let now = Instant::now();
            let ms = |since: Instant| now.duration_since(since).as_secs_f64() * 1e3;
            match reply {
                Ok(reply) if reply.status() == 200 => {
                    came.answered += u64::from(now <= end);
                    came.took
                        .push(ms(if period.is_zero() { sent } else { due }));
                }
                Ok(reply) if reply.header("midge-error") == Some("overloaded") => {
                    came.refused.push(ms(sent));
                }
                // Idle for too long, or over a limit of its own.
                _ => {
                    came.failed += 1;
                    connection = open();
                }
            }
            due = if period.is_zero() { now } else { due + period };
        }
        came
    }
}

fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}
