//! Conversations.

use std::{ops::ControlFlow, sync::Arc};

use owlet_host::{self as host, Listener};
use owlet_runtime::{self as runtime, ThinkEvent, conversation};

use crate::{
    adapter::{ActiveAdapter, in_use},
    answer::{AnswerOptions, Generated, StopReason, TopToken},
    error::{CancelToken, Result, callback, token},
    message::{ChatMessage, MalformedCall, Message, ToolCall, ToolCalls, tools},
    model::Model,
};

/// A conversation with a thread of its own, on which all answers are computed.
///
/// Calls wait for each other, in the order in which they came. A turn that fails or is cancelled leaves the conversation as it
/// was before.
#[derive(Debug, uniffi::Object)]
pub struct Session(host::Session);

/// How a session is set up. Nothing given means the default.
#[derive(Clone, Debug, Default, uniffi::Record)]
pub struct SessionOptions {
    /// Tokens that the conversation can hold; default 2048. Memory grows with it.
    #[uniffi(default)]
    pub n_ctx: Option<u32>,
    /// Conversations that share the memory of this one, forks included; default 1. Memory grows with it.
    #[uniffi(default)]
    pub n_conversations: Option<u32>,
    /// Threads; default: one per core. The same number gives the same bits.
    #[uniffi(default)]
    pub n_threads: Option<u32>,
    /// Most tokens computed at once in a prompt; default 512. Memory grows with it.
    #[uniffi(default)]
    pub n_batch: Option<u32>,
    /// Precision of keys and values; default F16.
    #[uniffi(default)]
    pub kv_type: Option<KvType>,
    /// Most anonymous memory in bytes that model and session may take; default: as much as it takes. Batch, precision, pictures
    /// and context are reduced to meet it.
    #[uniffi(default)]
    pub memory_budget_bytes: Option<u64>,
    /// Guess tokens ahead where the answer repeats what was said, without changing it; default no.
    #[uniffi(default)]
    pub guess_ahead: bool,
    /// How the conversation goes.
    #[uniffi(default)]
    pub conversation: ConversationOptions,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum KvType {
    /// Full precision, for comparisons.
    F32,
    /// Half the memory; the default.
    F16,
    /// A quarter of the memory.
    Q8,
}

/// How a conversation goes. Nothing given means the default.
#[derive(Clone, Debug, Default, PartialEq, uniffi::Record)]
pub struct ConversationOptions {
    /// Instructions before the first question.
    #[uniffi(default)]
    pub system: Option<String>,
    /// What the model may call: a JSON list of `{"name", "description", "parameters"}`; default none.
    #[uniffi(default)]
    pub tools_json: Option<String>,
    /// Whether the model shall think before it answers; default: as its chat template has it. Templates that have no switch
    /// refuse one.
    #[uniffi(default)]
    pub thinking: Option<bool>,
    /// How answers are written.
    #[uniffi(default)]
    pub answer: AnswerOptions,
    /// Tokens kept free for an answer; default 256. A question that leaves fewer is an overflow.
    #[uniffi(default)]
    pub answer_room: Option<u32>,
    /// What becomes of a question that does not fit; default: it is refused.
    #[uniffi(default)]
    pub overflow: Option<Overflow>,
    /// Seed of the random numbers; default 0. The same questions and seed give the same answers.
    #[uniffi(default)]
    pub seed: u64,
    /// Most tokens of a picture; default: as the model has it. Fewer are faster and see less.
    #[uniffi(default)]
    pub max_image_tokens: Option<u32>,
}

/// What becomes of a question that no longer fits the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Overflow {
    /// It is refused with `ContextOverflow`. The default.
    Refuse,
    /// The oldest turns are forgotten until it fits.
    DropOldestTurns,
}

/// A piece of an answer that is being written.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Event {
    /// From the model's thinking.
    Thinking {
        /// Without tags.
        text: String,
    },
    /// From its answer.
    Answer {
        /// Without tags.
        text: String,
    },
}

/// Hears an answer while it is written.
#[uniffi::export(with_foreign)]
pub trait EventSink: Send + Sync {
    /// The next piece, on the session's thread. `false` ends the answer there, as a turn like any other; what is thrown fails the
    /// call, and the turn with it.
    fn on_event(&self, event: Event) -> Result<bool>;
}

