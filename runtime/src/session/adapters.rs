//! The adapters of a session, and where in a prompt the activated ones begin to act.
//!
//! llama.cpp applies adapters to whole calls, so a prompt is computed in two parts: what comes before the invocation without
//! the activated adapters, the rest, and every token of the answer, with them.

use std::sync::Arc;

use super::Session;
use crate::{Error, ErrorKind, Result, adapter::Adapter, model::TokenId, prompt::EncodedPrompt};

impl Session {
    /// The adapters in use, with their scales.
    pub fn adapters(&self) -> &[(Arc<Adapter>, f32)] {
        &self.adapters
    }

    /// Puts `adapters` in place of those before; their updates are added up, each times its scale. Sequences that hold
    /// something are emptied, since their K/V came from other weights.
    ///
    /// An activated adapter ([`Adapter::invocation`]) acts in every prompt that is prefilled from then on from its
    /// invocation on, and on the answer; plain adapters act on everything.
    ///
    /// # Errors
    /// `Mismatch` when an adapter was opened for another model, `InvalidInput` for a scale that is not finite,
    /// `Unsupported` for activated adapters with different invocations.
    pub fn set_adapters(&mut self, adapters: &[(Arc<Adapter>, f32)]) -> Result<()> {
        for (adapter, scale) in adapters {
            if !adapter.model().is_same(&self.model) {
                let error = Error::new(ErrorKind::Mismatch, "adapter was opened for another model");
                return Err(error.got(adapter.model().path().display()).needed(self.model.path().display()));
            }
            if !scale.is_finite() {
                return Err(Error::new(ErrorKind::InvalidInput, "bad adapter scale")
                    .got(scale)
                    .needed("a finite number"));
            }
        }
        let mut invocations: Vec<_> = adapters.iter().filter_map(|(adapter, _)| adapter.invocation()).collect();
        invocations.dedup();
        if invocations.len() > 1 {
            let error = Error::new(ErrorKind::Unsupported, "activated adapters that are invoked differently");
            return Err(error.got(format!("{invocations:?}")).needed("one invocation"));
        }
        let before = std::mem::replace(&mut self.adapters, adapters.to_vec());
        self.apply(|_| true);
        // The context knew them until now.
        drop(before);
        self.clear_all();
        Ok(())
    }

    /// What invokes the activated adapters in use; `None` when there are none.
    pub fn invocation(&self) -> Option<&[TokenId]> {
        self.adapters.iter().find_map(|(adapter, _)| adapter.invocation())
    }

    /// Where in `prompt` the activated adapters begin to act; `None` when there are none.
    ///
    /// # Errors
    /// `InvalidInput` when `prompt` lacks their invocation.
    pub(super) fn activation(&self, prompt: &EncodedPrompt) -> Result<Option<usize>> {
        self.invocation().map(|invocation| prompt.activation(invocation)).transpose()
    }

    /// Appends `prompt` to `seq` without the activated adapters; no logits come of it.
    pub(super) fn run_base(&mut self, seq: usize, prompt: &EncodedPrompt) -> Result<()> {
        if prompt.segments.is_empty() {
            return Ok(());
        }
        self.apply(|adapter| adapter.invocation().is_none());
        let result = self.run_segments(seq, prompt, false);
        self.apply(|_| true);
        result
    }

    /// Makes the context use those of the session's adapters that `acts` picks.
    fn apply(&mut self, acts: impl Fn(&Adapter) -> bool) {
        // llama.cpp keeps one scale for each adapter: of one that is given twice the last.
        let (mut pointers, mut scales) = (Vec::new(), Vec::new());
        for (adapter, scale) in self.adapters.iter().filter(|(adapter, _)| acts(adapter)) {
            let pointer = adapter.raw().as_ptr();
            match pointers.iter().position(|&known| known == pointer) {
                Some(index) => scales[index] += scale,
                None => {
                    pointers.push(pointer);
                    scales.push(*scale);
                }
            }
        }
        // SAFETY: the adapters are of this model (`set_adapters`) and kept in `self.adapters`; ones that leave it are
        // dropped after the context forgot them.
        unsafe { self.context.set_adapters(&mut pointers, &mut scales) };
        self.is_adapting = !pointers.is_empty();
    }
}
