//! A persistent hash table: a clone costs one pointer, and a change copies two short lists of pointers and one bucket.
//!
//! Made for 100,000 small entries: a general hash trie took three times the memory, half-empty nodes that it is.

use std::sync::Arc;

/// Entries spread over 64 × 64 buckets by their hash, about 24 to a bucket when there are 100,000.
pub struct Spread<T> {
    branches: Arc<[Branch<T>; WIDTH]>,
}

type Branch<T> = Arc<[Bucket<T>; WIDTH]>;
type Bucket<T> = Arc<Vec<(u32, T)>>;

const WIDTH: usize = 64;

impl<T> Clone for Spread<T> {
    fn clone(&self) -> Self {
        Self {
            branches: self.branches.clone(),
        }
    }
}

impl<T> Default for Spread<T> {
    fn default() -> Self {
        // Every place is the same empty bucket until something comes there.
        let bucket: Bucket<T> = Arc::new(Vec::new());
        let branch: Branch<T> = Arc::new(std::array::from_fn(|_| bucket.clone()));
        Self {
            branches: Arc::new(std::array::from_fn(|_| branch.clone())),
        }
    }
}

impl<T> Spread<T> {
    /// The entry with this hash that `is` the one.
    pub fn find(&self, hash: u32, is: impl Fn(&T) -> bool) -> Option<&T> {
        let (branch, bucket) = place(hash);
        let mut entries = self.branches[branch][bucket].iter();
        entries
            .find(|(h, entry)| *h == hash && is(entry))
            .map(|(_, entry)| entry)
    }
}

impl<T: Clone> Spread<T> {
    /// The entry with this hash that `is` the one, to be changed.
    pub fn find_mut(&mut self, hash: u32, is: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.find(hash, &is)?;
        let mut entries = self.bucket(hash).iter_mut();
        entries
            .find(|(h, entry)| *h == hash && is(entry))
            .map(|(_, entry)| entry)
    }

    /// Puts an entry in the place of the one that `is` it, which is returned.
    pub fn put(&mut self, hash: u32, is: impl Fn(&T) -> bool, entry: T) -> Option<T> {
        if let Some(old) = self.find_mut(hash, is) {
            return Some(std::mem::replace(old, entry));
        }
        let bucket = self.bucket(hash);
        // Exactly: as many buckets as there are would waste as much again as they hold.
        bucket.reserve_exact(1);
        bucket.push((hash, entry));
        None
    }

    /// Takes the entry that `is` the one.
    pub fn take(&mut self, hash: u32, is: impl Fn(&T) -> bool) -> Option<T> {
        self.find(hash, &is)?;
        let bucket = self.bucket(hash);
        let at = bucket
            .iter()
            .position(|(h, entry)| *h == hash && is(entry))?;
        Some(bucket.swap_remove(at).1)
    }

    fn bucket(&mut self, hash: u32) -> &mut Vec<(u32, T)> {
        let (branch, bucket) = place(hash);
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.branches)[branch]);
        Arc::make_mut(&mut branch[bucket])
    }
}

fn place(hash: u32) -> (usize, usize) {
    let hash = hash as usize;
    (hash / WIDTH % WIDTH, hash % WIDTH)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn all(spread: &Spread<(u32, u32)>) -> BTreeMap<u32, u32> {
        let buckets = spread.branches.iter().flat_map(|branch| branch.iter());
        buckets
            .flat_map(|bucket| bucket.iter().map(|(_, entry)| *entry))
            .collect()
    }

    #[test]
    fn it_agrees_with_a_map_and_its_clones_stay_as_they_were() {
        let (mut spread, mut map) = (Spread::default(), BTreeMap::new());
        let mut kept = Vec::new();
        let mut state = 7u32;
        for step in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (state >> 16) % 500;
            // Few hashes, so that different keys share one.
            let hash = key % 100;
            let is = |entry: &(u32, u32)| entry.0 == key;
            match (state >> 8) % 4 {
                0 | 1 => {
                    let old = spread.put(hash, is, (key, step)).map(|old| old.1);
                    assert_eq!(old, map.insert(key, step));
                }
                2 => assert_eq!(spread.take(hash, is).map(|old| old.1), map.remove(&key)),
                _ => {
                    assert_eq!(spread.find(hash, is).map(|e| &e.1), map.get(&key));
                    if let Some(entry) = spread.find_mut(hash, is) {
                        entry.1 = step;
                        map.insert(key, step);
                    }
                }
            }
            if step % 1000 == 0 {
                kept.push((spread.clone(), map.clone()));
            }
        }
        for (spread, map) in kept {
            assert_eq!(all(&spread), map);
        }
        assert_eq!(all(&spread), map);
    }
}