/// A question answered.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Turn {
    /// What the model said to the person: its text up to the first call, without tags.
    pub answer: String,
    /// What it thought.
    pub thinking: String,
    /// Tools that it calls. Their results are asked as messages of the role `Tool`.
    pub calls: Vec<ToolCall>,
    /// Calls that cannot be read.
    pub malformed_calls: Vec<MalformedCall>,
    /// Why it ended.
    pub stop: StopReason,
    /// Whether it is what the constraint asks for; nothing without one.
    pub meets_constraint: Option<bool>,
    /// Its tokens, thinking and end included.
    pub tokens: Vec<u32>,
    /// The natural log-probability of each token.
    pub logprobs: Vec<f32>,
    /// Per token, the most probable ones in its place, if asked for.
    pub top_logprobs: Vec<Vec<TopToken>>,
    /// What it cost.
    pub report: TurnReport,
}

/// What a turn cost. Times are wall-clock milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct TurnReport {
    /// Places of the prompt: instructions, history, question.
    pub n_prompt_tokens: u32,
    /// Of them, those that were computed; the session held the others.
    pub n_computed_tokens: u32,
    /// Messages that were forgotten to make room.
    pub n_dropped_messages: u32,
    /// Tokens of the answer.
    pub n_answer_tokens: u32,
    /// Encoding the question's pictures.
    pub picture_ms: f64,
    /// Computing the prompt.
    pub prefill_ms: f64,
    /// From the call to the first token.
    pub first_token_ms: f64,
    /// Computing the tokens of the answer.
    pub decode_ms: f64,
    /// Tokens of the answer a second.
    pub decode_rate: f64,
    /// The most memory that the process had so far, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

#[uniffi::export]
impl Session {
    /// Begins a conversation with `model`.
    ///
    /// Throws `InvalidInput` for options out of range, `Limit` when it does not fit the memory budget, `Backend`.
    #[uniffi::constructor(default(options), default(adapters), default(cancel = None))]
    pub async fn open(
        model: Arc<Model>,
        options: SessionOptions,
        adapters: Vec<ActiveAdapter>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Arc<Self>> {
        let Built { session, speculation } = options.build()?;
        let conversation = options.conversation.build(&model.0)?;
        let opened =
            host::Session::open(&model.0, session, speculation, conversation, in_use(adapters), &token(cancel));
        Ok(Arc::new(Self(opened.await?)))
    }

    /// Goes on with a conversation that was saved, under the same model and adapters; its `conversation` options come from the file.
    ///
    /// Throws `NotFound`, `Io`, `InvalidFile`; `Mismatch` for another model or other adapters; as `open`.
    #[uniffi::constructor(default(options), default(adapters), default(cancel = None))]
    pub async fn restore(
        model: Arc<Model>,
        path: String,
        options: SessionOptions,
        adapters: Vec<ActiveAdapter>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Arc<Self>> {
        let Built { session, speculation } = options.build()?;
        let restored =
            host::Session::restore(&model.0, path.into(), session, speculation, in_use(adapters), &token(cancel));
        Ok(Arc::new(Self(restored.await?)))
    }

    /// Asks a question, or tells what a tool found, and tells `sink` of the answer as it is written.
    ///
    /// Throws `ContextOverflow` for what does not fit; `InvalidInput`; `Unsupported` for pictures without a projector;
    /// `Cancelled`; `Callback` when the sink throws.
    #[uniffi::method(default(sink = None, cancel = None))]
    pub async fn ask(
        &self,
        message: Message,
        sink: Option<Arc<dyn EventSink>>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Turn> {
        Ok(self.0.ask(message.build()?, &token(cancel), listener(sink)).await?.into())
    }

    /// Adds to what was said without asking anything: a history that the app kept elsewhere, or an example.
    #[uniffi::method(default(cancel))]
    pub async fn push(&self, message: Message, cancel: Option<Arc<CancelToken>>) -> Result<()> {
        Ok(self.0.push(message.build()?, &token(cancel)).await?)
    }

    /// Puts `adapters` in place of those before, between two answers; none for the model alone.
    ///
    /// Throws `Mismatch` for adapters of another model.
    pub async fn set_adapters(&self, adapters: Vec<ActiveAdapter>) -> Result<()> {
        Ok(self.0.set_adapters(in_use(adapters), &runtime::CancelToken::new()).await?)
    }

    /// Goes on by other options from the next question on.
    pub async fn set_options(&self, options: ConversationOptions) -> Result<()> {
        let options = options.build(self.0.model())?;
        Ok(self.0.set_options(options, &runtime::CancelToken::new()).await?)
    }

    /// Writes the whole conversation to a file, in place of an older one. Pictures are in it as the model sees them.
    pub async fn save(&self, path: String) -> Result<()> {
        Ok(self.0.save(path.into(), &runtime::CancelToken::new()).await?)
    }

    /// A second conversation that goes on from here, without computing anything again. Both take turns.
    ///
    /// Throws `Limit` when there are `SessionOptions.n_conversations` already.
    pub async fn fork(&self) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(self.0.fork(&runtime::CancelToken::new()).await?)))
    }

