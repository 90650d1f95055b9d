//! The adapters of a session, and where in a prompt the activated ones begin to act.
//!
//! llama.cpp applies adapters to whole calls, so a prompt is computed in two parts: what comes before the invocation without
//! the activated adapters, the rest, and every token of the answer, with them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Session;
use crate::{Error, ErrorKind, Result, adapter::Adapter, model::TokenId, prompt::EncodedPrompt};

/// An adapter as files name it, and how strongly it acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterUse {
    /// [`Adapter::hash`].
    pub hash: String,
    /// Times its update.
    pub scale: f32,
    /// Whether it waits for an invocation.
    pub is_activated: bool,
}

impl AdapterUse {
    /// What `adapters` are, in an order that does not depend on theirs.
    pub(crate) fn of(adapters: &[(Arc<Adapter>, f32)]) -> Vec<Self> {
        let name = |(adapter, scale): &(Arc<Adapter>, f32)| Self {
            hash: adapter.hash().to_owned(),
            scale: *scale,
            is_activated: adapter.invocation().is_some(),
        };
        let mut uses: Vec<_> = adapters.iter().map(name).collect();
        uses.sort_by(|a, b| a.hash.cmp(&b.hash).then(a.scale.total_cmp(&b.scale)));
        uses
    }

    /// `uses` as an error tells them.
    pub(crate) fn names(uses: &[Self]) -> String {
        let name = |used: &Self| format!("{}... at {}", used.hash.get(..12).unwrap_or(&used.hash), used.scale);
        if uses.is_empty() { "none".to_owned() } else { uses.iter().map(name).collect::<Vec<_>>().join(", ") }
    }
}

/// Where activated adapters acted on a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activation {
    /// Nowhere.
    #[default]
    Never,
    /// From this place on.
    From(usize),
    /// In parts: the sequence got a second prompt.
    InParts,
}

impl Activation {
    /// After more was computed from place `n_tokens` on, with or without activated adapters.
    pub(super) fn then(self, is_activated: bool, n_tokens: usize) -> Self {
        match self {
            Self::Never if is_activated => Self::From(n_tokens),
            Self::From(_) if !is_activated => Self::InParts,
            other => other,
        }
    }

    /// Of the first `n_tokens` places.
    pub(super) fn within(self, n_tokens: usize) -> Self {
        match self {
            Self::From(place) if place >= n_tokens => Self::Never,
            _ if n_tokens == 0 => Self::Never,
            other => other,
        }
    }
}

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
        self.check_adapters(adapters)?;
        self.adopt_adapters(adapters);
        self.clear_all();
        Ok(())
    }

    /// Puts `adapters`, which were checked, in place of those before. Sequences keep what they hold: whoever goes on with one
    /// knows that it was computed under the same.
    pub(crate) fn adopt_adapters(&mut self, adapters: &[(Arc<Adapter>, f32)]) {
        let before = std::mem::replace(&mut self.adapters, adapters.to_vec());
        self.apply(|_| true);
        // The context knew them until now.
        drop(before);
    }

    /// The errors of [`Session::set_adapters`].
    pub(crate) fn check_adapters(&self, adapters: &[(Arc<Adapter>, f32)]) -> Result<()> {
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

    /// Place in `seq` from which on activated adapters acted on what it holds; its end where they did not.
    pub(crate) fn activated_from(&self, seq: usize) -> usize {
        let sequence = &self.sequences[seq];
        match sequence.activation {
            Activation::Never => sequence.n_tokens,
            Activation::From(place) => place,
            Activation::InParts => 0,
        }
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
        self.is_activated = self.adapters.iter().any(|(adapter, _)| acts(adapter) && adapter.invocation().is_some());
    }
}
