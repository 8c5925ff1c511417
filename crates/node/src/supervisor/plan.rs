//! What follows from what: pure, so that tables test it and a seed replays it.

use std::io;
use std::time::Duration;

use distribution::Changed;
use model::{
    Catalog, CatalogError, CatalogHead, Change, Delta, Generation, PublicKey, SignatureError,
    Signed, limits,
};
use serde::Serialize;

/// Why a generation was refused. The last good one stays.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the newest generation is refused and generation {held} stays: {error}")]
    Signature {
        held: Generation,
        error: SignatureError,
    },
    #[error("the newest generation is refused and generation {held} stays: {error}")]
    Catalog {
        held: Generation,
        error: CatalogError,
    },
}

/// A generation that was found good, and what proves it.
#[derive(Clone)]
pub struct Taken {
    pub catalog: Catalog,
    pub proof: Proof,
}

/// Signed words that lead to a generation.
#[derive(Debug, Clone)]
pub enum Proof {
    /// From the generation that was held before, one step or more.
    Deltas(Vec<Signed<Delta>>),
    /// From nothing.
    Head(Signed<CatalogHead>),
}

/// The catalog after `changed`, if every word of it is signed and true.
pub fn take(held: &Catalog, changed: Changed, key: &PublicKey) -> Result<Taken, Refusal> {
    let generation = held.generation();
    let signature = |error| Refusal::Signature {
        held: generation,
        error,
    };
    let wrong = |error| Refusal::Catalog {
        held: generation,
        error,
    };
    match changed {
        Changed::Deltas(deltas) => {
            let mut catalog = held.clone();
            for delta in &deltas {
                let delta = delta.verify(key).map_err(signature)?;
                catalog = catalog.apply(&delta).map_err(wrong)?;
            }
            Ok(Taken {
                catalog,
                proof: Proof::Deltas(deltas),
            })
        }
        Changed::Whole { head, entries } => {
            let promised = head.verify(key).map_err(signature)?;
            if promised.generation <= generation {
                return Err(wrong(CatalogError::NotNewer {
                    offered: promised.generation,
                    held: generation,
                }));
            }
            let catalog = Catalog::from_entries(&promised, entries).map_err(wrong)?;
            Ok(Taken {
                catalog,
                proof: Proof::Head(head),
            })
        }
    }
}

