//! Wrong tokens, counted by the address they come from, so that guessing is slow.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;

use model::limits;

const WINDOW_MS: u64 = 60_000;

/// Who sent wrong tokens lately.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<IpAddr, Window>>);

struct Window {
    began_ms: u64,
    count: u64,
}

impl Failures {
    /// How many seconds an address must wait before it may try again; none if it may.
    pub fn wait(&self, address: IpAddr, now_ms: u64) -> Option<u64> {
        let windows = self.windows();
        let window = windows.get(&subject(address))?;
        let left = (window.began_ms + WINDOW_MS).saturating_sub(now_ms);
        let many = window.count >= limits::TOKEN_FAILURES.default;
        (many && left > 0).then(|| left.div_ceil(1000))
    }

    /// Counts a wrong token.
    pub fn count(&self, address: IpAddr, now_ms: u64) {
        let mut windows = self.windows();
        let over = |window: &Window| window.began_ms + WINDOW_MS <= now_ms;
        if windows.len() as u64 >= limits::TOKEN_FAILURE_ADDRESSES.default {
            windows.retain(|_, window| !over(window));
            if windows.len() as u64 >= limits::TOKEN_FAILURE_ADDRESSES.default {
                windows.clear();
            }
        }
        let fresh = Window {
            began_ms: now_ms,
            count: 0,
        };
        let window = windows.entry(subject(address)).or_insert(fresh);
        if over(window) {
            window.began_ms = now_ms;
            window.count = 0;
        }
        window.count += 1;
    }

    fn windows(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Window>> {
        self.0
            .lock()
            .expect("nothing panics while the windows are locked")
    }
}

/// An IPv4 address, or the /64 that one IPv6 customer has to choose from.
fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_too_many_wrong_tokens_waits_for_the_minute_to_end() {
        let failures = Failures::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for i in 0..limits::TOKEN_FAILURES.default {
            assert_eq!(failures.wait(address("192.0.2.1"), 1000), None, "{i}");
            failures.count(address("192.0.2.1"), 1000);
        }
        assert_eq!(failures.wait(address("192.0.2.1"), 1000), Some(60));
        assert_eq!(failures.wait(address("::ffff:192.0.2.1"), 1000), Some(60));
        assert_eq!(failures.wait(address("192.0.2.2"), 1000), None);
        assert_eq!(failures.wait(address("192.0.2.1"), 61_000), None);
        failures.count(address("192.0.2.1"), 61_000);
        assert_eq!(failures.wait(address("192.0.2.1"), 61_000), None);
    }
}
