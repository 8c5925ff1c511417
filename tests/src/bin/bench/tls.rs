//! CPU time of one TLS handshake, full and resumed, against plain tokio-rustls and hyper with the same certificate: ECDSA P-256,
//! TLS 1.3.
//!
//! Servers and clients share one core; CPU time is the operating system's, summed over supervisor and worker. A connection is
//! opened, agreed on, given its tickets, and closed.

use std::fs;
use std::net::SocketAddr;

use tests::tls::{Authority, Client, TLS13, settings};
use tests::{guest, pin};

use crate::row::{Row, median};
use crate::servers::{CORE, Plain, ROUNDS, cpu_us_each, platform, processes};

/// Handshakes of one measurement: few enough that the ports of closed connections do not run out.
const HANDSHAKES: u32 = 2_000;

const HOST: &str = "hello.localhost";

pub fn measure() -> Vec<Row> {
    pin(CORE);
    let authority = Authority::new();
    let shown = authority.certify(&[HOST]);
    let platform = platform(settings("", &[("shop", &shown)]));
    platform.deploy("hello", &guest("hello"));
    let file = |name: &str, text: &str| {
        let path = platform.folder().join(name);
        fs::write(&path, text).expect("a file can be written");
        path.to_str()
            .expect("a temporary folder's name is text")
            .to_owned()
    };
    let (chain, key) = (
        file("plain.pem", &shown.chain),
        file("plain.key", &shown.key),
    );
    let plain = Plain::start(&["tls", &chain, &key]);

    let client = authority.client_of(&[&TLS13]);
    let forgetful = client.clone().forgetful();
    let ours = processes(&platform);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let measure = |servers: &[u32], address: SocketAddr| {
            let full = cpu_us_each(servers, || shake(&forgetful, address, false));
            // The first of them is a full one, and not counted.
            client.shake(address, HOST).expect("the server agrees");
            let resumed = cpu_us_each(servers, || shake(&client, address, true));
            [full, resumed]
        };
        let ours = measure(&ours, platform.tls());
        let plain = measure(&plain.processes(), plain.address);
        rounds.push([ours, plain]);
    }
    let of =
        |whose: usize, kind: usize| median(rounds.iter().map(|round| round[whose][kind]).collect());
    let row = |what, kind: usize| {
        let ratios = rounds.iter().map(|[ours, plain]| ours[kind] / plain[kind]);
        let [ours, plain] = [of(0, kind), of(1, kind)];
        Row {
            what,
            figure: median(ratios.collect()),
            bound: None,
            unit: "×",
            note: format!(
                "{ours:.0} µs against plain tokio-rustls's {plain:.0} µs: {:.0} handshakes a second of a core against {:.0}",
                1e6 / ours,
                1e6 / plain
            ),
        }
    };
    vec![
        row("CPU per full TLS 1.3 handshake, ECDSA P-256", 0),
        row("the same, of a session that is resumed", 1),
    ]
}

/// Shakes hands again and again; how often.
fn shake(client: &Client, address: SocketAddr, resumed: bool) -> f64 {
    for _ in 0..HANDSHAKES {
        let is_resumed = client.shake(address, HOST).expect("the server agrees");
        assert_eq!(is_resumed, resumed);
    }
    f64::from(HANDSHAKES)
}
