//! Values that are kept as long as there is room for them.

use std::{collections::HashMap, hash::Hash};

/// Values by key, of at most so many bytes together; the one that was not used for the longest time goes first.
#[derive(Clone, Debug)]
pub struct Lru<K, V> {
    max_bytes: usize,
    entries: HashMap<K, Entry<V>>,
    n_bytes: usize,
    /// Counts uses.
    clock: u64,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    n_bytes: usize,
    last_used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    /// Room for `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, entries: HashMap::new(), n_bytes: 0, clock: 0 }
    }

    /// Bytes of the values that are kept.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The value of `key`, which counts as a use of it.
    pub fn get(&mut self, key: K) -> Option<V> {
        self.clock += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.last_used = self.clock;
        Some(entry.value.clone())
    }

    /// Keeps `value`, of `n_bytes`, in place of one of the same key and of those that were not used for the longest time.
    /// One that is larger than all the room is not kept.
    pub fn insert(&mut self, key: K, value: V, n_bytes: usize) {
        self.clock += 1;
        self.remove(key);
        if n_bytes > self.max_bytes {
            return;
        }
        while self.n_bytes > self.max_bytes - n_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            self.remove(oldest);
        }
        self.n_bytes += n_bytes;
        self.entries.insert(key, Entry { value, n_bytes, last_used: self.clock });
    }

    fn remove(&mut self, key: K) {
        self.n_bytes -= self.entries.remove(&key).map_or(0, |entry| entry.n_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_not_used_for_the_longest_time_go_first() {
        let mut lru = Lru::new(20);
        lru.insert(1, 'a', 10);
        lru.insert(2, 'b', 10);
        assert_eq!(lru.get(1), Some('a'));
        lru.insert(3, 'c', 10);
        assert_eq!([1, 2, 3].map(|key| lru.get(key)), [Some('a'), None, Some('c')]);
        lru.insert(4, 'd', 21);
        assert_eq!((lru.get(4), lru.n_bytes()), (None, 20), "larger than the room");
        lru.insert(1, 'e', 4);
        assert_eq!((lru.get(1), lru.n_bytes()), (Some('e'), 14), "in place of the former value");
        lru.insert(1, 'f', 21);
        assert_eq!((lru.get(1), lru.n_bytes()), (None, 10), "the former value is not the key's any more");
        lru.insert(5, 'g', 20);
        assert_eq!((lru.get(3), lru.get(5), lru.n_bytes()), (None, Some('g'), 20));
    }
}
