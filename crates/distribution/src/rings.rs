//! The newest log lines of each app, in memory, and who follows them.
//!
//! A line is pushed for every request, so a push takes no allocation and costs well under a microsecond.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use model::{Owner, limits};
use tokio::sync::broadcast;

use crate::LogTail;

const RING: usize = limits::LOG_RING.default.as_usize();
const ALL_RINGS: usize = limits::LOG_RINGS.default.as_usize();
const FOLLOW: usize = limits::LOG_FOLLOW.default as usize;
/// What a line's length takes before it.
const LENGTH_BYTES: usize = size_of::<u32>();

/// The rings of all apps.
#[derive(Default)]
pub struct Rings {
    rings: HashMap<Owner, Ring>,
    /// The memory of all rings.
    bytes: usize,
    /// Grows with each push: tells which ring was used before which.
    now: u64,
    followers: HashMap<Owner, broadcast::Sender<Bytes>>,
}

/// One app's lines, each after its length.
#[derive(Default)]
struct Ring {
    lines: VecDeque<u8>,
    used: u64,
}

impl Rings {
    /// Keeps a line, and sends it to who follows.
    pub fn push(&mut self, owner: &Owner, line: &[u8]) {
        if !self.followers.is_empty() {
            self.send(owner, line);
        }
        self.now += 1;
        if !self.rings.contains_key(owner) {
            self.rings.insert(owner.clone(), Ring::default());
        }
        let ring = self.rings.get_mut(owner).expect("it was inserted above");
        ring.used = self.now;
        let before = ring.lines.capacity();
        ring.push(line);
        self.bytes = self.bytes + ring.lines.capacity() - before;
        if self.bytes > ALL_RINGS {
            self.evict();
        }
    }

    /// An app's newest lines, oldest first, and those that are pushed from now on.
    pub fn follow(&mut self, owner: &Owner) -> LogTail {
        self.followers.retain(|_, lines| lines.receiver_count() > 0);
        let live = match self.followers.get(owner) {
            Some(lines) => lines.subscribe(),
            None => {
                let (lines, live) = broadcast::channel(FOLLOW);
                self.followers.insert(owner.clone(), lines);
                live
            }
        };
        let recent = self.rings.get(owner).map(Ring::lines).unwrap_or_default();
        LogTail { recent, live }
    }

    fn send(&mut self, owner: &Owner, line: &[u8]) {
        let Some(lines) = self.followers.get(owner) else {
            return;
        };
        // A copy, since a slice would hold the whole frame it came in.
        if lines.send(Bytes::copy_from_slice(line)).is_err() {
            self.followers.remove(owner);
        }
    }

    /// Drops the longest-unused rings, an eighth of all memory at once so that it happens seldom.
    fn evict(&mut self) {
        let mut oldest_first: Vec<_> = self
            .rings
            .iter()
            .map(|(owner, ring)| (ring.used, owner.clone()))
            .collect();
        oldest_first.sort_unstable_by_key(|(used, _)| *used);
        for (_, owner) in oldest_first {
            if self.bytes <= ALL_RINGS / 8 * 7 {
                break;
            }
            if let Some(ring) = self.rings.remove(&owner) {
                self.bytes -= ring.lines.capacity();
            }
        }
    }
}

impl Ring {
    fn push(&mut self, line: &[u8]) {
        let needed = LENGTH_BYTES + line.len();
        if needed > RING {
            return;
        }
        while self.lines.len() + needed > RING {
            let length = self.oldest_length();
            self.lines.drain(..LENGTH_BYTES + length);
        }
        let length = u32::try_from(line.len()).expect("a line is shorter than a ring");
        self.lines.extend(&length.to_le_bytes());
        self.lines.extend(line);
    }

    fn oldest_length(&self) -> usize {
        let bytes = std::array::from_fn(|i| self.lines[i]);
        u32::from_le_bytes(bytes) as usize
    }

    fn lines(&self) -> Vec<Bytes> {
        let mut rest = Bytes::from_iter(self.lines.iter().copied());
        let mut lines = Vec::new();
        while let Some((length, _)) = rest.split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length) as usize;
            let mut line = rest.split_to(LENGTH_BYTES + length);
            lines.push(line.split_off(LENGTH_BYTES));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(number: usize) -> Owner {
        format!("alice/app-{number}").parse().unwrap()
    }

    #[test]
    fn a_ring_keeps_the_newest_lines_whole() {
        let mut rings = Rings::default();
        for number in 0..10_000 {
            let line = format!("{number:0width$}", width = 5 + number % 400);
            rings.push(&app(1), line.as_bytes());
        }
        let recent = rings.follow(&app(1)).recent;
        let kept: usize = recent.iter().map(|line| LENGTH_BYTES + line.len()).sum();
        assert!(kept <= RING && kept > RING - 500, "{kept}");
        for (line, number) in recent.iter().rev().zip((0..10_000).rev()) {
            let line = std::str::from_utf8(line).unwrap();
            assert_eq!(line.parse::<usize>().unwrap(), number);
        }
    }

    #[test]
    fn a_line_that_no_ring_holds_is_left_out() {
        let mut rings = Rings::default();
        rings.push(&app(1), b"short");
        rings.push(&app(1), &vec![b'x'; RING]);
        assert_eq!(rings.follow(&app(1)).recent, ["short"]);
    }

    #[test]
    fn the_longest_unused_rings_go_when_memory_ends() {
        let mut rings = Rings::default();
        let line = vec![b'x'; 8 << 10];
        for number in 0..10_000 {
            rings.push(&app(number), &line);
            rings.push(&app(0), &line);
            assert!(rings.bytes <= ALL_RINGS);
        }
        let held: usize = rings.rings.values().map(|ring| ring.lines.capacity()).sum();
        assert_eq!(held, rings.bytes);
        assert!(!rings.follow(&app(0)).recent.is_empty());
        assert!(!rings.follow(&app(9_999)).recent.is_empty());
        assert!(rings.follow(&app(1)).recent.is_empty());
    }
}
