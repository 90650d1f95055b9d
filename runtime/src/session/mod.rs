//! A session: a model at work on one or many sequences, with their K/V caches and the adapters in use.
//!
//! `EncodedPrompt -> prefill(sequence) -> fork to others -> decode one token each, again and again -> logits`.
//! generate.rs drives this for whole answers. Everything that llama.cpp would abort on (token numbers, sequence
//! numbers, room in the cache) is checked here.

mod adapters;
mod bare;
mod batch;
mod context;
mod options;
mod prompts;
mod run;
mod state;

use std::{sync::Arc, time::Instant};

use self::{
    adapters::Activation,
    batch::Batch,
    context::{Context, DecodeFailure},
    options::MAX_SEQUENCES,
};
pub use self::{
    adapters::AdapterUse,
    bare::BareLoop,
    options::{FlashAttention, KvType, SessionOptions},
    prompts::{PromptCache, PromptCacheStats, PromptStore},
    state::SequenceState,
};
use crate::{
    Error, ErrorKind, Result,
    adapter::Adapter,
    cancel::CancelToken,
    image::ImageBudget,
    model::{Model, TokenId},
    plan::{InferencePart, InferencePlan, InferenceRequest},
    prompt::{EncodedPrompt, ImageEmbedding, Segment},
    speculate::Drafter,
    timings::Timings,
};

/// A model at work. Sequences are numbered from 0 to `n_seq - 1` and start empty.
///
/// A call that fails or is cancelled leaves every sequence as it was, so the session stays usable.
pub struct Session {
    // Fields are dropped in this order: the context refers to the adapters and the model.
    context: Context,
    adapters: Vec<(Arc<Adapter>, f32)>,
    model: Model,
    options: SessionOptions,
    image_budget: Option<ImageBudget>,
    fitted: Option<Fitted>,
    sequences: Vec<Sequence>,
    batch: Batch,
    timings: Timings,
    /// Keys and values of what comes before invocations.
    prompts: Option<Arc<PromptCache>>,
    /// Guesses tokens ahead.
    drafter: Option<Drafter>,
    /// Whether activated adapters act on what is computed now.
    is_activated: bool,
    /// How often all sequences were emptied: tells answers under way that they lost theirs.
    n_clears: u64,
}

/// What a memory budget leaves for what is not the session itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fitted {
    /// For embeddings of pictures.
    pub(crate) picture_bytes: usize,
    /// For anything else.
    pub(crate) spare_bytes: usize,
}

/// What a sequence holds.
#[derive(Clone, Copy, Debug, Default)]
struct Sequence {
    n_tokens: usize,
    /// Position of the next token; behind a picture less than `n_tokens`.
    next_position: i32,
    /// Entry of the last batch that holds this sequence's logits.
    logits_at: Option<usize>,
    /// Tokens that the last call decoded, each with logits of its own; 0 behind a prompt.
    n_run: usize,
    /// Where activated adapters acted on it; plain ones acted on all of it.
    activation: Activation,
    /// Whether a fork from or to it waits for the next decode call, which copies the data.
    is_unsettled: bool,
}