/// `changes` in messages of at most [`limits::PIPE_CHUNK`], or of one change that is larger. Never no message: the last one
/// says that the generation is complete.
pub fn cut(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let most = limits::PIPE_CHUNK.default.bytes();
    let mut chunks = vec![Vec::new()];
    let mut bytes = 0;
    for change in changes {
        let size = json_bytes(&change);
        if bytes > 0 && bytes + size > most {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        chunks
            .last_mut()
            .expect("it begins with one and only grows")
            .push(change);
    }
    chunks
}

/// How long to wait before a worker is started again, after `quick_deaths` of them soon after their start in a row.
pub fn restart_pause(quick_deaths: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(5);
    match quick_deaths {
        0 | 1 => Duration::ZERO,
        deaths => MOST.min(FIRST * (1 << (deaths - 2).min(10))),
    }
}

/// The newest generation that no request can find the one before of: every worker serves it, and it is on disk.
/// What was once so stays so, since a worker that takes the place of another starts with the newest.
pub fn live(before: Generation, kept: Generation, applied: &[Option<Generation>]) -> Generation {
    reached(before, applied.iter().copied().chain([Some(kept)]))
}

/// The newest change that is everywhere; the one before it, as long as somebody has none.
pub fn reached(before: u64, by: impl IntoIterator<Item = Option<u64>>) -> u64 {
    let everywhere = by.into_iter().min().flatten();
    everywhere.map_or(before, |newest| before.max(newest))
}

fn json_bytes(value: &impl Serialize) -> u64 {
    struct Counter(u64);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("a change always has a JSON form");
    counter.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::example;

    #[test]
    fn a_generation_is_taken_only_if_all_of_it_is_signed_and_true() {
        let (key, stranger) = (example::key(7), example::key(8));
        let catalogs = example::catalogs(4);
        let [zero, one, two, three] = &catalogs[..] else {
            panic!("four were asked for");
        };
        let step = |from: &Catalog, to: &Catalog, key| Signed::sign(&example::delta(from, to), key);
        let whole = |catalog: &Catalog, of: &Catalog, key| Changed::Whole {
            head: Signed::sign(&catalog.head(), key),
            entries: of.entries().cloned().collect(),
        };
        let check = |held: &Catalog, changed: Changed, expected: Result<u64, &str>| {
            let taken = take(held, changed, &key.public());
            match (taken, expected) {
                (Ok(taken), Ok(generation)) => assert_eq!(taken.catalog.generation(), generation),
                (Err(refusal), Err(text)) => assert!(
                    refusal.to_string().ends_with(text),
                    "{refusal}, expected {text}"
                ),
                (Ok(_), Err(text)) => panic!("taken; expected {text}"),
                (Err(refusal), Ok(_)) => panic!("{refusal}"),
            }
        };
        let forged = "the signature does not match the document and the platform's key";
        let (first, second) = (step(zero, one, &key), step(one, two, &key));
        check(zero, Changed::Deltas(vec![first.clone()]), Ok(1));
        check(
            zero,
            Changed::Deltas(vec![first.clone(), second.clone()]),
            Ok(2),
        );
        check(one, whole(three, three, &key), Ok(3));

        check(
            zero,
            Changed::Deltas(vec![step(zero, one, &stranger)]),
            Err(forged),
        );
        check(
            zero,
            Changed::Deltas(vec![first.clone(), step(one, two, &stranger)]),
            Err(forged),
        );
        check(zero, whole(one, one, &stranger), Err(forged));
        check(
            zero,
            Changed::Deltas(vec![second]),
            Err("the delta begins at generation 1; this catalog is at generation 0"),
        );
        check(
            one,
            Changed::Deltas(vec![first]),
            Err("generation 1 is not newer than generation 1"),
        );
        check(
            three,
            whole(two, two, &key),
            Err("generation 2 is not newer than generation 3"),
        );
        let root = format!("its head says {}", three.head().root);
        check(zero, whole(three, two, &key), Err(&root));
    }

    #[test]
    fn changes_are_cut_into_messages_that_fit() {
        let app = |number: u32| Change::Remove(format!("alice/app-{number:04}").parse().unwrap());
        let one = json_bytes(&app(0));
        let fit = (limits::PIPE_CHUNK.default.bytes() / one) as u32;
        for (changes, expected) in [
            (0, vec![0]),
            (1, vec![1]),
            (fit, vec![fit]),
            (fit + 1, vec![fit, 1]),
        ] {
            let chunks = cut((0..changes).map(app).collect());
            let lengths: Vec<_> = chunks.iter().map(|chunk| chunk.len() as u32).collect();
            assert_eq!(lengths, expected);
            let whole: Vec<_> = (0..changes).map(app).collect();
            assert_eq!(chunks.concat(), whole);
        }
    }

    #[test]
    fn a_worker_that_keeps_dying_is_started_less_and_less_often() {
        let pauses = [0, 1, 2, 3, 4, 8, 9, 1000].map(|deaths| restart_pause(deaths).as_millis());
        assert_eq!(pauses, [0, 0, 100, 200, 400, 5000, 5000, 5000]);
    }

    #[test]
    fn live_is_what_every_worker_serves_and_the_disk_keeps() {
        for (before, kept, applied, expected) in [
            (0, 5, [Some(5), Some(5)], 5),
            (3, 5, [Some(5), Some(4)], 4),
            (3, 4, [Some(5), Some(5)], 4),
            (3, 5, [Some(5), None], 3),
            (0, 5, [None, None], 0),
        ] {
            assert_eq!(live(before, kept, &applied), expected, "{applied:?}");
        }
    }
}
