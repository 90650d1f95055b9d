//! Keys and values of what comes before the invocation of an activated adapter, and the cache that keeps them.
//!
//! The base computes them, and the base does not change: they serve every step and epoch, every adapter, and the reference
//! policy. What is kept is exactly what was computed, so a hit gives the same bits as a miss.

use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc};

use owlet_runtime::{EncodedPrompt, Segment};
use sha2::{Digest, Sha256};

use super::{family::Decoder, prefix_file};

/// How prefixes are kept. One takes `2 x layers x keys' width` F32 numbers for each of its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCacheOptions {
    /// Memory, in bytes. Default 256 MiB. Those that were not used for the longest time go first; one that does not fit is
    /// computed for every call.
    pub memory_bytes: usize,
    /// A folder for the others, made if it is missing; default none. Files there serve later runs with the same model and
    /// number of threads. One that is damaged, or of something else, is computed again. The model is told by the header and
    /// the first 4096 bytes of each tensor of its file, not by all of it: models that differ further behind only need
    /// folders of their own. So do processors of one architecture with other instructions, where the same bits matter.
    pub directory: Option<PathBuf>,
    /// Bytes of the files in `directory`. Default 4 GiB. The oldest go first.
    pub directory_bytes: u64,
}

impl Default for PrefixCacheOptions {
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, directory: None, directory_bytes: 4 << 30 }
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
        for segment in &prompt.segments {
            match segment {
                Segment::Tokens(tokens) => {
                    hasher.update([0]);
                    hasher.update((tokens.len() as u64).to_le_bytes());
                    hasher.update(bytemuck::cast_slice::<_, u8>(tokens));
                }
                Segment::Image(image) => {
                    hasher.update([1]);
                    for n in [image.grid_w as u64, image.grid_h as u64, image.width_embd as u64] {
                        hasher.update(n.to_le_bytes());
                    }
                    hasher.update(bytemuck::cast_slice::<_, u8>(&image.data));
                }
            }
        }
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
#[derive(Default)]
pub(super) struct PrefixCache {
    options: PrefixCacheOptions,
    entries: HashMap<PrefixKey, Entry>,
    n_bytes: usize,
    /// Counts uses.
    clock: u64,
    stats: PrefixCacheStats,
}

struct Entry {
    prefix: Arc<Prefix>,
    last_used: u64,
}

impl PrefixCache {
    pub(super) fn new(options: PrefixCacheOptions) -> Self {
        Self { options, ..Self::default() }
    }

    pub(super) fn stats(&self) -> PrefixCacheStats {
        self.stats
    }

    /// Bytes of memory that it holds.
    pub(super) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The prefix of `n_tokens` tokens that is kept under `key`.
    pub(super) fn get(&mut self, key: PrefixKey, decoder: &Decoder, n_tokens: usize) -> Option<Arc<Prefix>> {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.last_used = self.clock;
            self.stats.n_memory += 1;
            return Some(Arc::clone(&entry.prefix));
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

    /// Keeps a prefix in memory, in place of those that were not used for the longest time.
    fn keep(&mut self, key: PrefixKey, prefix: &Arc<Prefix>) {
        let n_bytes = prefix.n_bytes();
        if n_bytes > self.options.memory_bytes {
            return;
        }
        while self.n_bytes + n_bytes > self.options.memory_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| *key);
            let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) else { break };
            self.n_bytes -= entry.prefix.n_bytes();
        }
        self.n_bytes += n_bytes;
        self.entries.insert(key, Entry { prefix: Arc::clone(prefix), last_used: self.clock });
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
    fn those_not_used_for_the_longest_time_go_first() {
        let decoder = super::super::family::tests::decoder();
        let n_bytes = prefix(4, 0.0).n_bytes();
        let options = PrefixCacheOptions { memory_bytes: 2 * n_bytes, ..PrefixCacheOptions::default() };
        let mut cache = PrefixCache::new(options);
        cache.insert(key(1), &prefix(4, 1.0));
        cache.insert(key(2), &prefix(4, 2.0));
        assert_eq!(cache.get(key(1), &decoder, 4), Some(prefix(4, 1.0)));
        cache.insert(key(3), &prefix(4, 3.0));
        assert_eq!(cache.get(key(2), &decoder, 4), None);
        assert_eq!(cache.get(key(1), &decoder, 4), Some(prefix(4, 1.0)));
        assert_eq!(cache.get(key(3), &decoder, 4), Some(prefix(4, 3.0)));
        cache.insert(key(4), &prefix(9, 4.0));
        assert_eq!(cache.get(key(4), &decoder, 9), None, "larger than the cache");
        assert_eq!(cache.n_bytes(), 2 * n_bytes);
        assert_eq!(cache.stats(), PrefixCacheStats { n_memory: 3, n_disk: 0, n_computed: 4 });
    }

    #[test]
    fn every_part_of_a_prompt_is_in_its_key() {
        let picture = |data: Vec<f32>, grid_w| {
            let image =
                owlet_runtime::ImageEmbedding { n_tokens: 2, grid_w, grid_h: 1, width_embd: 1, data, encode_ms: 3.0 };
            Segment::Image(Arc::new(image))
        };
        let tokens = |tokens: &[i32]| Segment::Tokens(tokens.to_vec());
        let prompts = [
            vec![tokens(&[1, 2])],
            vec![tokens(&[2, 1])],
            vec![tokens(&[1]), tokens(&[2])],
            vec![tokens(&[1]), picture(vec![0.5, 1.0], 2), tokens(&[2])],
            vec![tokens(&[1]), picture(vec![0.5, 1.5], 2), tokens(&[2])],
            vec![tokens(&[1]), picture(vec![0.5, 1.0], 1), tokens(&[2])],
        ];
        let keys: std::collections::HashSet<_> =
            prompts.iter().map(|segments| PrefixKey::of("a", &EncodedPrompt { segments: segments.clone() })).collect();
        assert_eq!(keys.len(), prompts.len());
        let prompt = EncodedPrompt { segments: prompts[3].clone() };
        assert!(PrefixKey::of("a", &prompt) == PrefixKey::of("a", &prompt));
        assert!(PrefixKey::of("b", &prompt) != PrefixKey::of("a", &prompt));
    }
}
