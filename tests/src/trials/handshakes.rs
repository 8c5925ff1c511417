//! Clients that do nothing but shake hands, or try to: each is agreed with or refused as it should be, and nothing of it stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Chance;
use crate::load::Always;
use crate::tls::{AlertDescription, Authority, Error, TLS12, TLS13, reason, settings};
use crate::{Load, Platform, anonymous_bytes, descriptors, eventually, guest};

/// How many handshakes `handshakes` makes in full, and how many it is refused.
pub const HANDSHAKES: u32 = 10_000;

/// What a worker may hold more than after the first hundred.
const MORE: u64 = 16 << 20;

/// Shakes hands `count` times, in whole, by either version of TLS and for either protocol, and as often for a host that nobody
/// certified, beside a steady load.
pub fn handshakes(count: u32, seed: u64) -> String {
    let authority = Authority::new();
    let shown = authority.certify(&["hello.localhost"]);
    let platform = Platform::start_with(settings("workers = 1", &[("shop", &shown)]));
    platform.deploy("hello", &guest("hello"));
    let (address, worker) = (platform.tls(), platform.workers()[0]);
    let load = Load::start(
        platform.listen,
        &platform.host("hello"),
        "/",
        1,
        Duration::from_millis(5),
        Arc::new(Always("Hello, Midge!\n")),
    );
    let client = |version| authority.client_of(&[version]).forgetful();
    let clients = [&TLS12, &TLS13].map(client);
    let offers: [&[&str]; 3] = [&[], &["http/1.1"], &["h2", "http/1.1"]];
    let mut chance = Chance(seed);
    let mut held = (0, 0);
    let began = Instant::now();
    for number in 0..count {
        let offer = offers[chance.below(3)];
        let client = clients[chance.below(2)].clone().offering(offer);
        let connection = client.connect(address, "hello.localhost");
        let connection = connection.unwrap_or_else(|error| panic!("{number}: {error}"));
        let stream = connection.stream();
        assert!(!stream.is_resumed() && stream.was_shown(&shown));
        assert_eq!(stream.protocol().as_deref(), offer.first().copied());
        drop(connection);
        let Err(error) = client.connect(address, "nobody.localhost") else {
            panic!("a host that nobody certified is shown something");
        };
        let refused = Error::AlertReceived(AlertDescription::AccessDenied);
        assert_eq!(reason(&error), Some(&refused), "{number}: {error}");
        if number == 100 {
            held = (descriptors(worker), anonymous_bytes(worker));
        }
    }
    let took = began.elapsed();
    eventually("no connection stays", || {
        (descriptors(worker) <= held.0).then_some(())
    });
    let more = anonymous_bytes(worker).saturating_sub(held.1);
    assert!(more < MORE, "{more} bytes more after {count} handshakes");
    assert_eq!(platform.workers(), [worker]);
    let report = load.stop().is_clean();
    format!(
        "handshakes: {count} made in whole and as many refused in {:.0} s, beside {} requests: none went wrong, {more} bytes more in the end (seed {seed})",
        took.as_secs_f64(),
        report.requests,
    )
}
