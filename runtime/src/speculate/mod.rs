//! Speculative decoding: tokens are guessed ahead and checked together, in one call of the model.
//!
//! `guess -> decode_run of the last token and the guesses -> write token by token -> take back what was not written`. Where
//! reading the weights is what a decode call costs, one of several tokens costs little more than one of one.
//!
//! It changes no answer. At every position the token is picked as without guesses, from the model's logits and the keyed random
//! numbers of that position ([`crate::RngKey`]), under all options and constraints; a guess is accepted when it is the token
//! that was picked. That is exact for every sampler and simpler than accepting by a ratio of probabilities (arXiv 2211.17192,
//! section 2.3); the price is that a guess counts only when it is that very token. So the distribution of answers is
//! the model's own, and with one seed the tokens are the same but where a near tie falls the other way, since kernels
//! round differently for several tokens.

mod model;
mod ngrams;

use std::time::Instant;

use self::model::ModelDrafter;
use crate::{
    Error, ErrorKind, Result,
    answer::{Draft, StopReason, Writer, Written},
    cancel::CancelToken,
    model::{Model, TokenId},
    prompt::EncodedPrompt,
    session::{Fitted, Session, SessionOptions},
};

/// How a session guesses tokens ahead; see [`Session::set_speculation`].
#[derive(Clone, Debug)]
pub enum Speculation {
    /// What followed the longest earlier occurrence of the last tokens, in the prompt or the answer (prompt lookup). Costs
    /// nothing where nothing repeats; pays for copies, lists and code.
    NGrams {
        /// Most tokens that are guessed at once, at least 1.
        n_draft: usize,
        /// Tokens that an occurrence has in common at least, at least 1.
        n_match: usize,
    },
    /// What a smaller model with the same vocabulary would answer, by the same options and random numbers. Pictures that
    /// are not of its width are left out of what it sees.
    Model {
        /// The smaller model.
        model: Model,
        /// Tokens that are guessed at once, at least 1.
        n_draft: usize,
    },
}

impl Speculation {
    /// By n-grams: 8 tokens ahead where the last 3 occurred before.
    pub fn n_grams() -> Self {
        Self::NGrams { n_draft: 8, n_match: 3 }
    }

    /// By `model`, 4 tokens ahead.
    pub fn model(model: Model) -> Self {
        Self::Model { model, n_draft: 4 }
    }

    /// Rows of logits that the session needs ([`crate::SessionOptions::n_logits`]): one for each guess and one more.
    pub fn n_logits(&self) -> usize {
        let (Self::NGrams { n_draft, .. } | Self::Model { n_draft, .. }) = self;
        n_draft.saturating_add(1)
    }

    /// Bytes of anonymous memory that guesses for a session of `options` take beside it, by [`crate::InferencePlan`]: the
    /// vocabulary and the session of a draft model.
    ///
    /// # Errors
    /// Those of [`Session::new`] for options out of range.
    pub fn memory_bytes(&self, options: &SessionOptions) -> Result<usize> {
        match self {
            Self::NGrams { .. } => Ok(0),
            Self::Model { model, .. } => model::memory_bytes(model, options),
        }
    }

    fn check(&self, session: &Session) -> Result<()> {
        let (Self::NGrams { n_draft, .. } | Self::Model { n_draft, .. }) = self;
        if *n_draft == 0 || matches!(self, Self::NGrams { n_match: 0, .. }) {
            return Err(Error::new(ErrorKind::InvalidInput, "bad speculation").got(format!("{self:?}")));
        }
        let n_logits = session.options().n_logits;
        if self.n_logits() > n_logits {
            let error = Error::new(ErrorKind::InvalidInput, "session has no room for the logits of the guesses");
            return Err(error.at("n_logits").got(n_logits).needed(format!("at least {}", self.n_logits())));
        }
        if let Some(Fitted { spare_bytes, .. }) = session.fitted() {
            let n_bytes = self.memory_bytes(session.options())?;
            if n_bytes > spare_bytes {
                let error = Error::new(ErrorKind::Limit, "the draft model does not fit the session's memory budget");
                return Err(error.got(format!("{spare_bytes} bytes left")).needed(format!("{n_bytes} bytes")));
            }
        }
        Ok(())
    }
}

