//! What PROMISES.md promises, measured: `cargo xtask bench [NAME]`. Each figure beside its bound, as a row of a table.

mod apps;
mod cold;
mod fairness;
mod generator;
mod http2;
mod kv;
mod outbound;
mod request;
mod row;
mod servers;
mod tls;
mod workers;

use std::process::ExitCode;
use std::thread;

use row::Row;

type Bench = (&'static str, fn() -> Vec<Row>);

const BENCHES: [Bench; 9] = [
    ("request", request::measure),
    ("http2", http2::measure),
    ("tls", tls::measure),
    ("workers", workers::measure),
    ("cold", cold::measure),
    ("apps", apps::measure),
    ("fairness", fairness::measure),
    ("kv", kv::measure),
    ("outbound", outbound::measure),
];

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = names
        .iter()
        .find(|name| !BENCHES.iter().any(|(known, _)| known == name))
    {
        let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "there is no bench `{unknown}`; there are: {}",
            known.join(", ")
        );
        return ExitCode::from(2);
    }
    let mut broken = 0;
    println!("{}", row::HEAD);
    for (name, measure) in BENCHES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            // In a thread of its own, which some keep on one core.
            let rows = thread::spawn(measure).join();
            for row in rows.expect("a bench that fails says why") {
                broken += u32::from(!row.holds());
                println!("{}", row.text(name));
            }
        }
    }
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!("{broken} promises are not kept here");
        ExitCode::FAILURE
    }
}
