//! Keys and values of what comes before the invocation of an activated adapter, and the cache that keeps them.
//!
//! The base computes them, and the base does not change: they serve every step and epoch, every adapter, and the reference
//! policy. What is kept is exactly what was computed, so a hit gives the same bits as a miss.

use std::{fmt, path::PathBuf, sync::Arc};

use owlet_runtime::{EncodedPrompt, Lru};
use sha2::{Digest, Sha256};

use super::{family::Decoder, prefix_file};

/// How prefixes are kept. One takes `2 x layers x keys' width` F32 numbers for each of its tokens; one of the sampler as
/// many of its own precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCacheOptions {
    /// Memory, in bytes. Default 256 MiB. Those that were not used for the longest time go first; one that does not fit is
    /// computed for every call.
    pub memory_bytes: usize,
    /// Memory, in bytes, of those that the sampler's sessions share: llama.cpp has its own layout and precision. Default
    /// 128 MiB, which holds as many in F16.
    pub sampler_bytes: usize,
    /// A folder for the others of both, made if it is missing; default none. Files there serve later runs with the same model and
    /// number of threads. One that is damaged, or of something else, is computed again. The model is told by the header and
    /// the first 4096 bytes of each tensor of its file, not by all of it: models that differ further behind only need
    /// folders of their own. So do processors of one architecture with other instructions, where the same bits matter.
    pub directory: Option<PathBuf>,
    /// Bytes of the files in `directory`. Default 4 GiB. The oldest go first.
    pub directory_bytes: u64,
}

impl Default for PrefixCacheOptions {
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, sampler_bytes: 128 << 20, directory: None, directory_bytes: 4 << 30 }
    }
}

/// How often prefixes were at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCacheStats {
    /// Found in memory.
    pub n_memory: u64,
    /// Read from the folder.
    pub n_disk: u64,
    /// Computed.
    pub n_computed: u64,
}

/// What a prefix is of: model, kernels and the tokens and pictures themselves.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PrefixKey(pub [u8; 32]);

impl PrefixKey {
    /// The key of `prompt`, all of it. `context` tells models and ways to compute apart.
    pub(super) fn of(context: &str, prompt: &EncodedPrompt) -> Self {
        let mut hasher = Sha256::new();
        hasher.update((context.len() as u64).to_le_bytes());
        hasher.update(context);
        hasher.update(prompt.digest());
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for PrefixKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Rotated keys and values of the first tokens of a prompt in every layer.
#[derive(Debug, PartialEq)]
pub(super) struct Prefix {
    /// Layer by layer keys, then values, `[head_dim * n_head_kv, n_tokens]` each.
    pub values: Vec<f32>,
    pub n_tokens: usize,
    key_width: usize,
}

impl Prefix {
    /// Numbers for `n_tokens` tokens, as [`Prefix::values`] has them.
    pub(super) fn new(decoder: &Decoder, n_tokens: usize, values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), Self::n_values(decoder, n_tokens));
        Self { values, n_tokens, key_width: decoder.key_width() }
    }

    /// Numbers that `n_tokens` tokens have in all layers.
    pub(super) fn n_values(decoder: &Decoder, n_tokens: usize) -> usize {
        2 * decoder.n_layers * decoder.key_width() * n_tokens
    }

    /// Keys and values of layer `layer`.
    pub(super) fn layer(&self, layer: usize) -> (&[f32], &[f32]) {
        let n = self.key_width * self.n_tokens;
        self.values[2 * layer * n..2 * (layer + 1) * n].split_at(n)
    }

    pub(super) fn n_bytes(&self) -> usize {
        size_of_val(self.values.as_slice())
    }
}

/// Prefixes by what they are of.
pub(super) struct PrefixCache {
    options: PrefixCacheOptions,
    entries: Lru<PrefixKey, Arc<Prefix>>,
    stats: PrefixCacheStats,
}

