//! A turn: a question is asked and answered.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use super::{ChatMessage, ChatPart, Conversation, OverflowPolicy, overflow::oldest_turn};
use crate::{
    Error, ErrorKind, Result,
    answer::{Draft, Generated, StopReason, Writer, Written},
    cancel::CancelToken,
    generate::RngKey,
    model::{Model, TokenId},
    prompt::{Chat, EncodedPrompt, Message, Outline, Part, Piece, Role, Segment, interleave, runs},
    session::Session,
    speculate,
    think::ThinkEvent,
    timings::{peak_memory_bytes, rate},
    tools::ToolCalls,
};

/// A question answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The answer.
    pub answer: Generated,
    /// The calls in it, if [`super::ConversationOptions::tools`] are given. Their results are asked as messages of
    /// [`Role::Tool`].
    pub calls: ToolCalls,
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
    /// Tokens that were guessed ahead ([`crate::Session::set_speculation`]).
    pub n_guessed: u64,
    /// Of them, those that were right and spared a call.
    pub n_accepted: u64,
    /// Computing the tokens of the answer.
    pub decode_ms: f64,
    /// Tokens of the answer that were computed: all but the last.
    pub n_decoded: usize,
    /// Loading the model, once for all turns.
    pub load_ms: f64,
    /// [`peak_memory_bytes`] at the end of the turn.
    pub peak_memory_bytes: Option<u64>,
}

impl TurnReport {
    /// Tokens of the answer per second; 0 before any.
    pub fn decode_rate(&self) -> f64 {
        rate(self.n_decoded as u64, self.decode_ms)
    }
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
    /// refuses the messages; `Cancelled` when `cancel` is set: looked at inside of
    /// pictures, and inside of prompts and tokens on CPU, between them elsewhere; `Backend`. The conversation is then as before.
    pub fn ask(
        &mut self,
        question: Message,
        cancel: &CancelToken,
        on_event: &mut dyn FnMut(ThinkEvent) -> ControlFlow<()>,
    ) -> Result<Turn> {
        let start = Instant::now();
        if !matches!(question.role, Role::User | Role::Tool) {
            let error = Error::new(ErrorKind::InvalidInput, "not a question").got(question.role.name());
            return Err(error.needed("a message of a user or a tool"));
        }
        let mut shared = self.seat.lock_until(&self.adapters, cancel)?;
        let session = &mut shared.session;
        let model = session.model().clone();
        let n_ctx = session.options().n_ctx;
        let mut writer = Writer::new(&model, n_ctx, &self.options.answer)?;
        let plan = self.plan(&model, &question, n_ctx)?;

        let pictures_start = Instant::now();
        let question = self.look(&model, question, cancel)?;
        let picture_ms = milliseconds(pictures_start);
        let kept = self.messages[plan.n_dropped..].iter().chain([&question]).flat_map(ChatMessage::pictures);
        let prompt = interleave(plan.runs, kept.map(|picture| Ok(Arc::clone(picture))))?;
        writer.check_room(prompt.n_tokens())?;

        let seq = self.seat.seq();
        let (beginning, rest) = prompt.split_at(self.n_reused(session, &prompt)?);
        session.cut_back(seq, &beginning);
        // Now, so that it is true as well where `on_event` panics.
        self.held = beginning;
        session.set_cancel(cancel.clone());
        let before = *session.timings();
        let rng_key = RngKey { seed: self.options.seed, step: 0, prompt: self.n_turns };
        let draft = writer.begin(&prompt, rng_key, 0 /* sample */);
        let prefill_start = Instant::now();
        let prefilled = cancel.check().and_then(|()| session.prefill(seq, &rest));
        let prefill_ms = milliseconds(prefill_start);
        let answered = |()| answer(session, seq, &prompt, &mut writer, draft, cancel, on_event);
        let result = prefilled.and_then(answered);
        // A token that is cancelled later must not stop the session's next call.
        session.set_cancel(CancelToken::new());
        let Answered { answer, text, first_token } = match result {
            Ok(answered) => answered,
            Err(error) => {
                session.cut_back(seq, &self.held);
                return Err(error);
            }
        };
        let after = *session.timings();
        drop(shared);

        let report = TurnReport {
            n_prompt_tokens: prompt.n_tokens(),
            n_computed_tokens: rest.n_tokens(),
            n_dropped_messages: plan.n_dropped,
            picture_ms,
            prefill_ms,
            first_token_ms: first_token.duration_since(start).as_secs_f64() * 1e3,
            n_guessed: after.n_guessed - before.n_guessed,
            n_accepted: after.n_accepted - before.n_accepted,
            decode_ms: after.decode_ms - before.decode_ms,
            n_decoded: answer.tokens.len() - 1,
            load_ms: model.load_ms(),
            peak_memory_bytes: peak_memory_bytes(),
        };
        self.messages.drain(..plan.n_dropped);
        let calls = self.calls(&model, &answer.text);
        let reply = reply(text, &answer.text, &calls);
        self.messages.extend([question, reply]);
        self.held = prompt;
        // The last token was picked and not decoded.
        answer.tokens[..answer.tokens.len() - 1].iter().for_each(|&token| self.held.push_token(token));
        // A file may say any number.
        self.n_turns = self.n_turns.wrapping_add(1);
        Ok(Turn { answer, calls, report })
    }

