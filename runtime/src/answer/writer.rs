//! Writes answers, a token at a time.

use std::{collections::VecDeque, ops::Range};

use super::{
    AnswerOptions, Generated, StopReason,
    budget::{Budget, Room},
    gate::{Entrance, Gate},
    speech::{Said, Speech},
};
use crate::{
    Error, ErrorKind, Result,
    generate::RngKey,
    model::{Model, TokenId},
    prompt::EncodedPrompt,
    sampler::{Sampled, Sampler},
    think::ThinkEvent,
};

/// Writes answers by one set of options. What belongs to a single answer is in its [`Draft`]; the writer has the sampler,
/// whose scratch is as large as the vocabulary.
pub(crate) struct Writer {
    model: Model,
    sampler: Sampler,
    options: AnswerOptions,
    budget: Option<Budget>,
    entrance: Option<Entrance>,
    n_ctx: usize,
}

/// An answer under way.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    rng_key: RngKey,
    sample: usize,
    n_prompt: usize,
    speech: Speech,
    tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
    top_logprobs: Vec<Vec<Sampled>>,
    /// Tokens of thinking.
    n_thought: usize,
    /// Tokens to come, whatever the model says.
    closing: VecDeque<TokenId>,
    forced: Range<usize>,
    /// Of an answer under a constraint.
    gate: Option<Gate>,
}

/// A token that was just written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) token: TokenId,
    pub(crate) logprob: f32,
    /// Whether the model did not pick it.
    pub(crate) is_forced: bool,
    /// What can be told since the last one.
    pub(crate) said: Vec<ThinkEvent>,
    /// Set when the answer is over.
    pub(crate) stop: Option<StopReason>,
}

impl Writer {
    /// A writer of answers by `model` in sequences of `n_ctx` places.
    ///
    /// # Errors
    /// `InvalidInput` and `Limit` for options out of range; `Unsupported` for a constraint that no answer of the model meets, or
    /// any in a build without grammars.
    pub(crate) fn new(model: &Model, n_ctx: usize, options: &AnswerOptions) -> Result<Self> {
        options.check()?;
        let sampler = Sampler::new(&options.sampler, model.info().n_vocab, model.never_sampled())?;
        let is_closed = options.thinking_budget.is_some() || options.constraint.is_some();
        let budget = is_closed.then(|| Budget::new(model, options.thinking_budget)).transpose()?;
        if let Some(budget) = &budget {
            let error = Error::new(ErrorKind::InvalidInput, "too few tokens for thinking and an answer");
            budget.check(options.max_new_tokens, error.at("max_new_tokens"))?;
        }
        let entrance = options.constraint.as_ref().map(|constraint| Entrance::new(model, constraint)).transpose()?;
        Ok(Self { model: model.clone(), sampler, options: options.clone(), budget, entrance, n_ctx })
    }

    /// Refuses a prompt of `n_prompt` tokens, less than the context has, that leaves no room for an answer as the options want
    /// it.
    ///
    /// # Errors
    /// `ContextOverflow` when thinking could not be closed.
    pub(crate) fn check_room(&self, n_prompt: usize) -> Result<()> {
        let error = Error::new(ErrorKind::ContextOverflow, "prompt leaves no room for thinking and an answer");
        self.budget.as_ref().map_or(Ok(()), |budget| budget.check(self.n_room(n_prompt), error))
    }

    /// The beginning of answer number `sample` to `prompt`.
    pub(crate) fn begin(&self, prompt: &EncodedPrompt, rng_key: RngKey, sample: usize) -> Draft {
        Draft {
            rng_key,
            sample,
            n_prompt: prompt.n_tokens(),
            speech: Speech::new(&self.model, prompt, &self.options.stop),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            top_logprobs: Vec::new(),
            n_thought: 0,
            closing: VecDeque::new(),
            forced: 0..0,
            gate: self.entrance.as_ref().map(|entrance| entrance.gate(self.options.thinking_budget != Some(0))),
        }
    }

