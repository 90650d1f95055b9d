//! Keys and values of what comes before the invocation of activated adapters, kept across prompts, steps and sessions: the
//! base computes them, and the base does not change.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use super::{SequenceState, Session};
use crate::{ErrorKind, Result, backend, lru::Lru, prompt::EncodedPrompt};

/// Beginnings of prompts that sessions share ([`Session::set_prompt_cache`]). A hit gives the bits of a miss.
pub struct PromptCache {
    kept: Mutex<Kept>,
    store: Option<Box<dyn PromptStore>>,
}

/// Where beginnings of prompts outlive the process, such as a folder.
pub trait PromptStore: Send + Sync {
    /// What was stored under `key`, if it is there and whole.
    fn load(&self, key: &[u8; 32]) -> Option<Vec<u8>>;

    /// Keeps `bytes` under `key`. A store that cannot do so costs time and nothing else.
    fn store(&self, key: &[u8; 32], bytes: &[u8]);
}

struct Kept {
    states: Lru<[u8; 32], Arc<SequenceState>>,
    stats: PromptCacheStats,
}

/// How often beginnings of prompts were at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptCacheStats {
    /// Restored from memory.
    pub n_restored: u64,
    /// Restored from the store.
    pub n_loaded: u64,
    /// Computed.
    pub n_computed: u64,
}

impl fmt::Debug for PromptCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PromptCache({} bytes, {:?})", self.n_bytes(), self.stats())
    }
}

impl PromptCache {
    /// Room for `max_bytes` of keys and values. Those that were not used for the longest time go first; a prompt that does
    /// not fit is computed for every use.
    pub fn new(max_bytes: usize) -> Self {
        let kept = Kept { states: Lru::new(max_bytes), stats: PromptCacheStats::default() };
        Self { kept: Mutex::new(kept), store: None }
    }

    /// The same cache with a store behind it, where everything that is computed goes and what memory does not have is looked
    /// for. States in it are told apart by the content of their models ([`crate::Model::content_hash`]);
    /// processors of one architecture with other instructions need stores of their own where the same bits matter.
    #[must_use]
    pub fn with_store(self, store: Box<dyn PromptStore>) -> Self {
        Self { store: Some(store), ..self }
    }

    /// How often beginnings of prompts were at hand.
    pub fn stats(&self) -> PromptCacheStats {
        self.kept().stats
    }

    /// Bytes of memory that it holds.
    pub fn n_bytes(&self) -> usize {
        self.kept().states.n_bytes()
    }

    fn in_memory(&self, key: [u8; 32]) -> Option<Arc<SequenceState>> {
        self.kept().states.get(key)
    }

    fn in_store(&self, key: [u8; 32]) -> Option<Arc<SequenceState>> {
        let bytes = self.store.as_ref()?.load(&key)?;
        SequenceState::from_bytes(&bytes).map(Arc::new).ok()
    }

    fn keep(&self, key: [u8; 32], state: Arc<SequenceState>) {
        let n_bytes = state.n_bytes();
        self.kept().states.insert(key, state, n_bytes);
    }

    fn count(&self, count: impl FnOnce(&mut PromptCacheStats)) {
        count(&mut self.kept().stats);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(state) = cache.in_memory(key) {
            self.restore(seq, &state, prompt)?;
            cache.count(|stats| stats.n_restored += 1);
            return Ok(());
        }
        if let Some(state) = cache.in_store(key) {
            match self.restore(seq, &state, prompt) {
                // Whatever else is in a store, the prompt can be computed.
                Err(error) if error.kind() == ErrorKind::Mismatch => {
                    tracing::warn!(%error, "keys and values of a prompt are computed again");
                }
                result => {
                    result?;
                    cache.keep(key, state);
                    cache.count(|stats| stats.n_loaded += 1);
                    return Ok(());
                }
            }
        }
        self.run_base(seq, prompt)?;
        let state = Arc::new(self.save(seq, prompt)?);
        cache.count(|stats| stats.n_computed += 1);
        if let Some(store) = &cache.store {
            store.store(&key, &state.to_bytes());
        }
        cache.keep(key, state);
        Ok(())
    }

    /// What decides the bits of the keys and values of `prompt`.
    fn prompt_key(&self, prompt: &EncodedPrompt) -> Result<[u8; 32]> {
        let super::SessionOptions { n_ubatch, kv_type, flash_attention, n_threads, .. } = self.options;
        let n_threads = backend::resolve_threads(n_threads)?;
        let (version, processor) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        let (hash, kernels) = (self.model.gguf().content_hash_until(self.context.cancel())?, self.model.kernels());
        let context =
            format!("{version} {processor} {hash} {kernels:?} {kv_type:?} {flash_attention:?} {n_ubatch} {n_threads} ");
        Ok(Sha256::new().chain_update(context).chain_update(prompt.digest()).finalize().into())
    }
}
