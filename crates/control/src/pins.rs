//! Pins: an artifact that something is being made of is not collected meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use model::Digest;
use tokio::sync::Notify;

/// Who holds on to which artifacts.
#[derive(Clone, Default)]
pub(crate) struct Pins(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Wakes those who wait for a removal to end.
    removed: Notify,
}

#[derive(Default)]
struct State {
    pinned: BTreeMap<Digest, u32>,
    removing: BTreeSet<Digest>,
}

/// Holds one artifact in place until it is dropped.
pub(crate) struct Pin {
    pins: Pins,
    digest: Digest,
}

/// The right to remove one artifact; nobody can pin it until this is dropped.
pub(crate) struct Removal {
    pins: Pins,
    digest: Digest,
}

impl Pins {
    /// Holds `digest` in place. If it is being removed just now, waits until it is gone, which takes moments.
    pub async fn pin(&self, digest: Digest) -> Pin {
        loop {
            let removed = self.0.removed.notified();
            tokio::pin!(removed);
            removed.as_mut().enable();
            {
                let mut state = self.state();
                if !state.removing.contains(&digest) {
                    *state.pinned.entry(digest).or_default() += 1;
                    let pins = self.clone();
                    return Pin { pins, digest };
                }
            }
            removed.await;
        }
    }

    /// The right to remove `digest`, unless somebody holds on to it.
    pub fn remove(&self, digest: Digest) -> Option<Removal> {
        let mut state = self.state();
        if state.pinned.contains_key(&digest) || !state.removing.insert(digest) {
            return None;
        }
        let pins = self.clone();
        Some(Removal { pins, digest })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .state
            .lock()
            .expect("nothing panics while the pins are locked")
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.state();
        if let Some(count) = state.pinned.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                state.pinned.remove(&self.digest);
            }
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.pins.state().removing.remove(&self.digest);
        self.pins.0.removed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_pinned_is_not_removed_and_what_is_being_removed_is_not_pinned() {
        let (pins, digest) = (Pins::default(), Digest::of(b"a"));
        let one = pins.pin(digest).await;
        let two = pins.pin(digest).await;
        drop(one);
        assert!(pins.remove(digest).is_none());
        drop(two);

        let removal = pins.remove(digest).unwrap();
        assert!(pins.remove(digest).is_none());
        let waiting = tokio::spawn({
            let pins = pins.clone();
            async move { pins.pin(digest).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(removal);
        drop(waiting.await.unwrap());
        assert!(pins.remove(digest).is_some());
    }
}
