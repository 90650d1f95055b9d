//! Counter-based random numbers: the same key gives the same numbers on every platform.
//!
//! First in the flow: `scene` and `tasks` draw everything from here. SplitMix64 is a counter
//! with a strong output mix, so a stream needs no state but its key and its position.

/// Mixes 64 bits so that every input bit reaches every output bit (SplitMix64 finaliser).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One stream of random numbers, named by a list of integers.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    counter: u64,
}

impl Rng {
    /// The stream that `parts` name; different lists give unrelated streams.
    #[must_use]
    pub fn keyed(parts: &[u64]) -> Self {
        let key = parts
            .iter()
            .fold(0x6f77_6c65_745f_3031, |key, &part| mix(key ^ mix(part.wrapping_add(0x9e37_79b9_7f4a_7c15))));
        Self { key, counter: 0 }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter += 1;
        mix(self.key.wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number in `0..n`; 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Multiply-shift: the bias of n / 2^32 is far below anything that these tasks could show.
        (((self.next_u64() >> 32) * n as u64) >> 32) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        low + self.below((high - low + 1).max(1) as usize) as i32
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Puts `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_fixed_and_differ_by_key() {
        let draw = |parts: &[u64]| Rng::keyed(parts).next_u64();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[0]), draw(&[0, 0]));
    }

    #[test]
    fn below_covers_its_range() {
        let mut rng = Rng::keyed(&[7]);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[rng.below(5)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 120), "{seen:?}");
    }
}
