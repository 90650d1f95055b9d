//! A turn: a question is asked and answered.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use super::{ChatMessage, ChatPart, Conversation, OverflowPolicy, overflow::oldest_turn};
use crate::{
    Error, ErrorKind, Result,
    cancel::CancelToken,
    generate::{RngKey, StopReason, stop_reason},
    model::{Model, TokenId},
    prompt::{EncodedPrompt, Message, Outline, Part, Piece, Role, Segment, interleave, runs},
    sampler::Sampler,
    session::Session,
    text::TextDecoder,
    think::{ThinkEvent, ThinkSplitter},
};

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What the model thought.
    pub thinking: String,
    /// What it answered.
    pub answer: String,
    /// Its tokens; the last one is the end token when `stop` says so.
    pub tokens: Vec<TokenId>,
    /// Natural log-probability of each token, as in [`crate::Sampled`].
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub stop: StopReason,
    /// What it cost.
    pub report: TurnReport,
}

/// What a turn cost. Times are wall-clock milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TurnReport {
    /// Places of the prompt: instructions, history, question.
    pub n_prompt_tokens: usize,
    /// Of them, those that were computed; the sequence held the others.
    pub n_computed_tokens: usize,
    /// Messages that were forgotten to make room.
    pub n_dropped_messages: usize,
    /// Getting the question's pictures: from the cache or by encoding them.
    pub picture_ms: f64,
    /// Computing the prompt.
    pub prefill_ms: f64,
    /// From the call to the first token.
    pub first_token_ms: f64,
}

/// A question that fits.
struct Plan {
    /// Messages to be forgotten, from the oldest on.
    n_dropped: usize,
    /// Tokens between pictures.
    runs: Vec<Vec<TokenId>>,
}

