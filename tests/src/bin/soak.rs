//! The long trials at their full counts: `cargo xtask soak [NAME]`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::trials;

type Trial = (&'static str, fn(u64) -> String);

const TRIALS: [Trial; 11] = [
    ("deploys", |seed| trials::deploys(trials::DEPLOYS, seed)),
    ("residue", |seed| trials::residue(trials::INSTANCES, seed)),
    ("flips", |seed| trials::flips(trials::FLIPS, seed)),
    ("crashes", |seed| trials::crashes(trials::CRASHES, seed)),
    ("stores", |seed| trials::stores(trials::STORE_CRASHES, seed)),
    ("worker-kills", |seed| {
        trials::worker_kills(trials::WORKER_KILLS, seed)
    }),
    ("parked", |seed| trials::parked(trials::PARKED, seed)),
    ("charged", |seed| trials::charged(trials::CHARGED, seed)),
    ("one-connection", |seed| {
        trials::one_connection(trials::REQUESTS, seed)
    }),
    ("upgrades", |seed| trials::upgrades(trials::UPGRADES, seed)),
    ("handshakes", |seed| {
        trials::handshakes(trials::HANDSHAKES, seed)
    }),
];

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = names
        .iter()
        .find(|name| !TRIALS.iter().any(|(known, _)| known == name))
    {
        let known: Vec<&str> = TRIALS.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "there is no trial `{unknown}`; there are: {}",
            known.join(", ")
        );
        return ExitCode::from(2);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    let seed = now.as_secs();
    for (name, run) in TRIALS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            println!("{name}, seed {seed} …");
            println!("{}", run(seed));
        }
    }
    ExitCode::SUCCESS
}
