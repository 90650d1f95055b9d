//! Whether an adapter changes anything: llama.cpp applies one that does nothing without a word.

use std::sync::Arc;

use super::Adapter;
use crate::{
    Error, ErrorKind, Result,
    prompt::Prompt,
    session::{FlashAttention, KvType, Session, SessionOptions},
};

impl Adapter {
    /// The largest difference that the adapter, `scale` times, makes to the logits after a short question. Takes a small session
    /// of `n_threads` threads (0: one per core) for two short prompts.
    ///
    /// # Errors
    /// `NoEffect` when there is no difference at all; `InvalidFile` when the logits are not finite with the adapter;
    /// `InvalidInput` for a scale that is not finite; `Unsupported` when the chat template refuses a plain question;
    /// `Backend`.
    pub fn check_effect(self: &Arc<Self>, scale: f32, n_threads: usize) -> Result<f32> {
        let mut prompt = self.model.encode(&Prompt::user("Hello", Vec::new())?)?;
        if let Some(invocation) = self.invocation()
            && prompt.last_occurrence(invocation).is_none()
        {
            invocation.iter().for_each(|&token| prompt.push_token(token));
        }
        // As exact as can be: a small difference shall not be rounded away.
        let (kv_type, flash_attention) = (KvType::F32, FlashAttention::Off);
        let n_ctx = prompt.n_tokens();
        let options =
            SessionOptions { n_ctx, n_ubatch: n_ctx, kv_type, flash_attention, n_threads, ..SessionOptions::default() };
        let mut session = Session::new(&self.model, &options)?;
        session.prefill(0, &prompt)?;
        let without = session.logits(0)?.to_vec();
        session.set_adapters(&[(Arc::clone(self), scale)])?;
        session.prefill(0, &prompt)?;
        let with = session.logits(0)?;
        if !with.iter().all(|logit| logit.is_finite()) {
            let error = Error::new(ErrorKind::InvalidFile, "adapter gives no probabilities");
            return Err(error.got("logits that are not finite"));
        }
        let largest = with.iter().zip(&without).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if largest == 0.0 {
            let error = Error::new(ErrorKind::NoEffect, "adapter changes nothing").got(format!("scale {scale}"));
            return Err(error.needed("an adapter that was trained, at a scale that matters"));
        }
        Ok(largest)
    }
}
