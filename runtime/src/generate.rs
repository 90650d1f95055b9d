//! Whole answers, many at once: every prompt is computed once and forked, all running answers advance together.
//!
//! A lane is a sequence of the session. Answers wait in a queue, request by request; a free lane takes the next one.
//! When its prompt is already in some lane, that lane is forked and cut back to the end of the prompt, so a group of n
//! answers costs one prompt, image included. One decode call then advances all lanes by a token.
//!
//! Which token is picked depends on the logits and on the key (seed, step, prompt, sample, position) alone, never on what
//! runs beside it. The logits themselves are computed by kernels whose rounding may depend on how many lanes take part in
//! a call: the same session options, requests and threads give the same bits; another number of lanes gives answers that
//! are equal until a near tie falls the other way.

use std::{ops::ControlFlow, time::Instant};

use crate::{
    Error, ErrorKind, Result,
    answer::{AnswerOptions, Draft, Generated, StopReason, Writer, Written},
    cancel::CancelToken,
    model::TokenId,
    prompt::EncodedPrompt,
    rng::Rng,
    session::{Mark, Session},
    speculate,
    think::ThinkEvent,
};

/// What makes the random numbers of a request its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RngKey {
    /// Seed of the run.
    pub seed: u64,
    /// Training step, or 0.
    pub step: u64,
    /// Number of the prompt in its data set, or of the question in a conversation.
    pub prompt: u64,
}

impl RngKey {
    pub(crate) fn rng(self, sample: usize, position: usize) -> Rng {
        Rng::keyed(&[self.seed, self.step, self.prompt, sample as u64, position as u64])
    }
}

/// A prompt to be answered `n` times.
#[derive(Clone, Copy, Debug)]
pub struct GenerateRequest<'a> {
    /// The prompt.
    pub prompt: &'a EncodedPrompt,
    /// Answers wanted.
    pub n: usize,
    /// Key of the random numbers; answers of a request differ by their number.
    pub rng_key: RngKey,
}

/// A token that was just picked.
#[derive(Clone, Copy, Debug)]
pub struct TokenEvent<'a> {
    /// Index of the request.
    pub request: usize,
    /// Index of the answer in its request.
    pub sample: usize,
    /// Index of the token in its answer.
    pub position: usize,
    /// The token.
    pub token: TokenId,
    /// Its log-probability.
    pub logprob: f32,
    /// Whether the runtime put it in: see [`Generated::forced`].
    pub is_forced: bool,
    /// What the answer says that was not told with an earlier token: often nothing, since tags and characters may be split
    /// across tokens.
    pub said: &'a [ThinkEvent],
    /// Set on the last token of an answer, unless the caller ends it.
    pub stop: Option<StopReason>,
}

/// Answers every request and returns, per request, its `n` answers.
///
/// The session's sequences are used from empty and left empty. `on_token` sees every token as it is picked;
/// `ControlFlow::Break` ends that answer. An answer has at least one token.
///
/// # Errors
/// `ContextOverflow` when a prompt leaves no room for a single token, before anything is computed; `InvalidInput` for
/// options out of range; `Cancelled` when `cancel` was set, with the session empty and usable; `Backend`.
pub fn generate(
    session: &mut Session,
    requests: &[GenerateRequest],
    options: &AnswerOptions,
    cancel: &CancelToken,
    on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
) -> Result<Vec<Vec<Generated>>> {
    let start = Instant::now();
    let mut generation = Generation::new(session, requests, options)?;
    session.set_cancel(cancel.clone());
    let mut first_token = None;
    let mut on_token = |event: TokenEvent| {
        first_token.get_or_insert_with(|| start.elapsed());
        on_token(event)
    };
    let result = loop {
        match cancel.check().and_then(|()| generation.advance(session, &mut on_token)) {
            Ok(false) => {}
            Ok(true) => break Ok(generation.into_answers()),
            Err(error) => break Err(error),
        }
    };
    session.clear_all();
    session.timings_mut().first_token_ms = first_token.map_or(0.0, |first| first.as_secs_f64() * 1e3);
    // A token that is cancelled later must not stop the session's next call.
    session.set_cancel(CancelToken::new());
    result
}

fn check(session: &Session, requests: &[GenerateRequest], writer: &Writer) -> Result<()> {
    let n_ctx = session.options().n_ctx;
    for (index, request) in requests.iter().enumerate() {
        let n_tokens = request.prompt.n_tokens();
        if n_tokens >= n_ctx {
            let error = Error::new(ErrorKind::ContextOverflow, "prompt leaves no room for an answer");
            let error = error.at(format!("request {index}")).got(format!("{n_tokens} tokens"));
            return Err(error.needed(format!("less than the context of {n_ctx}")));
        }
        writer.check_room(n_tokens).map_err(|error| error.at(format!("request {index}")))?;
    }
    Ok(())
}

