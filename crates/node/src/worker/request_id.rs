//! Request ids: 26 characters that sort by time and never repeat, made without a system call.

use std::cell::Cell;

/// 26 characters of Crockford's base32: ten of the time in milliseconds, eight of the worker, eight counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; 26]);

impl RequestId {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("every digit of base32 is ASCII")
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Where a worker's ids come from.
pub struct RequestIds {
    worker: [u8; 8],
    count: Cell<u64>,
    time: Cell<(u64, [u8; 10])>,
}

impl RequestIds {
    /// The ids of a worker that drew the number `random`; two workers' ids differ as their numbers do.
    pub fn new(random: u64) -> Self {
        Self {
            worker: digits(random),
            count: Cell::new(0),
            time: Cell::new((0, digits(0))),
        }
    }

    pub fn next(&self, now_ms: u64) -> RequestId {
        let (mut ms, mut time) = self.time.get();
        if ms != now_ms {
            ms = now_ms;
            time = digits(ms);
            self.time.set((ms, time));
        }
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        let mut id = [0; 26];
        id[..10].copy_from_slice(&time);
        id[10..18].copy_from_slice(&self.worker);
        id[18..].copy_from_slice(&digits::<8>(count));
        RequestId(id)
    }
}

/// The lowest `5 * N` bits of `number`.
fn digits<const N: usize>(mut number: u64) -> [u8; N] {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(number & 31) as usize];
        number >>= 5;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_over_times_and_workers_and_sort_as_they_were_made() {
        let workers = [RequestIds::new(1), RequestIds::new(u64::MAX)];
        let mut seen = HashSet::new();
        for ids in &workers {
            let mut last = None;
            for i in 0..100_000 {
                let id = ids.next(1_700_000_000_000 + i / 1000);
                assert!(seen.insert(id), "{}", id.as_str());
                assert!(last < Some(id));
                last = Some(id);
            }
        }
        assert_eq!(
            &workers[0].next(1_700_000_000_000).as_str()[..10],
            "01HF7YAT00"
        );
    }
}