impl PrefixCache {
    pub(super) fn new(options: PrefixCacheOptions) -> Self {
        let entries = Lru::new(options.memory_bytes);
        Self { options, entries, stats: PrefixCacheStats::default() }
    }

    pub(super) fn stats(&self) -> PrefixCacheStats {
        self.stats
    }

    /// Bytes of memory that it holds.
    pub(super) fn n_bytes(&self) -> usize {
        self.entries.n_bytes()
    }

    /// The prefix of `n_tokens` tokens that is kept under `key`.
    pub(super) fn get(&mut self, key: PrefixKey, decoder: &Decoder, n_tokens: usize) -> Option<Arc<Prefix>> {
        if let Some(prefix) = self.entries.get(key) {
            self.stats.n_memory += 1;
            return Some(prefix);
        }
        let path = prefix_file::path(self.options.directory.as_deref()?, key);
        let values = prefix_file::read(&path, key, Prefix::n_values(decoder, n_tokens))?;
        self.stats.n_disk += 1;
        let prefix = Arc::new(Prefix::new(decoder, n_tokens, values));
        self.keep(key, &prefix);
        Some(prefix)
    }

    /// Keeps a prefix that was just computed.
    pub(super) fn insert(&mut self, key: PrefixKey, prefix: &Arc<Prefix>) {
        self.stats.n_computed += 1;
        self.keep(key, prefix);
        let Some(directory) = &self.options.directory else { return };
        // A cache that cannot be written costs time, not the run.
        if let Err(error) = prefix_file::write(directory, key, &prefix.values, self.options.directory_bytes) {
            tracing::warn!(%error, "cannot keep keys and values of a prompt");
        }
    }

    fn keep(&mut self, key: PrefixKey, prefix: &Arc<Prefix>) {
        self.entries.insert(key, Arc::clone(prefix), prefix.n_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n_tokens: usize, first: f32) -> Arc<Prefix> {
        let decoder = super::super::family::tests::decoder();
        let values = (0..Prefix::n_values(&decoder, n_tokens)).map(|index| first + index as f32).collect();
        Arc::new(Prefix::new(&decoder, n_tokens, values))
    }

    fn key(token: i32) -> PrefixKey {
        PrefixKey::of("", &EncodedPrompt::from_tokens(vec![token]))
    }

    #[test]
    fn layers_have_their_keys_and_values() {
        let prefix = prefix(3, 0.0);
        // Two layers, keys 16 wide.
        let (keys, values) = prefix.layer(1);
        assert_eq!((keys.len(), keys[0], values.len(), values[0]), (48, 96.0, 48, 144.0));
    }

    #[test]
    fn what_is_kept_comes_back_and_is_counted() {
        let decoder = super::super::family::tests::decoder();
        let memory_bytes = 2 * prefix(4, 0.0).n_bytes();
        let mut cache = PrefixCache::new(PrefixCacheOptions { memory_bytes, ..PrefixCacheOptions::default() });
        cache.insert(key(1), &prefix(4, 1.0));
        assert_eq!(cache.get(key(1), &decoder, 4), Some(prefix(4, 1.0)));
        assert_eq!(cache.get(key(2), &decoder, 4), None);
        cache.insert(key(2), &prefix(9, 2.0));
        assert_eq!(cache.get(key(2), &decoder, 9), None, "larger than the cache");
        assert_eq!(cache.stats(), PrefixCacheStats { n_memory: 1, n_disk: 0, n_computed: 2 });
    }

    #[test]
    fn a_key_is_of_a_prompt_and_of_a_way_to_compute_it() {
        let prompt = |token| EncodedPrompt::from_tokens(vec![token]);
        assert!(PrefixKey::of("a", &prompt(1)) == PrefixKey::of("a", &prompt(1)));
        assert!(PrefixKey::of("b", &prompt(1)) != PrefixKey::of("a", &prompt(1)));
        assert!(PrefixKey::of("a", &prompt(2)) != PrefixKey::of("a", &prompt(1)));
    }
}