/// A request of its own, so that answers under way borrow nothing.
struct Question {
    prompt: EncodedPrompt,
    n: usize,
    rng_key: RngKey,
}

/// A running answer.
struct Lane {
    request: usize,
    draft: Draft,
}

/// What the answers of one request start from.
struct Start {
    /// The end of the prompt in every sequence that holds it.
    mark: Mark,
    /// Logits after the prompt.
    logits: Vec<f32>,
}

/// What a unit of work was.
enum Filled {
    /// A prompt was computed.
    Computed,
    /// At most copies were made.
    Copied,
}

/// Answers under way in one session, which go on a unit at a time and may rest between any two.
///
/// The units do not depend on the pauses, so neither do the bits of the answers. Until the end the session serves nothing
/// else.
pub struct Generation {
    questions: Vec<Question>,
    writer: Writer,
    /// Per sequence, the answer that runs in it.
    lanes: Vec<Option<Lane>>,
    /// Per sequence, the request whose prompt it begins with.
    holds: Vec<Option<usize>>,
    /// Next answer to start: request and sample.
    next: (usize, usize),
    /// Of request `next.0`, once its prompt was computed.
    start: Option<Start>,
    answers: Vec<Vec<Option<Generated>>>,
    /// [`Session::n_clears`] of the session while its sequences are ours.
    n_clears: u64,
}

impl Generation {
    /// Empties `session` and gets ready to answer `requests`; computes nothing yet.
    ///
    /// # Errors
    /// As [`generate()`] before its first token.
    pub fn new(session: &mut Session, requests: &[GenerateRequest], options: &AnswerOptions) -> Result<Self> {
        let writer = Writer::new(session.model(), session.options().n_ctx, options)?;
        check(session, requests, &writer)?;
        session.clear_all();
        let question = |&GenerateRequest { prompt, n, rng_key }: &GenerateRequest| {
            // Pictures are shared, not copied.
            Question { prompt: prompt.clone(), n, rng_key }
        };
        let n_seq = session.options().n_seq;
        let mut generation = Self {
            questions: requests.iter().map(question).collect(),
            writer,
            lanes: (0..n_seq).map(|_| None).collect(),
            holds: vec![None; n_seq],
            next: (0, 0),
            start: None,
            answers: requests.iter().map(|request| vec![None; request.n]).collect(),
            n_clears: session.n_clears(),
        };
        generation.skip_started_requests();
        Ok(generation)
    }

    /// Does one unit of work in `session`: computes one prompt, or advances all running answers by a token. Returns whether
    /// all answers are complete.
    ///
    /// # Errors
    /// `InvalidInput` if the session was emptied meanwhile; `Cancelled` when the session's token was set, with the unit
    /// undone, so that a later call repeats it; `Backend`.
    pub fn advance(
        &mut self,
        session: &mut Session,
        on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
    ) -> Result<bool> {
        if session.n_clears() != self.n_clears {
            return Err(Error::new(ErrorKind::InvalidInput, "the session was used while answers were under way"));
        }
        for seq in 0..self.lanes.len() {
            if let Filled::Computed = self.fill_lane(session, on_token, seq)? {
                return Ok(false);
            }
        }
        self.close_gaps(session)?;
        let last_tokens = self.lanes.iter().map_while(|lane| lane.as_ref()?.draft.tokens().last().copied());
        let tokens: Vec<_> = last_tokens.enumerate().collect();
        if tokens.is_empty() {
            return Ok(true);
        }
        if tokens.len() == 1 && session.is_speculating() {
            self.advance_alone(session, on_token)?;
        } else {
            session.decode(&tokens)?;
            self.pick_tokens(session, on_token, tokens.len())?;
        }
        Ok(false)
    }

    /// Advances the only answer that runs, which is in the first sequence, by a token or several that were guessed.
    fn advance_alone(
        &mut self,
        session: &mut Session,
        on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
    ) -> Result<()> {
        const SEQ: usize = 0;
        let Some(mut lane) = self.lanes[SEQ].take() else { return Ok(()) };
        let Lane { request, draft } = &mut lane;
        let (request, sample, prompt) = (*request, draft.sample(), &self.questions[*request].prompt);
        let show = &mut |position, written| show(request, sample, position, written, on_token);
        let stop = speculate::advance(session, SEQ, prompt, &mut self.writer, draft, show);
        self.lanes[SEQ] = Some(lane);
        if let Some(stop) = stop? {
            self.finish(SEQ, stop);
        }
        Ok(())
    }

    /// Per request, its answers as far as they are complete.
    pub fn into_answers(self) -> Vec<Vec<Generated>> {
        self.answers.into_iter().map(|request| request.into_iter().flatten().collect()).collect()
    }