    /// Picks the next token of `draft` by `logits`, which follow all that was written before. The token depends on them and on
    /// the key (seed, step, prompt, sample, position) alone.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub(crate) fn write(&mut self, draft: &mut Draft, logits: &[f32]) -> Result<Written> {
        let (Sampled { token, logprob }, is_forced) = self.next(draft, logits)?;
        draft.tokens.push(token);
        draft.logprobs.push(logprob);
        if self.options.top_logprobs > 0 {
            draft.top_logprobs.push(self.sampler.most_probable_of(logits, self.options.top_logprobs));
        }
        let (mut said, fits) = self.say(draft, token, is_forced);
        let limit = self.stop_reason(draft, token).or((!fits).then_some(StopReason::DeadEnd));
        if limit.is_some() && draft.speech.found.is_none() {
            said.extend(draft.speech.finish());
        }
        let stop = draft.speech.found.map(StopReason::StopString).or(limit);
        Ok(Written { token, logprob, is_forced, said, stop })
    }

    /// Tells what `token` means. Returns as well whether the constraint lets the answer go on behind it.
    fn say(&self, draft: &mut Draft, token: TokenId, is_forced: bool) -> (Vec<ThinkEvent>, bool) {
        let Draft { speech, gate, .. } = draft;
        let was_thinking = speech.is_thinking();
        if let Some(gate) = gate.as_mut().filter(|_| !was_thinking && !is_forced && !self.model.is_eog(token))
            && gate.push(token)
        {
            speech.read_literally();
        }
        let Said { events, answer } = speech.push(&self.model.token_bytes(token));
        draft.n_thought += usize::from(was_thinking && speech.is_thinking());
        if is_forced {
            draft.forced.end = draft.tokens.len();
            if draft.closing.is_empty() {
                speech.settle();
            }
        }
        let Some(gate) = gate.as_mut().filter(|_| !speech.is_thinking()) else { return (events, true) };
        if was_thinking || is_forced {
            if answer.is_empty() {
                let may_think = draft.forced.is_empty() && self.options.thinking_budget != Some(0);
                gate.reopen(may_think, speech.held());
            } else {
                // The token of the tag has the beginning of the answer, what is held for a tag included.
                let fits = gate.push_text(&(answer + speech.held()));
                speech.read_literally();
                if !fits {
                    return (events, false);
                }
            }
        }
        let n_vocab = self.model.info().n_vocab as TokenId;
        (events, (0..n_vocab).any(|token| self.sampler.may_pick(token) && gate.allows(token)))
    }

    /// The next token of `draft` and whether it is forced.
    fn next(&mut self, draft: &mut Draft, logits: &[f32]) -> Result<(Sampled, bool)> {
        self.close_thinking(draft, false)?;
        if draft.closing.is_empty() {
            let sampled = self.pick(draft, logits)?;
            if !self.model.is_eog(sampled.token) {
                return Ok((sampled, false));
            }
            // The model would leave without an answer.
            self.close_thinking(draft, true)?;
            if draft.closing.is_empty() {
                return Ok((sampled, false));
            }
        }
        let token = draft.closing.pop_front();
        let token = token.ok_or_else(|| Error::new(ErrorKind::Internal, "no token to close thinking with"))?;
        Ok((self.sampler.score(logits, token)?, true))
    }

    /// Picks a token by the model's probabilities.
    fn pick(&mut self, draft: &Draft, logits: &[f32]) -> Result<Sampled> {
        let mut rng = draft.rng_key.rng(draft.sample, draft.tokens.len());
        let Draft { tokens, speech, .. } = draft;
        let sampled = match &draft.gate {
            Some(gate) if !speech.is_thinking() => {
                self.sampler.sample_among(logits, tokens, &|token| gate.allows(token), &mut rng)
            }
            None if !draft.forced.is_empty() && speech.is_silent() => {
                // An answer was promised.
                self.sampler.sample_among(logits, tokens, &|token| !self.model.is_eog(token), &mut rng)
            }
            _ => return self.sampler.sample(logits, tokens, &mut rng),
        };
        sampled?.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "every token that may follow is banned"))
    }

    /// Has the thinking of `draft` closed if it is time; `is_over` when the model wants to end the answer.
    fn close_thinking(&self, draft: &mut Draft, is_over: bool) -> Result<()> {
        let Some(budget) = self.budget.as_ref().filter(|_| draft.closing.is_empty()) else { return Ok(()) };
        let n_room = self.n_room(draft.n_prompt);
        let room = Room { n_tokens: n_room, n_left: n_room.saturating_sub(draft.tokens.len()) };
        draft.closing = budget.close(&self.model, &draft.speech, draft.n_thought, room, is_over)?;
        if !draft.closing.is_empty() {
            draft.forced = draft.tokens.len()..draft.tokens.len();
        }
        Ok(())
    }

    /// Most tokens of an answer to a prompt of `n_prompt` tokens. The last one needs no place in the context.
    fn n_room(&self, n_prompt: usize) -> usize {
        self.options.max_new_tokens.min((self.n_ctx + 1).saturating_sub(n_prompt))
    }

    /// The token that this writer would pick by another model's `logits`, after `draft` and the guesses `ahead` of it. Nothing is
    /// written.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub(crate) fn guess(&mut self, draft: &Draft, ahead: &[TokenId], logits: &[f32]) -> Result<TokenId> {
        let tokens = [&draft.tokens, ahead].concat();
        let mut rng = draft.rng_key.rng(draft.sample, tokens.len());
        Ok(self.sampler.sample(logits, &tokens, &mut rng)?.token)
    }

    /// Tokens that `draft` may still have.
    pub(crate) fn n_left(&self, draft: &Draft) -> usize {
        self.options.max_new_tokens.saturating_sub(draft.tokens.len())
    }

    /// Why `draft` ends with `token` whatever it says, if it does.
    fn stop_reason(&self, draft: &Draft, token: TokenId) -> Option<StopReason> {
        if self.model.is_eog(token) {
            Some(StopReason::EndOfAnswer)
        } else if draft.tokens.len() == self.options.max_new_tokens {
            Some(StopReason::MaxTokens)
        } else if draft.n_prompt + draft.tokens.len() > self.n_ctx {
            // There is no place to decode this token in, so none can follow.
            Some(StopReason::ContextFull)
        } else {
            None
        }
    }
}

impl Draft {
    /// Index of the answer in its request.
    pub(crate) fn sample(&self) -> usize {
        self.sample
    }

    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// All text so far with its tags, what the template opened included, without a stop string.
    pub(crate) fn raw_text(&self) -> &str {
        &self.speech.raw
    }

    /// The answer, which ends here because of `stop`.
    pub(crate) fn finish(self, stop: StopReason) -> Generated {
        let is_whole = !self.speech.is_thinking() && self.speech.found.is_none();
        let meets_constraint = self.gate.map(|gate| is_whole && gate.is_complete());
        let Self { tokens, logprobs, top_logprobs, forced, speech: Speech { thinking, answer, .. }, .. } = self;
        Generated { tokens, logprobs, top_logprobs, forced, thinking, text: answer, stop, meets_constraint }
    }
}