    /// The calls in `answer`.
    fn calls(&self, model: &Model, answer: &str) -> ToolCalls {
        if self.options.tools.is_empty() {
            return ToolCalls { text: answer.to_owned(), ..ToolCalls::default() };
        }
        model.tool_calls(answer)
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
            let system = system.map(|text| Outline { role: Role::System, pieces: vec![Piece::Text(text)], calls: &[] });
            let messages = kept.iter().map(ChatMessage::outline).chain([question.outline()]);
            let messages = system.into_iter().chain(messages).collect();
            let runs = runs(model, &Chat { messages, tools: &self.options.tools, thinking: self.options.thinking })?;
            let pictures = kept.iter().flat_map(ChatMessage::pictures);
            let n_of_pictures: usize = pictures.map(|picture| picture.n_tokens).sum::<usize>() + n_of_question;
            let n_tokens = runs.iter().map(Vec::len).sum::<usize>() + n_of_pictures;
            match self.options.check_room(n_tokens, n_ctx) {
                Ok(()) => return Ok(Plan { n_dropped, runs }),
                Err(error) => {
                    let is_droppable = self.options.overflow == OverflowPolicy::DropOldestTurns;
                    let oldest = oldest_turn(kept, question.role).filter(|_| is_droppable);
                    n_dropped += oldest.ok_or(error)?;
                }
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
                    ChatPart::Picture(self.image_cache.embed(model, &image, &budget, cancel)?)
                }
                (Part::Image(_), None) => {
                    return Err(
                        Error::new(ErrorKind::Unsupported, "model sees no pictures").needed("an image projector")
                    );
                }
            });
        }
        Ok(ChatMessage { role: question.role, parts, calls: question.calls })
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

/// The message of an answer, whose whole text with its thinking is `text`. Templates write calls themselves, so they stand
/// apart, unless one of them cannot be read: what the model wrote is then kept as it is.
fn reply(mut text: String, answer: &str, calls: &ToolCalls) -> ChatMessage {
    // From the first call on.
    let rest = answer.strip_prefix(&calls.text).unwrap_or_default();
    let is_apart = !calls.calls.is_empty() && calls.malformed.is_empty() && text.ends_with(rest);
    if is_apart {
        text.truncate(text.len() - rest.len());
    }
    let calls = if is_apart { calls.calls.clone() } else { Vec::new() };
    ChatMessage { role: Role::Assistant, parts: vec![ChatPart::Text(text)], calls }
}

/// A complete answer.
struct Answered {
    answer: Generated,
    /// With its tags, for the history.
    text: String,
    first_token: Instant,
}

/// Answers `prompt`, which sequence `seq` holds, with logits behind it.
fn answer(
    session: &mut Session,
    seq: usize,
    prompt: &EncodedPrompt,
    writer: &mut Writer,
    mut draft: Draft,
    cancel: &CancelToken,
    on_event: &mut dyn FnMut(ThinkEvent) -> ControlFlow<()>,
) -> Result<Answered> {
    let show = &mut |_: usize, written: Written| {
        let heard = written.said.into_iter().try_for_each(&mut *on_event);
        written.stop.or(heard.is_break().then_some(StopReason::Caller))
    };
    let first = writer.write(&mut draft, session.logits(seq)?)?;
    let first_token = Instant::now();
    let mut stop = show(0 /* position */, first);
    let stop = loop {
        if let Some(stop) = stop {
            break stop;
        }
        cancel.check()?;
        stop = speculate::advance(session, seq, prompt, writer, &mut draft, show)?;
    };
    // Whoever cancels within the last event wants no turn of it.
    cancel.check()?;
    let text = draft.raw_text().to_owned();
    Ok(Answered { answer: draft.finish(stop), text, first_token })
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
