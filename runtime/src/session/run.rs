//! Several tokens of one sequence in a call, with logits behind each: what scoring given answers and checking drafts need.

use std::time::Instant;

use super::{Sequence, Session, no_logits};
use crate::{
    Error, ErrorKind, Result,
    model::TokenId,
    speculate::{Drafter, Speculation},
};

impl Session {
    /// Makes [`crate::generate()`] and conversations guess tokens ahead, or no more (the default). Answers stay the same but for
    /// the rounding of kernels; [`Session::timings`] tells how many guesses were right. While several answers run side by side
    /// nothing is guessed: they fill a call already.
    ///
    /// # Errors
    /// `InvalidInput` for numbers out of range, or more guesses than the session has rows of logits for
    /// ([`Speculation::n_logits`]); `Mismatch` for a draft model with another vocabulary; those of [`Session::new`] for
    /// its session.
    pub fn set_speculation(&mut self, speculation: Option<&Speculation>) -> Result<()> {
        self.drafter = speculation.map(|speculation| Drafter::new(speculation, self)).transpose()?;
        Ok(())
    }

    pub(crate) fn is_speculating(&self) -> bool {
        self.drafter.is_some()
    }

    /// For a guess, which needs the session too; [`Session::put_drafter`] gives it back.
    pub(crate) fn take_drafter(&mut self) -> Option<Drafter> {
        self.drafter.take()
    }

    pub(crate) fn put_drafter(&mut self, drafter: Drafter) {
        self.drafter = Some(drafter);
    }

    /// Appends `tokens` to `seq` in one call; afterwards [`Session::run_logits`] tells what may follow each of them, and
    /// [`Session::logits`] what may follow the last.
    ///
    /// # Errors
    /// As [`Session::decode`]; `Limit` for more tokens than [`crate::SessionOptions::n_logits`].
    pub fn decode_run(&mut self, seq: usize, tokens: &[TokenId]) -> Result<()> {
        let start = Instant::now();
        self.check_run(seq, tokens)?;
        self.batch.clear();
        let before = self.sequences[seq];
        for (&token, position) in tokens.iter().zip(before.next_position..) {
            self.batch.push_token(token, position, seq, true);
        }
        if let Err(error) = self.run_token_batch() {
            self.context.truncate(seq, before.next_position);
            return Err(error);
        }
        self.advance(seq, tokens.len(), tokens.len() as i32, Some(tokens.len() - 1));
        self.sequences[seq].n_run = tokens.len();
        self.timings.decode_ms += start.elapsed().as_secs_f64() * 1e3;
        self.timings.n_decoded += tokens.len() as u64;
        self.timings.n_decode_calls += 1;
        Ok(())
    }

    /// The logits after token `index` of the run that `seq` decoded last, one for each token of the vocabulary.
    ///
    /// # Errors
    /// `InvalidInput` when the last call was another, or the run had fewer tokens.
    pub fn run_logits(&self, seq: usize, index: usize) -> Result<&[f32]> {
        let Sequence { logits_at, n_run, .. } = *self.sequence(seq)?;
        let entry = logits_at.filter(|_| index < n_run).map(|last| last + 1 - n_run + index);
        entry.and_then(|entry| self.context.logits(entry)).ok_or_else(|| no_logits(seq))
    }

    /// Takes the last `n` tokens of the last run of `seq` away again. The logits after those before stay, and
    /// [`Session::timings`] no longer counts them.
    ///
    /// # Errors
    /// `InvalidInput` when the last call was another, or the run had fewer tokens.
    pub fn take_back(&mut self, seq: usize, n: usize) -> Result<()> {
        let before = *self.sequence(seq)?;
        let n_run = before.logits_at.map_or(0, |_| before.n_run);
        if n > n_run {
            let error = Error::new(ErrorKind::InvalidInput, "more tokens to take back than the last run had").got(n);
            return Err(error.at(format!("sequence {seq}")).needed(format!("at most {n_run}")));
        }
        if n == 0 {
            return Ok(());
        }
        let mut mark = self.mark(seq);
        mark.n_tokens -= n;
        mark.next_position -= n as i32;
        mark.activation = mark.activation.within(mark.n_tokens);
        self.rewind(seq, mark);
        self.timings.n_decoded = self.timings.n_decoded.saturating_sub(n as u64);
        if n < n_run {
            self.sequences[seq].logits_at = before.logits_at.map(|last| last - n);
            self.sequences[seq].n_run = n_run - n;
        }
        Ok(())
    }

    fn check_run(&self, seq: usize, tokens: &[TokenId]) -> Result<()> {
        let sequence = self.sequence(seq)?;
        if tokens.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "nothing to decode").needed("at least one token"));
        }
        if tokens.len() > self.options.n_logits {
            let error = Error::new(ErrorKind::Limit, "session has no room for the logits of so many tokens");
            let error = error.got(tokens.len());
            return Err(error.needed(format!("at most n_logits, {} of this session", self.options.n_logits)));
        }
        self.check_room(sequence, tokens.len())?;
        tokens.iter().try_for_each(|&token| self.check_token(token))
    }
}
