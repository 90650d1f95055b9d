//! How a session is set up.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, backend, model::hyper::Hyperparameters};

/// Sequences that one llama.cpp context can hold.
pub(super) const MAX_SEQUENCES: usize = 256;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvType {
    /// Full precision: logits agree with Hugging Face to 2e-4 (with flash attention off and an F32 model).
    F32,
    /// Half the memory; logits move by 0.01 to 0.05.
    F16,
    /// A quarter of the memory; needs flash attention and heads of a multiple of 32.
    Q8_0,
}

/// Whether attention is computed in one fused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashAttention {
    /// Where the device has it.
    Auto,
    /// Always.
    On,
    /// Never: the most exact, and the most memory for long contexts.
    Off,
}

/// How a session is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Tokens that each sequence can hold, prompt and answer together; default 2048, at most the number that the
    /// model was trained with. K/V memory grows with `n_ctx * n_seq`.
    pub n_ctx: usize,
    /// Sequences decoded together; default 1, at most 256. Group rollouts want 8 to 64.
    pub n_seq: usize,
    /// Most tokens computed at once in a prompt; default 512. Memory for activations grows with it.
    pub n_ubatch: usize,
    /// Most tokens of one sequence that get logits in a call ([`super::Session::decode_run`]), at most `n_ubatch`; default 1.
    /// Scores and speculation want 8 to 32. Each takes 8 bytes for every token of the vocabulary, but no more than
    /// `n_seq` in all are reserved for by default.
    pub n_logits: usize,
    /// Precision of keys and values; default F16.
    pub kv_type: KvType,
    /// Fused attention; default Auto.
    pub flash_attention: FlashAttention,
    /// Threads; default 0: one per core. They spin until the last one is done after every operation, so with more
    /// threads than idle cores the work crawls; for many answers of a small model, several sessions of one thread each
    /// are faster than one of several. The same number gives the same bits.
    pub n_threads: usize,
    /// Most anonymous memory, in bytes, that model, projector and this session may take together by
    /// [`crate::InferencePlan`]; default `None`: as much as it takes. Batch, precision, pictures and context are reduced to
    /// meet it, see [`crate::InferencePlan::fit`]; [`crate::Session::options`] tells to what, and
    /// [`crate::Session::image_budget`] what pictures may have.
    pub memory_budget: Option<usize>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            n_ctx: 2048,
            n_seq: 1,
            n_ubatch: 512,
            n_logits: 1,
            kv_type: KvType::F16,
            flash_attention: FlashAttention::Auto,
            n_threads: 0,
            memory_budget: None,
        }
    }
}

impl SessionOptions {
    /// Checks the ranges, and what depends on `model`.
    pub(crate) fn check_for(&self, model: &Hyperparameters) -> Result<()> {
        let refused = |option: &str, got: usize, needed: String| {
            Err(Error::new(ErrorKind::InvalidInput, "bad session option").at(option).got(got).needed(needed))
        };
        let n_ctx_train = model.n_ctx_train as usize;
        if !(1..=n_ctx_train).contains(&self.n_ctx) {
            return refused("n_ctx", self.n_ctx, format!("1 to {n_ctx_train}, the model's training length"));
        }
        if !(1..=MAX_SEQUENCES).contains(&self.n_seq) {
            return refused("n_seq", self.n_seq, format!("1 to {MAX_SEQUENCES}"));
        }
        if !(1..=1 << 16).contains(&self.n_ubatch) {
            return refused("n_ubatch", self.n_ubatch, format!("1 to {}", 1 << 16));
        }
        if !(1..=self.n_ubatch).contains(&self.n_logits) {
            return refused("n_logits", self.n_logits, format!("1 to {}, as many as n_ubatch", self.n_ubatch));
        }
        backend::resolve_threads(self.n_threads)?;
        let cells = (self.n_ctx as u64).next_multiple_of(256) * self.n_seq as u64;
        if cells > i32::MAX as u64 {
            return refused("n_ctx * n_seq", self.n_ctx, "fewer than 2^31 cells".to_owned());
        }
        if self.kv_type == KvType::Q8_0 {
            let head_dim = model.head_dim as usize;
            if self.flash_attention == FlashAttention::Off || !head_dim.is_multiple_of(32) {
                return refused("kv_type Q8_0", head_dim, "flash attention and heads of a multiple of 32".to_owned());
            }
        }
        Ok(())
    }
}
