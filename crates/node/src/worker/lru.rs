//! A map that keeps the entries used last and gives up the one unused longest.

use std::collections::HashMap;
use std::hash::Hash;

/// At most `capacity` entries, in the order of their last use.
pub struct Lru<K, V> {
    capacity: usize,
    index: HashMap<K, usize>,
    places: Vec<Place<K, V>>,
    free: Vec<usize>,
    newest: usize,
    oldest: usize,
}

struct Place<K, V> {
    key: K,
    /// None only while the place is free.
    value: Option<V>,
    newer: usize,
    older: usize,
}

const NOWHERE: usize = usize::MAX;

impl<K: Hash + Eq + Copy, V> Lru<K, V> {
    /// # Panics
    /// If `capacity` is 0.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a cache of nothing is none");
        Self {
            capacity,
            index: HashMap::new(),
            places: Vec::new(),
            free: Vec::new(),
            newest: NOWHERE,
            oldest: NOWHERE,
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The entry, which counts as used now.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let at = *self.index.get(key)?;
        if at != self.newest {
            self.unlink(at);
            self.link_newest(at);
        }
        self.places[at].value.as_mut()
    }

    /// The entry, which does not count as used.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.places[*self.index.get(key)?].value.as_ref()
    }

    /// Keeps an entry as the newest and returns what had to go: the value before, or the oldest.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let gone = self.remove(&key).or_else(|| {
            (self.index.len() == self.capacity).then(|| {
                let oldest = self.places[self.oldest].key;
                self.remove(&oldest).expect("the oldest place is in use")
            })
        });
        let place = Place {
            key,
            value: Some(value),
            newer: NOWHERE,
            older: NOWHERE,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.places[at] = place;
                at
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        };
        self.index.insert(key, at);
        self.link_newest(at);
        gone
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.index.remove(key)?;
        self.unlink(at);
        self.free.push(at);
        self.places[at].value.take()
    }

    fn unlink(&mut self, at: usize) {
        let Place { newer, older, .. } = self.places[at];
        match self.places.get_mut(newer) {
            Some(place) => place.older = older,
            None => self.newest = older,
        }
        match self.places.get_mut(older) {
            Some(place) => place.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, at: usize) {
        let older = self.newest;
        self.places[at].older = older;
        self.places[at].newer = NOWHERE;
        match self.places.get_mut(older) {
            Some(place) => place.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_unused_longest_goes_first() {
        let mut lru = Lru::new(2);
        assert_eq!(lru.insert(1, "a"), None);
        assert_eq!(lru.insert(2, "b"), None);
        assert_eq!(lru.get(&1), Some(&mut "a"));
        assert_eq!(lru.insert(3, "c"), Some("b"));
        assert_eq!(lru.peek(&1), Some(&"a"));
        assert_eq!(lru.insert(4, "d"), Some("a"));
        assert_eq!(lru.insert(3, "C"), Some("c"));
        assert_eq!(lru.insert(5, "e"), Some("d"));
        assert_eq!((lru.len(), lru.places.len()), (2, 2));
    }

    #[test]
    fn it_agrees_with_a_list_searched_from_its_end() {
        let mut lru = Lru::new(8);
        let mut list: Vec<(u32, u32)> = Vec::new();
        let mut state = 7u32;
        for step in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (state >> 16) % 16;
            let at = list.iter().position(|(k, _)| *k == key);
            match (state >> 8) % 3 {
                0 => {
                    let gone = match at {
                        Some(at) => Some(list.remove(at).1),
                        None if list.len() == 8 => Some(list.remove(0).1),
                        None => None,
                    };
                    list.push((key, step));
                    assert_eq!(lru.insert(key, step), gone);
                }
                1 => {
                    let found = at.map(|at| {
                        let entry = list.remove(at);
                        list.push(entry);
                        entry.1
                    });
                    assert_eq!(lru.get(&key).copied(), found);
                }
                _ => assert_eq!(lru.remove(&key), at.map(|at| list.remove(at).1)),
            }
            assert_eq!(lru.len(), list.len());
        }
    }
}