impl Session {
    /// Makes a session on `model`.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range, `Limit` with the numbers when it does not fit its memory budget, `Backend`
    /// when llama.cpp refuses, memory included.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Self> {
        options.check_for(model.hyper())?;
        let (mut image_budget, mut fitted) = (model.image_budget(), None);
        let options = &match options.memory_budget {
            None => *options,
            Some(budget) => {
                let request = InferenceRequest { session: *options, ..InferenceRequest::default() };
                let plan = InferencePlan::fit_model(model, &request, budget)?;
                let max_pixels = |budget: ImageBudget| plan.max_pixels.clamp(budget.token_pixels(), budget.max_pixels);
                image_budget = image_budget.map(|budget| ImageBudget {
                    min_pixels: budget.min_pixels.min(max_pixels(budget)),
                    max_pixels: max_pixels(budget),
                    ..budget
                });
                fitted = Some(Fitted {
                    picture_bytes: plan.bytes(InferencePart::Pictures),
                    spare_bytes: budget - plan.peak_bytes(),
                });
                plan.session
            }
        };
        Ok(Self {
            context: Context::new(model, options)?,
            adapters: Vec::new(),
            model: model.clone(),
            options: *options,
            image_budget,
            fitted,
            sequences: vec![Sequence::default(); options.n_seq],
            batch: Batch::new(wants_all_logits(model)),
            timings: Timings::default(),
            prompts: None,
            drafter: None,
            is_activated: false,
            n_clears: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The options it was made with, after they were fitted to their memory budget.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The pixels of pictures that the memory budget allows; without one those of the model. `None` for a model that sees
    /// none.
    pub fn image_budget(&self) -> Option<ImageBudget> {
        self.image_budget
    }

    /// What its memory budget leaves; `None` without one.
    pub(crate) fn fitted(&self) -> Option<Fitted> {
        self.fitted
    }

    /// What the session did so far.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Sets the counters to zero.
    pub fn reset_timings(&mut self) {
        self.timings = Timings::default();
    }

    pub(crate) fn timings_mut(&mut self) -> &mut Timings {
        &mut self.timings
    }

    /// Makes `cancel` stop the calls that follow; they return `Cancelled`. Works within a call on CPU. A run of
    /// [`crate::generate()`] puts its own token in place and a fresh one afterwards.
    pub fn set_cancel(&mut self, cancel: CancelToken) {
        self.drafter.iter_mut().for_each(|drafter| drafter.set_cancel(&cancel));
        self.context.set_cancel(cancel);
    }

    /// What stops its calls.
    pub(crate) fn cancel(&self) -> &CancelToken {
        self.context.cancel()
    }

    /// Tokens that sequence `seq` holds; 0 for a number out of range.
    pub fn n_tokens(&self, seq: usize) -> usize {
        self.sequences.get(seq).map_or(0, |sequence| sequence.n_tokens)
    }

    /// Appends `prompt` to sequence `seq`; afterwards [`Session::logits`] tells what may follow. Activated adapters leave
    /// what comes before their last invocation in `prompt` to the base.
    ///
    /// # Errors
    /// `ContextOverflow` with the numbers when it does not fit, `InvalidInput` for an empty prompt, a token outside of
    /// the vocabulary, a sequence out of range or a prompt that lacks the invocation of an activated adapter, `Mismatch` for an image of another model's projector, `Cancelled`,
    /// `Backend`.
    pub fn prefill(&mut self, seq: usize, prompt: &EncodedPrompt) -> Result<()> {
        let start = Instant::now();
        let before = self.check_prompt(seq, prompt)?;
        let result = match self.activation(prompt)? {
            Some(place) => {
                let (base, adapted) = prompt.split_at(place);
                self.run_before_invocation(seq, &base).and_then(|()| self.run_segments(seq, &adapted, true))
            }
            None => self.run_segments(seq, prompt, true),
        };
        if result.is_err() {
            self.context.truncate(seq, before.next_position);
            let is_unsettled = self.sequences[seq].is_unsettled;
            self.sequences[seq] = Sequence { logits_at: None, n_run: 0, is_unsettled, ..before };
        }
        self.timings.prefill_ms += start.elapsed().as_secs_f64() * 1e3;
        if result.is_ok() {
            self.timings.n_prompt_tokens += prompt.n_tokens() as u64;
        }
        result
    }

    /// Makes each of `targets` a copy of `source`, logits included. What the targets held is lost.
    ///
    /// # Errors
    /// `InvalidInput` for a sequence out of range or a target that is the source.
    pub fn fork(&mut self, source: usize, targets: &[usize]) -> Result<()> {
        let sequence = *self.sequence(source)?;
        for &target in targets {
            self.sequence(target)?;
            if target == source {
                let error = Error::new(ErrorKind::InvalidInput, "cannot copy a sequence to itself");
                return Err(error.got(source));
            }
            self.context.copy(source, target);
            self.sequences[target] = Sequence { is_unsettled: true, ..sequence };
            self.sequences[source].is_unsettled = true;
        }
        Ok(())
    }

    /// Appends one token to each of several sequences, all in one call; afterwards [`Session::logits`] tells what may
    /// follow each. Sequences in ascending order without gaps are fastest.
    ///
    /// # Errors
    /// As [`Session::prefill`]; `InvalidInput` also when a sequence is named twice.
    pub fn decode(&mut self, tokens: &[(usize, TokenId)]) -> Result<()> {
        let start = Instant::now();
        self.check_tokens(tokens)?;
        self.batch.clear();
        for &(seq, token) in tokens {
            self.batch.push_token(token, self.sequences[seq].next_position, seq, true);
        }
        if let Err(error) = self.run_token_batch() {
            for &(seq, _) in tokens {
                self.context.truncate(seq, self.sequences[seq].next_position);
            }
            return Err(error);
        }
        for (index, &(seq, _)) in tokens.iter().enumerate() {
            self.advance(seq, 1, 1, Some(index));
            self.sequences[seq].n_run = 1;
        }
        self.timings.decode_ms += start.elapsed().as_secs_f64() * 1e3;
        self.timings.n_decoded += tokens.len() as u64;
        self.timings.n_decode_calls += 1;
        Ok(())
    }

    /// The logits after the last token of `seq`, one for each token of the vocabulary.
    ///
    /// # Errors
    /// `InvalidInput` unless `seq` took part in the last [`Session::prefill`] or [`Session::decode`], or was forked from
    /// one that did.
    pub fn logits(&self, seq: usize) -> Result<&[f32]> {
        let at = self.sequence(seq)?.logits_at;
        at.and_then(|index| self.context.logits(index)).ok_or_else(|| no_logits(seq))
    }

    /// Empties `seq`.
    ///
    /// # Errors
    /// `InvalidInput` for a sequence out of range.
    pub fn clear(&mut self, seq: usize) -> Result<()> {
        self.sequence(seq)?;
        self.empty(seq);
        Ok(())
    }

    /// Empties all sequences.
    pub fn clear_all(&mut self) {
        self.n_clears += 1;
        (0..self.sequences.len()).for_each(|seq| self.empty(seq));
    }

    fn empty(&mut self, seq: usize) {
        self.context.truncate(seq, 0);
        let is_unsettled = self.sequences[seq].is_unsettled;
        self.sequences[seq] = Sequence { is_unsettled, ..Sequence::default() };
    }

    pub(crate) fn n_clears(&self) -> u64 {
        self.n_clears
    }

    /// Where `seq` stands, for [`Session::rewind`].
    pub(crate) fn mark(&self, seq: usize) -> Mark {
        let Sequence { n_tokens, next_position, activation, .. } = self.sequences[seq];
        Mark { n_tokens, next_position, activation }
    }

    /// Cuts `seq` back to `mark`, which it, or the sequence it was forked from, went through.
    pub(crate) fn rewind(&mut self, seq: usize, mark: Mark) {
        self.context.truncate(seq, mark.next_position);
        let Mark { n_tokens, next_position, activation } = mark;
        let is_unsettled = self.sequences[seq].is_unsettled;
        self.sequences[seq] = Sequence { n_tokens, next_position, activation, is_unsettled, ..Sequence::default() };
    }

    /// Cuts `seq` back to `beginning`, which what it holds begins with.
    pub(crate) fn cut_back(&mut self, seq: usize, beginning: &EncodedPrompt) {
        let (n_tokens, next_position) = (beginning.n_tokens(), beginning.next_position());
        let activation = self.sequences[seq].activation.within(n_tokens);
        self.rewind(seq, Mark { n_tokens, next_position, activation });
    }

    fn sequence(&self, seq: usize) -> Result<&Sequence> {
        self.sequences.get(seq).ok_or_else(|| {
            let error = Error::new(ErrorKind::InvalidInput, "no such sequence").got(seq);
            error.needed(format!("below {}", self.options.n_seq))
        })
    }

    /// Checks that `prompt` can go to `seq` and returns what `seq` holds.
    fn check_prompt(&self, seq: usize, prompt: &EncodedPrompt) -> Result<Sequence> {
        let sequence = *self.sequence(seq)?;
        let n_tokens = prompt.n_tokens();
        if n_tokens == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "empty prompt").needed("at least one token"));
        }
        self.check_room(&sequence, n_tokens)?;
        for segment in &prompt.segments {
            match segment {
                Segment::Tokens(tokens) => tokens.iter().try_for_each(|&token| self.check_token(token))?,
                Segment::Image(image) => self.check_image(image)?,
            }
        }
        Ok(sequence)
    }

    fn check_tokens(&self, tokens: &[(usize, TokenId)]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "nothing to decode").needed("at least one token"));
        }
        let mut seen = [false; MAX_SEQUENCES];
        for &(seq, token) in tokens {
            self.check_room(self.sequence(seq)?, 1)?;
            self.check_token(token)?;
            if std::mem::replace(&mut seen[seq], true) {
                return Err(Error::new(ErrorKind::InvalidInput, "sequence named twice").got(seq));
            }
        }
        Ok(())
    }

    fn check_room(&self, sequence: &Sequence, n_tokens: usize) -> Result<()> {
        let needed = sequence.n_tokens + n_tokens;
        if needed <= self.options.n_ctx {
            return Ok(());
        }
        let error = Error::new(ErrorKind::ContextOverflow, "prompt and answer do not fit the context");
        Err(error.got(format!("{needed} tokens")).needed(format!("at most {}", self.options.n_ctx)))
    }

    fn check_token(&self, token: TokenId) -> Result<()> {
        if self.model.has_token(token) {
            return Ok(());
        }
        let error = Error::new(ErrorKind::InvalidInput, "token is not in the vocabulary").got(token);
        Err(error.needed(format!("0 to {}", self.model.info().n_vocab - 1)))
    }

    fn check_image(&self, image: &ImageEmbedding) -> Result<()> {
        let ImageEmbedding { n_tokens, grid_w, grid_h, width_embd, ref data, .. } = *image;
        if !self.model.hyper().architecture.is_vision() || width_embd != self.model.input_width() {
            let error = Error::new(ErrorKind::Mismatch, "image embedding is of another model");
            return Err(error.got(format!("width {width_embd}")).needed(format!("width {}", self.model.input_width())));
        }
        let n_grid = grid_w as usize * grid_h as usize;
        if n_tokens != n_grid || data.len() != n_tokens * width_embd || n_tokens == 0 {
            let error = Error::new(ErrorKind::InvalidInput, "bad image embedding");
            let got = format!("{n_tokens} tokens, {} floats for a grid of {grid_w}x{grid_h}", data.len());
            return Err(error.got(got));
        }
        Ok(())
    }

    /// Appends the segments of `prompt` to `seq`, checked before; the last token of all may want logits.
    fn run_segments(&mut self, seq: usize, prompt: &EncodedPrompt, wants_logits: bool) -> Result<()> {
        let n_segments = prompt.segments.len();
        for (index, segment) in prompt.segments.iter().enumerate() {
            let is_last = wants_logits && index + 1 == n_segments;
            match segment {
                Segment::Tokens(tokens) => self.run_tokens(seq, tokens, is_last)?,
                Segment::Image(image) => self.run_image(seq, segment, image, is_last)?,
            }
        }
        Ok(())
    }

    fn run_tokens(&mut self, seq: usize, tokens: &[TokenId], is_last: bool) -> Result<()> {
        for (chunk_index, chunk) in tokens.chunks(self.options.n_ubatch).enumerate() {
            let n_after = tokens.len() - chunk_index * self.options.n_ubatch - chunk.len();
            let start = self.sequences[seq].next_position;
            self.batch.clear();
            for (index, &token) in chunk.iter().enumerate() {
                let wants_logits = is_last && n_after == 0 && index + 1 == chunk.len();
                self.batch.push_token(token, start + index as i32, seq, wants_logits);
            }
            self.run_token_batch()?;
            let logits_at = (is_last && n_after == 0).then_some(chunk.len() - 1);
            self.advance(seq, chunk.len(), chunk.len() as i32, logits_at);
        }
        Ok(())
    }

    fn run_image(&mut self, seq: usize, segment: &Segment, image: &ImageEmbedding, is_last: bool) -> Result<()> {
        let mut positions = Vec::with_capacity(image.n_tokens);
        segment.append_positions(self.sequences[seq].next_position, &mut positions);
        let n_chunks = image.n_tokens.div_ceil(self.options.n_ubatch);
        let rows = image.data.chunks(self.options.n_ubatch * image.width_embd);
        for (index, (positions, rows)) in positions.chunks(self.options.n_ubatch).zip(rows).enumerate() {
            let wants_logits = is_last && index + 1 == n_chunks;
            self.batch.set_image(positions, seq, wants_logits);
            let batch = self.batch.of_image(rows);
            self.forget_logits();
            // SAFETY: `check_image` fixed the width of the rows and their number; the batch describes one chunk of at
            // most `n_ubatch` tokens with four positions each, for a sequence that exists.
            unsafe { self.context.decode(batch) }.map_err(|failure| self.failed(failure))?;
            self.forks_are_settled();
            let n_positions = if index + 1 == n_chunks { segment.n_positions() } else { 0 };
            self.advance(seq, positions.len(), n_positions, wants_logits.then_some(positions.len() - 1));
        }
        Ok(())
    }

    /// Runs the tokens in `self.batch`.
    fn run_token_batch(&mut self) -> Result<()> {
        self.forget_logits();
        let batch = self.batch.of_tokens();
        // SAFETY: callers checked tokens and sequences; a batch is a chunk of at most `n_ubatch` tokens or one token for
        // each sequence, and the context's batch size is the larger of both.
        unsafe { self.context.decode(batch) }.map_err(|failure| self.failed(failure))?;
        self.forks_are_settled();
        Ok(())
    }

    /// A decode call copied what forks had put off.
    fn forks_are_settled(&mut self) {
        self.sequences.iter_mut().for_each(|sequence| sequence.is_unsettled = false);
    }

    /// The next batch overwrites the logits of the last one.
    fn forget_logits(&mut self) {
        self.sequences.iter_mut().for_each(|sequence| sequence.logits_at = None);
    }

    fn advance(&mut self, seq: usize, n_tokens: usize, n_positions: i32, logits_at: Option<usize>) {
        let sequence = &mut self.sequences[seq];
        sequence.activation = sequence.activation.then(self.is_activated, sequence.n_tokens);
        sequence.n_tokens += n_tokens;
        sequence.next_position += n_positions;
        sequence.logits_at = logits_at;
        sequence.n_run = 0;
    }

    fn failed(&self, failure: DecodeFailure) -> Error {
        match failure {
            DecodeFailure::Cancelled => self.context.cancel().error(),
            // The graph may also stop for a flag that was set before its first node.
            _ if self.context.cancel().is_cancelled() => self.context.cancel().error(),
            DecodeFailure::Full => Error::new(ErrorKind::Internal, "K/V cache is full before the context is"),
            DecodeFailure::Failed(status) => {
                Error::new(ErrorKind::Backend, "llama.cpp cannot decode").got(format!("status {status}"))
            }
        }
    }
}

/// llama.cpp keeps only the rows that want logits in the last layer, but adds deepstack shares for all tokens: a model
/// whose every layer takes a share (no published one) works only when all tokens want logits.
fn wants_all_logits(model: &Model) -> bool {
    model.hyper().n_deepstack == model.hyper().n_layer
}

fn no_logits(seq: usize) -> Error {
    let error = Error::new(ErrorKind::InvalidInput, "sequence has no logits").at(format!("sequence {seq}"));
    error.needed("a part in the last prefill or decode")
}

/// A place in a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    n_tokens: usize,
    next_position: i32,
    activation: Activation,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:?}, {} sequences of {})", self.model, self.options.n_seq, self.options.n_ctx)
    }
}