    /// What was said up to the last call that is done, the instructions apart.
    pub fn messages(&self) -> Vec<ChatMessage> {
        self.0.messages().iter().map(Into::into).collect()
    }

    /// Places of the context that are computed, after the last call that is done.
    pub fn n_tokens(&self) -> u32 {
        self.0.n_tokens() as u32
    }
}

/// A listener that hands on to `sink`.
fn listener(sink: Option<Arc<dyn EventSink>>) -> Listener {
    let Some(sink) = sink else { return Box::new(|_| Ok(ControlFlow::Continue(()))) };
    Box::new(move |event| {
        let goes_on = sink.on_event(event.into()).map_err(|error| callback("EventSink", error))?;
        Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })
}

/// What a session of the runtime is made of.
pub(crate) struct Built {
    pub(crate) session: runtime::SessionOptions,
    pub(crate) speculation: Option<runtime::Speculation>,
}

impl SessionOptions {
    pub(crate) fn build(&self) -> Result<Built> {
        let default = runtime::SessionOptions::default();
        let n = |count: Option<u32>, default: usize| count.map_or(default, |count| count as usize);
        let session = runtime::SessionOptions {
            n_ctx: n(self.n_ctx, default.n_ctx),
            n_seq: n(self.n_conversations, default.n_seq),
            n_ubatch: n(self.n_batch, default.n_ubatch),
            kv_type: self.kv_type.map_or(default.kv_type, Into::into),
            n_threads: n(self.n_threads, default.n_threads),
            memory_budget: self.memory_budget_bytes.map(bytes),
            ..default
        };
        Ok(Built { session, speculation: self.guess_ahead.then(runtime::Speculation::n_grams) })
    }
}

/// A number of bytes; more than there can be is as good as no limit.
pub(crate) fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl ConversationOptions {
    fn build(self, model: &runtime::Model) -> Result<conversation::ConversationOptions> {
        let default = conversation::ConversationOptions::default();
        let image_budget = match self.max_image_tokens {
            Some(max) => {
                let options = runtime::ImageOptions { max_tokens: Some(max as usize), ..Default::default() };
                Some(model.plan_images(&[], &options)?.budget)
            }
            None => None,
        };
        Ok(conversation::ConversationOptions {
            system: self.system,
            tools: tools(self.tools_json.as_deref())?,
            thinking: self.thinking,
            answer: self.answer.build()?,
            answer_room: self.answer_room.map_or(default.answer_room, |room| room as usize),
            overflow: self.overflow.map_or(default.overflow, Into::into),
            seed: self.seed,
            image_budget,
        })
    }
}

impl From<KvType> for runtime::KvType {
    fn from(kv_type: KvType) -> Self {
        match kv_type {
            KvType::F32 => Self::F32,
            KvType::F16 => Self::F16,
            KvType::Q8 => Self::Q8_0,
        }
    }
}

impl From<runtime::KvType> for KvType {
    fn from(kv_type: runtime::KvType) -> Self {
        match kv_type {
            runtime::KvType::F32 => Self::F32,
            runtime::KvType::F16 => Self::F16,
            runtime::KvType::Q8_0 => Self::Q8,
        }
    }
}

crate::mirror_enum!(Overflow => conversation::OverflowPolicy { Refuse, DropOldestTurns });

impl From<ThinkEvent> for Event {
    fn from(event: ThinkEvent) -> Self {
        match event {
            ThinkEvent::Thinking(text) => Self::Thinking { text },
            ThinkEvent::Answer(text) => Self::Answer { text },
        }
    }
}

impl From<conversation::Turn> for Turn {
    fn from(turn: conversation::Turn) -> Self {
        let conversation::Turn { answer, calls, report } = turn;
        let ToolCalls { text, calls, malformed } = calls.into();
        let Generated { thinking, stop, tokens, logprobs, top_logprobs, meets_constraint, .. } = answer.into();
        let report = TurnReport {
            n_prompt_tokens: report.n_prompt_tokens as u32,
            n_computed_tokens: report.n_computed_tokens as u32,
            n_dropped_messages: report.n_dropped_messages as u32,
            n_answer_tokens: tokens.len() as u32,
            picture_ms: report.picture_ms,
            prefill_ms: report.prefill_ms,
            first_token_ms: report.first_token_ms,
            decode_ms: report.decode_ms,
            decode_rate: report.decode_rate(),
            peak_memory_bytes: report.peak_memory_bytes,
        };
        Self {
            answer: text,
            thinking,
            calls,
            malformed_calls: malformed,
            stop,
            meets_constraint,
            tokens,
            logprobs,
            top_logprobs,
            report,
        }
    }
}