    /// Starts waiting answers in sequence `seq` until one does not end with its first token, or a prompt was computed.
    fn fill_lane(
        &mut self,
        session: &mut Session,
        on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
        seq: usize,
    ) -> Result<Filled> {
        while self.lanes[seq].is_none() && self.next.0 < self.questions.len() {
            let (request, sample) = self.next;
            let filled = self.put_prompt(session, seq, request)?;
            let Question { prompt, rng_key, .. } = &self.questions[request];
            let mut lane = Lane { request, draft: self.writer.begin(prompt, *rng_key, sample) };
            let logits = &self.start.as_ref().expect("set by put_prompt").logits;
            let stop = lane.write(&mut self.writer, logits, on_token)?;
            self.lanes[seq] = Some(lane);
            if let Some(stop) = stop {
                self.finish(seq, stop);
            }
            self.next.1 += 1;
            self.skip_started_requests();
            if let Filled::Computed = filled {
                return Ok(filled);
            }
        }
        Ok(Filled::Copied)
    }

    /// Makes sequence `seq` hold the prompt of `request` and nothing behind it.
    fn put_prompt(&mut self, session: &mut Session, seq: usize, request: usize) -> Result<Filled> {
        let holder = match self.holds[seq] {
            Some(held) if held == request => Some(seq),
            _ => self.holds.iter().position(|&held| held == Some(request)),
        };
        if let (Some(holder), Some(start)) = (holder, &self.start) {
            if holder != seq {
                session.fork(holder, &[seq])?;
            }
            session.rewind(seq, start.mark);
            self.holds[seq] = Some(request);
            return Ok(Filled::Copied);
        }
        self.holds[seq] = None;
        session.clear(seq)?;
        session.prefill(seq, &self.questions[request].prompt)?;
        let logits = session.logits(seq)?.to_vec();
        self.start = Some(Start { mark: session.mark(seq), logits });
        self.holds[seq] = Some(request);
        Ok(Filled::Computed)
    }

    /// Moves on to the next request when all answers of this one were started.
    fn skip_started_requests(&mut self) {
        while self.next.0 < self.questions.len() && self.next.1 >= self.questions[self.next.0].n {
            self.next = (self.next.0 + 1, 0);
            self.start = None;
        }
    }

    /// Moves the last lanes into sequences that stay free: llama.cpp computes neighbouring sequences in one go, and
    /// copying a sequence costs less than a second go.
    fn close_gaps(&mut self, session: &mut Session) -> Result<()> {
        while let Some(gap) = self.lanes.iter().position(Option::is_none) {
            let Some(last) = self.lanes.iter().rposition(Option::is_some).filter(|&last| last > gap) else { break };
            session.fork(last, &[gap])?;
            self.lanes.swap(gap, last);
            self.holds[gap] = self.holds[last];
        }
        Ok(())
    }

    /// Picks a token in the first `n_lanes` lanes, which are all that run, and ends those that are done.
    fn pick_tokens(
        &mut self,
        session: &mut Session,
        on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
        n_lanes: usize,
    ) -> Result<()> {
        let start = Instant::now();
        for seq in 0..n_lanes {
            let Some(mut lane) = self.lanes[seq].take() else { continue };
            let stop = lane.write(&mut self.writer, session.logits(seq)?, on_token)?;
            self.lanes[seq] = Some(lane);
            if let Some(stop) = stop {
                self.finish(seq, stop);
            }
        }
        session.timings_mut().sample_ms += start.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    /// Ends the answer in sequence `seq`.
    fn finish(&mut self, seq: usize, stop: StopReason) {
        if let Some(Lane { request, draft }) = self.lanes[seq].take() {
            let sample = draft.sample();
            self.answers[request][sample] = Some(draft.finish(stop));
        }
    }
}

impl Lane {
    /// Writes the next token, shows it to the caller and tells whether the answer ends.
    fn write(
        &mut self,
        writer: &mut Writer,
        logits: &[f32],
        on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
    ) -> Result<Option<StopReason>> {
        let Self { request, draft } = self;
        let (position, sample) = (draft.tokens().len(), draft.sample());
        let written = writer.write(draft, logits)?;
        Ok(show(*request, sample, position, written, on_token))
    }
}

/// Shows a token to the caller and tells whether the answer ends with it.
fn show(
    request: usize,
    sample: usize,
    position: usize,
    written: Written,
    on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
) -> Option<StopReason> {
    let Written { token, logprob, is_forced, said, stop } = written;
    match on_token(TokenEvent { request, sample, position, token, logprob, is_forced, said: &said, stop }) {
        ControlFlow::Continue(()) => stop,
        ControlFlow::Break(()) => stop.or(Some(StopReason::Caller)),
    }
}
