//! Two busy workers, each on a core of its own with its own generator, against one: they must not slow each other.

use std::time::Duration;

use tests::{Platform, children, cpu_seconds, guest, workers};

use crate::generator::Generator;
use crate::row::{Row, median};

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(3);

pub fn measure() -> Vec<Row> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        eprintln!("skipped: two workers: this machine has one core");
        return Vec::new();
    }
    let mut one = Side::start(1);
    let mut two = Side::start(2);
    let rounds: Vec<[f64; 2]> = (0..ROUNDS)
        .map(|_| [one.per_request(), two.per_request()])
        .collect();
    let of = |index: usize| median(rounds.iter().map(|round| round[index]).collect());
    vec![Row {
        what: "CPU per request with two busy workers, against one",
        figure: median(rounds.iter().map(|round| round[1] / round[0]).collect()),
        bound: Some(1.11),
        unit: "×",
        note: format!("{:.1} µs against {:.1} µs", of(1), of(0)),
    }]
}

/// A platform with so many workers and a generator for each.
struct Side {
    platform: Platform,
    generators: Vec<Generator>,
}

impl Side {
    fn start(count: u32) -> Self {
        let platform = Platform::configured(&format!("workers = {count}\n[node]\npin = true"));
        platform.deploy("hello", &guest("hello"));
        let host = platform.host("hello");
        let generator = |id: u32| Generator::of(id, core_of(id), platform.listen, &host);
        let generators = workers(platform.id()).into_iter().map(generator).collect();
        Self {
            platform,
            generators,
        }
    }

    /// CPU time of all of the platform's processes for each request, in microseconds.
    fn per_request(&mut self) -> f64 {
        let supervisor = self.platform.id();
        let all: Vec<u32> = [supervisor]
            .into_iter()
            .chain(children(supervisor))
            .collect();
        let used = || all.iter().map(|id| cpu_seconds(*id)).sum::<f64>();
        let before = used();
        let running: Vec<_> = self
            .generators
            .drain(..)
            .map(|generator| generator.run(TIME))
            .collect();
        let mut requests = 0;
        for generator in running {
            let (generator, replies) = generator.join().expect("a generator does not panic");
            self.generators.push(generator);
            requests += replies;
        }
        (used() - before) / requests as f64 * 1e6
    }
}

/// The one core that a pinned process may run on.
fn core_of(id: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the worker lives");
    let cores = text
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cores = cores
        .expect("the kernel says where a process may run")
        .trim();
    cores
        .parse()
        .unwrap_or_else(|_| panic!("worker {id} is not kept on one core but on {cores}"))
}