impl Conversation {
    /// Asks `question` ([`Message::user`], or what a tool found) and streams thinking and answer to `on_event`;
    /// `ControlFlow::Break` ends the answer there. Both then belong to the history. The session works for this conversation
    /// until the call returns: `on_event` cannot use, fork or drop others that share it.
    ///
    /// # Errors
    /// `ContextOverflow` by [`super::ConversationOptions::overflow`]; `InvalidInput` for a question of another role, options
    /// out of range or a picture that cannot be resized; `Unsupported` for pictures without a projector, or when the template
    /// refuses the messages; `Cancelled` when `cancel` is set: looked at between pictures (the encoder is not interrupted), and
    /// inside of prompts and tokens on CPU, between them elsewhere; `Backend`. The conversation is then as before.
    pub fn ask(
        &mut self,
        question: Message,
        cancel: &CancelToken,
        on_event: &mut dyn FnMut(ThinkEvent) -> ControlFlow<()>,
    ) -> Result<Turn> {
        let start = Instant::now();
        let max_new_tokens = self.options.max_new_tokens;
        if max_new_tokens == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "no tokens to generate").at("max_new_tokens").got(0));
        }
        if !matches!(question.role, Role::User | Role::Tool) {
            let error = Error::new(ErrorKind::InvalidInput, "not a question").got(question.role.name());
            return Err(error.needed("a message of a user or a tool"));
        }
        let mut shared = self.seat.lock(&self.adapters);
        let session = &mut shared.session;
        let model = session.model().clone();
        let sampler = Sampler::new(&self.options.sampler, model.info().n_vocab, model.never_sampled())?;
        let plan = self.plan(&model, &question, session.options().n_ctx)?;

        let pictures_start = Instant::now();
        let question = self.look(&model, question, cancel)?;
        let picture_ms = milliseconds(pictures_start);
        let kept = self.messages[plan.n_dropped..].iter().chain([&question]).flat_map(ChatMessage::pictures);
        let prompt = interleave(plan.runs, kept.map(|picture| Ok(Arc::clone(picture))))?;

        let seq = self.seat.seq();
        let (beginning, rest) = prompt.split_at(self.n_reused(session, &prompt)?);
        session.cut_back(seq, &beginning);
        session.set_cancel(cancel.clone());
        let rng_key = RngKey { seed: self.options.seed, step: 0, prompt: self.n_turns };
        let answer = Answer { seq, rng_key, max_new_tokens, sampler, on_event };
        let result = answer.run(session, &prompt, &rest, cancel);
        // A token that is cancelled later must not stop the session's next call.
        session.set_cancel(CancelToken::new());
        let Answered { speech, opening, tokens, logprobs, stop, prefill_ms, first_token } = match result {
            Ok(answered) => answered,
            Err(error) => {
                session.cut_back(seq, &beginning);
                drop(shared);
                self.held = beginning;
                return Err(error);
            }
        };
        drop(shared);

        let report = TurnReport {
            n_prompt_tokens: prompt.n_tokens(),
            n_computed_tokens: rest.n_tokens(),
            n_dropped_messages: plan.n_dropped,
            picture_ms,
            prefill_ms,
            first_token_ms: first_token.duration_since(start).as_secs_f64() * 1e3,
        };
        self.messages.drain(..plan.n_dropped);
        let text = opening + &model.detokenize(&tokens);
        self.messages.extend([question, ChatMessage { role: Role::Assistant, parts: vec![ChatPart::Text(text)] }]);
        self.held = prompt;
        // The last token was picked and not decoded.
        tokens[..tokens.len() - 1].iter().for_each(|&token| self.held.push_token(token));
        self.n_turns += 1;
        let Speech { thinking, answer, .. } = speech;
        Ok(Turn { thinking, answer, tokens, logprobs, stop, report })
    }

    /// What has to be forgotten for `question` to fit, and the tokens of all that is left.
    fn plan(&self, model: &Model, question: &Message, n_ctx: usize) -> Result<Plan> {
        let budget = self.options.image_budget.or(model.image_budget());
        let sizes = question.parts.iter().filter_map(Part::image).map(|image| (image.width(), image.height()));
        // Without a budget there is no projector, which `runs` refuses.
        let n_tokens = sizes.map(|(width, height)| budget.map_or(Ok(0), |budget| budget.tokens_for(width, height)));
        let n_of_question: usize = n_tokens.sum::<Result<_>>()?;
        let mut n_dropped = 0;
        loop {
            let kept = &self.messages[n_dropped..];
            let system = self.options.system.as_deref();
            let system = system.map(|text| Outline { role: Role::System, pieces: vec![Piece::Text(text)] });
            let messages = kept.iter().map(ChatMessage::outline).chain([question.outline()]);
            let outlines: Vec<_> = system.into_iter().chain(messages).collect();
            let runs = runs(model, &outlines)?;
            let pictures = kept.iter().flat_map(ChatMessage::pictures);
            let n_of_pictures: usize = pictures.map(|picture| picture.n_tokens).sum::<usize>() + n_of_question;
            let n_tokens = runs.iter().map(Vec::len).sum::<usize>() + n_of_pictures;
            match self.options.check_room(n_tokens, n_ctx) {
                Ok(()) => return Ok(Plan { n_dropped, runs }),
                Err(_) if self.options.overflow == OverflowPolicy::DropOldestTurns && !kept.is_empty() => {
                    n_dropped += oldest_turn(kept);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The question with its pictures as the model sees them.
    pub(super) fn look(&self, model: &Model, question: Message, cancel: &CancelToken) -> Result<ChatMessage> {
        let mut parts = Vec::with_capacity(question.parts.len());
        for part in question.parts {
            parts.push(match (part, self.options.image_budget.or(model.image_budget())) {
                (Part::Text(text), _) => ChatPart::Text(text),
                (Part::Image(image), Some(budget)) => {
                    cancel.check()?;
                    ChatPart::Picture(self.image_cache.embed(model, &image, &budget)?)
                }
                (Part::Image(_), None) => {
                    return Err(
                        Error::new(ErrorKind::Unsupported, "model sees no pictures").needed("an image projector")
                    );
                }
            });
        }
        Ok(ChatMessage { role: question.role, parts })
    }

    /// Places at the beginning of `prompt` that the sequence holds as they would be computed now. One at least is left, for
    /// the logits.
    fn n_reused(&self, session: &Session, prompt: &EncodedPrompt) -> Result<usize> {
        let n_last = match prompt.segments.last() {
            Some(Segment::Image(image)) => image.n_tokens,
            _ => 1,
        };
        let n_common = self.held.common_beginning(prompt).min(prompt.n_tokens().saturating_sub(n_last));
        match session.invocation() {
            // The base computes what comes before the last invocation, earlier answers included.
            Some(invocation) => {
                Ok(n_common.min(prompt.activation(invocation)?).min(session.activated_from(self.seat.seq())))
            }
            None => Ok(n_common),
        }
    }
}

/// An answer under way.
struct Answer<'a> {
    seq: usize,
    rng_key: RngKey,
    max_new_tokens: usize,
    sampler: Sampler,
    on_event: &'a mut dyn FnMut(ThinkEvent) -> ControlFlow<()>,
}

/// A complete one.
struct Answered {
    speech: Speech,
    /// What the template wrote of the answer.
    opening: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
    stop: StopReason,
    prefill_ms: f64,
    first_token: Instant,
}

impl Answer<'_> {
    /// Computes `rest`, the end of `prompt`, and answers.
    fn run(
        mut self,
        session: &mut Session,
        prompt: &EncodedPrompt,
        rest: &EncodedPrompt,
        cancel: &CancelToken,
    ) -> Result<Answered> {
        cancel.check()?;
        let start = Instant::now();
        session.prefill(self.seq, rest)?;
        let prefill_ms = milliseconds(start);
        let opening = thinking_opened(session.model(), prompt);
        let mut speech = Speech::new(!opening.is_empty());
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        let mut first_token = None;
        let stop = loop {
            let mut rng = self.rng_key.rng(0 /* sample */, tokens.len());
            let sampled = self.sampler.sample(session.logits(self.seq)?, &tokens, &mut rng)?;
            first_token.get_or_insert_with(Instant::now);
            tokens.push(sampled.token);
            logprobs.push(sampled.logprob);
            let stop = stop_reason(session, sampled.token, prompt.n_tokens(), tokens.len(), self.max_new_tokens);
            let bytes = session.model().token_bytes(sampled.token);
            let heard = speech.push(&bytes, stop.is_some(), self.on_event);
            if let Some(stop) = stop {
                break stop;
            }
            if heard.is_break() {
                break StopReason::Caller;
            }
            cancel.check()?;
            session.decode(&[(self.seq, sampled.token)])?;
        };
        let first_token = first_token.unwrap_or(start);
        Ok(Answered { speech, opening, tokens, logprobs, stop, prefill_ms, first_token })
    }
}

/// Where a template opens answers with thinking (`<think>`), that opening as the answer's own beginning; otherwise nothing.
fn thinking_opened(model: &Model, prompt: &EncodedPrompt) -> String {
    let Some(Segment::Tokens(tokens)) = prompt.segments.last() else { return String::new() };
    // More than the longest tag has, if every byte is a token.
    let end = model.detokenize(&tokens[tokens.len().saturating_sub(16)..]);
    let tags = ["<think>", "<thinking>"].into_iter();
    let opening = tags.filter(|tag| end.trim_end().ends_with(tag)).find_map(|tag| end.rfind(tag));
    opening.map_or_else(String::new, |at| end[at..].to_owned())
}

/// Tokens as thinking and answer.
struct Speech {
    decoder: TextDecoder,
    splitter: ThinkSplitter,
    thinking: String,
    answer: String,
}

impl Speech {
    fn new(is_thinking: bool) -> Self {
        let splitter = if is_thinking { ThinkSplitter::inside_thinking() } else { ThinkSplitter::new() };
        Self { decoder: TextDecoder::default(), splitter, thinking: String::new(), answer: String::new() }
    }

    /// Hands what is certain with `bytes` to `on_event`; all there is when they are the last.
    fn push(
        &mut self,
        bytes: &[u8],
        is_last: bool,
        on_event: &mut dyn FnMut(ThinkEvent) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut text = self.decoder.push(bytes);
        if is_last {
            text += &self.decoder.finish();
        }
        let mut events = self.splitter.push(&text);
        if is_last {
            events.extend(self.splitter.finish());
        }
        let mut flow = ControlFlow::Continue(());
        for event in events {
            match &event {
                ThinkEvent::Thinking(text) => self.thinking += text,
                ThinkEvent::Answer(text) => self.answer += text,
            }
            if flow.is_continue() {
                flow = on_event(event);
            }
        }
        flow
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
