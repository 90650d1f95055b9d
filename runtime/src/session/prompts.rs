//! Keys and values of what comes before the invocation of activated adapters, kept across prompts, steps and sessions: the
//! base computes them, and the base does not change.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::{SequenceState, Session};
use crate::{Result, backend, lru::Lru, prompt::EncodedPrompt};

/// Beginnings of prompts that sessions share ([`Session::set_prompt_cache`]). A hit gives the bits of a miss.
#[derive(Debug)]
pub struct PromptCache(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    states: Lru<[u8; 32], Arc<SequenceState>>,
    stats: PromptCacheStats,
}

/// How often beginnings of prompts were at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptCacheStats {
    /// Restored.
    pub n_restored: u64,
    /// Computed.
    pub n_computed: u64,
}

impl PromptCache {
    /// Room for `max_bytes` of keys and values. Those that were not used for the longest time go first; a prompt that does
    /// not fit is computed for every use.
    pub fn new(max_bytes: usize) -> Self {
        Self(Mutex::new(Kept { states: Lru::new(max_bytes), stats: PromptCacheStats::default() }))
    }

    /// How often beginnings of prompts were at hand.
    pub fn stats(&self) -> PromptCacheStats {
        self.kept().stats
    }

    /// Bytes of memory that it holds.
    pub fn n_bytes(&self) -> usize {
        self.kept().states.n_bytes()
    }

    fn get(&self, key: [u8; 32]) -> Option<Arc<SequenceState>> {
        let mut kept = self.kept();
        let state = kept.states.get(key)?;
        kept.stats.n_restored += 1;
        Some(state)
    }

    fn insert(&self, key: [u8; 32], state: SequenceState) {
        let mut kept = self.kept();
        kept.stats.n_computed += 1;
        let n_bytes = state.n_bytes();
        kept.states.insert(key, Arc::new(state), n_bytes);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Makes activated adapters' prompts begin with what `cache` keeps, where it has it, and keeps there what is computed.
    /// Serves prompts in empty sequences, while no plain adapter is in use.
    pub fn set_prompt_cache(&mut self, cache: Option<Arc<PromptCache>>) {
        self.prompts = cache;
    }

    /// Makes `seq` go on with `prompt`, the beginning of a prompt that ends where activated adapters begin to act.
    pub(super) fn run_before_invocation(&mut self, seq: usize, prompt: &EncodedPrompt) -> Result<()> {
        let is_base = self.adapters.iter().all(|(adapter, _)| adapter.invocation().is_some());
        let serves = is_base && self.sequences[seq].n_tokens == 0 && !prompt.segments.is_empty();
        let Some(cache) = self.prompts.clone().filter(|_| serves) else { return self.run_base(seq, prompt) };
        let key = self.prompt_key(prompt)?;
        if let Some(state) = cache.get(key) {
            return self.restore(seq, &state, prompt);
        }
        self.run_base(seq, prompt)?;
        cache.insert(key, self.save(seq, prompt)?);
        Ok(())
    }

    /// What decides the bits of the keys and values of `prompt`.
    fn prompt_key(&self, prompt: &EncodedPrompt) -> Result<[u8; 32]> {
        let super::SessionOptions { n_ubatch, kv_type, flash_attention, n_threads, .. } = self.options;
        let n_threads = backend::resolve_threads(n_threads)?;
        let context = format!("{} {kv_type:?} {flash_attention:?} {n_ubatch} {n_threads} ", self.model.info().hash);
        Ok(Sha256::new().chain_update(context).chain_update(prompt.digest()).finalize().into())
    }
}