/// What guesses.
pub(crate) enum Drafter {
    NGrams { n_draft: usize, n_match: usize },
    Model { drafter: Box<ModelDrafter>, n_draft: usize },
}

impl Drafter {
    /// # Errors
    /// Those of [`Session::set_speculation`].
    pub(crate) fn new(speculation: &Speculation, session: &Session) -> Result<Self> {
        speculation.check(session)?;
        Ok(match *speculation {
            Speculation::NGrams { n_draft, n_match } => Self::NGrams { n_draft, n_match },
            Speculation::Model { ref model, n_draft } => {
                Self::Model { drafter: Box::new(ModelDrafter::new(model, session)?), n_draft }
            }
        })
    }

    pub(crate) fn set_cancel(&mut self, cancel: &CancelToken) {
        if let Self::Model { drafter, .. } = self {
            drafter.set_cancel(cancel);
        }
    }

    /// At most `n_most` tokens that may follow `prompt` and `draft`.
    fn guess(
        &mut self,
        prompt: &EncodedPrompt,
        writer: &mut Writer,
        draft: &Draft,
        n_most: usize,
    ) -> Result<Vec<TokenId>> {
        match self {
            Self::NGrams { n_draft, n_match } => {
                Ok(ngrams::guess(prompt, draft.tokens(), n_most.min(*n_draft), *n_match))
            }
            Self::Model { drafter, n_draft } => drafter.guess(prompt, writer, draft, n_most.min(*n_draft)),
        }
    }
}

/// Decodes the last token of `draft`, the answer to `prompt` in sequence `seq`, and writes the next one; several where guesses
/// were right. `show` gets the position of each and tells whether the answer ends with it. Then the sequence holds all
/// tokens but the last.
///
/// # Errors
/// `Cancelled` and `Backend`, with sequence and answer as before; those of [`Writer::write`].
pub(crate) fn advance(
    session: &mut Session,
    seq: usize,
    prompt: &EncodedPrompt,
    writer: &mut Writer,
    draft: &mut Draft,
    show: &mut dyn FnMut(usize, Written) -> Option<StopReason>,
) -> Result<Option<StopReason>> {
    let guesses = guess(session, seq, prompt, writer, draft)?;
    let last = draft.tokens().last().copied();
    let last = last.ok_or_else(|| Error::new(ErrorKind::Internal, "an answer goes on before its first token"))?;
    let mut run = Vec::with_capacity(1 + guesses.len());
    run.push(last);
    run.extend(&guesses);
    session.decode_run(seq, &run)?;
    let start = Instant::now();
    let (mut index, mut stop) = (0, None);
    loop {
        let position = draft.tokens().len();
        let written = writer.write(draft, session.run_logits(seq, index)?)?;
        let is_accepted = guesses.get(index) == Some(&written.token);
        stop = stop.or(show(position, written));
        if !is_accepted || stop.is_some() {
            break;
        }
        index += 1;
    }
    session.take_back(seq, guesses.len() - index)?;
    let timings = session.timings_mut();
    timings.sample_ms += start.elapsed().as_secs_f64() * 1e3;
    timings.n_guessed += guesses.len() as u64;
    timings.n_accepted += index as u64;
    Ok(stop)
}

/// Tokens that may come next: none when the session does not speculate, or nothing but the next token fits.
fn guess(
    session: &mut Session,
    seq: usize,
    prompt: &EncodedPrompt,
    writer: &mut Writer,
    draft: &Draft,
) -> Result<Vec<TokenId>> {
    let Some(mut drafter) = session.take_drafter() else { return Ok(Vec::new()) };
    let start = Instant::now();
    // The last token takes a place; a guess behind the last token of the answer would be for nothing.
    let n_places = session.options().n_ctx.saturating_sub(session.n_tokens(seq) + 1);
    let n_most = n_places.min(writer.n_left(draft).saturating_sub(1));
    let guesses = drafter.guess(prompt, writer, draft, n_most);
    session.put_drafter(drafter);
    session.timings_mut().decode_ms += start.elapsed().as_secs_f64() * 1e3;
    guesses
}
