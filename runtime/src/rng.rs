//! The one source of randomness: a counter-based generator whose stream is fixed by a key of integers.
//!
//! A sampled token is keyed by (seed, step, prompt, sample, position), an initial weight by (seed, tensor). So a number
//! does not depend on what was drawn elsewhere, in which order sequences were batched, or whether a run was interrupted:
//! nothing but the key need be stored to resume. Not for cryptography.
//!
//! Draw `i` of a stream is `mix(key + (i + 1) * GAMMA)`, the SplitMix64 generator (Steele, Lea, Flood, OOPSLA 2014).

/// 2^64 divided by the golden ratio, odd: the Weyl increment of SplitMix64.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers fixed by its key.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream of the key `words`; keys of different length or order give unrelated streams.
    pub fn keyed(words: &[u64]) -> Self {
        let fold = |state: u64, &word: &u64| mix(state.wrapping_add(GAMMA) ^ mix(word.wrapping_add(GAMMA)));
        Self { state: words.iter().fold(words.len() as u64, fold) }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..n` without bias; 0 where `n` is 0 or 1.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n < 2 {
            return 0;
        }
        // Lemire's multiplication method (ACM TOMACS 29, 2019): products whose low half is below 2^64 mod n are drawn again.
        let rejected = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= rejected {
                return (product >> 64) as usize;
            }
        }
    }

    /// From the standard normal distribution (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The finaliser of SplitMix64 (Stafford's variant 13): a bijection in which every input bit moves half of the output.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // First numbers of the published reference generator from state 1234567.
        let mut rng = Rng { state: 1_234_567 };
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([rng.next_u64(), rng.next_u64(), rng.next_u64()], expected);
    }

    #[test]
    fn keys_fix_the_stream_and_their_order_matters() {
        let first = |words: &[u64]| Rng::keyed(words).next_u64();
        assert_eq!(first(&[1, 2, 3]), first(&[1, 2, 3]));
        let keys: [&[u64]; 7] = [&[], &[0], &[0, 0], &[1, 2], &[2, 1], &[1, 2, 0], &[3]];
        for (i, key) in keys.iter().enumerate() {
            for other in &keys[i + 1..] {
                assert_ne!(first(key), first(other), "{key:?} {other:?}");
            }
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        const N: usize = 100_000;
        let mut rng = Rng::keyed(&[7]);
        let (mut uniform, mut normal, mut square) = (0.0, 0.0, 0.0);
        for _ in 0..N {
            let u = rng.uniform();
            assert!((0.0..1.0).contains(&u));
            let z = rng.normal();
            (uniform, normal, square) = (uniform + u, normal + z, square + z * z);
        }
        // Five standard errors of the mean of N draws.
        let tolerance = 5.0 / (N as f64).sqrt();
        assert!((uniform / N as f64 - 0.5).abs() < tolerance);
        assert!((normal / N as f64).abs() < tolerance);
        assert!((square / N as f64 - 1.0).abs() < 1.5 * tolerance);
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut rng = Rng::keyed(&[9]);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7)] += 1;
        }
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<_> = (0..100).collect();
        Rng::keyed(&[1]).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
