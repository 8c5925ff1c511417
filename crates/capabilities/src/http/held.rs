//! What the host holds in memory for one invocation: every header section and body is bounded, and so is their sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use model::limits;

const MOST: usize = limits::HOST_MEMORY.default.as_usize();

/// Counts what one invocation has the host hold. Clones count together. One thread uses them at a time.
#[derive(Debug, Clone, Default)]
pub struct HostMemory(Arc<AtomicUsize>);

/// A part of it, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    memory: HostMemory,
    bytes: usize,
}

/// The invocation would have the host hold more than [`limits::HOST_MEMORY`]. It ends for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host would hold more than {} of headers and bodies (`{}`) for this request; drop what is no longer needed",
    limits::HOST_MEMORY.default,
    limits::HOST_MEMORY.name
)]
pub struct HostMemoryLimit;

impl HostMemory {
    /// Counts `bytes` more.
    pub fn hold(&self, bytes: usize) -> Result<Held, HostMemoryLimit> {
        let mut held = Held {
            memory: self.clone(),
            bytes: 0,
        };
        held.resize(bytes)?;
        Ok(held)
    }
}

impl Held {
    /// Counts `bytes` instead of what it was.
    pub fn resize(&mut self, bytes: usize) -> Result<(), HostMemoryLimit> {
        let count = &self.memory.0;
        let sum = count.load(Relaxed) - self.bytes + bytes;
        if bytes > self.bytes && sum > MOST {
            return Err(HostMemoryLimit);
        }
        count.store(sum, Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Less is never too much.
        let _ = self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_in_sum_and_given_back() {
        let memory = HostMemory::default();
        let mut one = memory.hold(MOST - 10).unwrap();
        let other = memory.clone().hold(10).unwrap();
        assert_eq!(memory.hold(1).unwrap_err(), HostMemoryLimit);
        assert_eq!(one.resize(MOST - 9), Err(HostMemoryLimit));
        drop(other);
        assert_eq!(one.resize(MOST), Ok(()));
        assert_eq!(one.resize(0), Ok(()));
        assert!(memory.hold(MOST).is_ok());
    }
}
