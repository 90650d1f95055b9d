//! How answers are written, and what is told while they are.

use std::{
    ffi::{c_char, c_void},
    ops::ControlFlow,
};

use owlet_runtime::{AnswerOptions, CancelToken, Constraint, Error, ErrorKind, Result, SamplerOptions, ThinkEvent};

use crate::input::{self, or, versioned};

/// What `thinking_budget` is for no thinking at all.
pub const OWLET_NO_THINKING: i64 = -1;

/// How answers are written. 0 and NULL stand for the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_answer_options {
    /// sizeof(owlet_answer_options), set by the caller.
    pub struct_size: usize,
    /// Most tokens of an answer, thinking included; default 1024.
    pub max_new_tokens: usize,
    /// Most tokens of thinking, after which it is closed by force and the answer follows; OWLET_NO_THINKING for none.
    /// Default no limit.
    pub thinking_budget: i64,
    /// A JSON Schema: the answer is JSON that is valid under it. Not together with `grammar`. Default NULL.
    pub json_schema: *const c_char,
    /// A context-free grammar in the Lark dialect of llguidance: the answer is a text of it. Default NULL.
    pub grammar: *const c_char,
    /// Texts that end an answer: it stops where the first of them that is complete begins. At most 64. Default NULL.
    pub stop: *const *const c_char,
    /// Number of stop texts.
    pub n_stop: usize,
    /// Tokens never picked. Default NULL.
    pub banned: *const i32,
    /// Number of banned tokens.
    pub n_banned: usize,
    /// Only as many of the most probable tokens; default 0: all.
    pub top_k: usize,
    /// Tokens of the answer that the three penalties look at; default 64.
    pub repeat_window: usize,
    /// Not 0: always the most probable token; `temperature` must be 0 then.
    pub greedy: u32,
    /// Divides the logits, at most 100; default 1. For 0, set `greedy`.
    pub temperature: f32,
    /// Only the most probable tokens that together have this probability; default 1: all.
    pub top_p: f32,
    /// Only tokens at least this probable relative to the most probable one; default 0: all.
    pub min_p: f32,
    /// Only tokens whose surprise is nearest to the entropy, of together this probability; default 1: all.
    pub typical_p: f32,
    /// Divides positive, multiplies negative logits of tokens that occurred; default 1: off.
    pub repeat_penalty: f32,
    /// Taken once from the logits of tokens that occurred; default 0: off.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens as often as they occurred; default 0: off.
    pub frequency_penalty: f32,
}

versioned!(owlet_answer_options);

/// What a piece of a streamed answer is.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_event_kind {
    /// What the model thinks.
    Thinking = 0,
    /// What it answers.
    Answer = 1,
}

/// A piece of an answer, while it is written.
#[repr(C)]
pub struct owlet_event {
    /// sizeof(owlet_event) of the library: later versions may have more fields behind these.
    pub struct_size: usize,
    /// The text, whole characters of UTF-8, `n_bytes` of them; it is not NUL-terminated, may hold NULs, and lives until the
    /// callback returns.
    pub text: *const c_char,
    /// Bytes of `text`.
    pub n_bytes: usize,
    /// Which of the answers it is of, from 0, where several are written at a time.
    pub answer: usize,
    /// An owlet_event_kind.
    pub kind: u32,
}

/// What a callback returns.
#[repr(i32)]
#[derive(Clone, Copy)]
pub enum owlet_flow {
    /// Go on.
    Continue = 0,
    /// Enough: an answer ends here, and is kept. Of callbacks that tell of progress it cancels the work.
    Stop = 1,
}

/// Told every piece of an answer, on the thread of the call, before it returns.
///
/// Returns an owlet_flow. Any other number says that the callback failed: the call then ends with OWLET_STATUS_CALLBACK and
/// leaves its object as it was before.
pub type owlet_event_callback = Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const owlet_event) -> i32>;

/// The options of `options`, or the defaults for NULL.
///
/// # Safety
/// `options` is as the header says.
pub(crate) unsafe fn read(options: *const owlet_answer_options) -> Result<AnswerOptions> {
    // SAFETY: by the contract above.
    let given = unsafe { input::options(options) }?;
    let default = AnswerOptions::default();
    // SAFETY: by the contract above.
    let (stop, banned) = unsafe {
        (input::array(given.stop, given.n_stop, "stop")?, input::array(given.banned, given.n_banned, "banned")?)
    };
    // SAFETY: by the contract above.
    let stop = stop.iter().map(|&text| unsafe { input::text(text, "stop") }.map(str::to_owned));
    Ok(AnswerOptions {
        sampler: sampler(&given, banned)?,
        max_new_tokens: or(given.max_new_tokens, default.max_new_tokens),
        thinking_budget: thinking_budget(given.thinking_budget)?,
        // SAFETY: by the contract above.
        constraint: unsafe { constraint(&given) }?,
        stop: stop.collect::<Result<_>>()?,
        ..default
    })
}

fn sampler(given: &owlet_answer_options, banned: &[i32]) -> Result<SamplerOptions> {
    let default = SamplerOptions::default();
    if given.greedy != 0 && given.temperature != 0.0 {
        let error = Error::new(ErrorKind::InvalidInput, "`greedy` has no temperature").at("temperature");
        return Err(error.got(given.temperature).needed("0"));
    }
    let temperature = if given.greedy != 0 { 0.0 } else { or(given.temperature, default.temperature) };
    Ok(SamplerOptions {
        temperature,
        repeat_penalty: or(given.repeat_penalty, default.repeat_penalty),
        repeat_window: or(given.repeat_window, default.repeat_window),
        presence_penalty: given.presence_penalty,
        frequency_penalty: given.frequency_penalty,
        top_k: given.top_k,
        typical_p: or(given.typical_p, default.typical_p),
        top_p: or(given.top_p, default.top_p),
        min_p: given.min_p,
        banned: banned.to_vec(),
        ..default
    })
}

fn thinking_budget(budget: i64) -> Result<Option<usize>> {
    match budget {
        0 => Ok(None),
        OWLET_NO_THINKING => Ok(Some(0)),
        _ => usize::try_from(budget).map(Some).map_err(|_| {
            let error = Error::new(ErrorKind::InvalidInput, "bad number of tokens").at("thinking_budget").got(budget);
            error.needed("OWLET_NO_THINKING, or at least 0")
        }),
    }
}

unsafe fn constraint(given: &owlet_answer_options) -> Result<Option<Constraint>> {
    // SAFETY: by the contract of `read`.
    let (schema, grammar) = unsafe {
        (input::optional_text(given.json_schema, "json_schema")?, input::optional_text(given.grammar, "grammar")?)
    };
    match (schema, grammar) {
        (None, None) => Ok(None),
        (None, Some(grammar)) => Ok(Some(Constraint::Lark(grammar.to_owned()))),
        (Some(schema), None) => {
            let schema = serde_json::from_str(schema).map_err(|error| {
                let failed = Error::new(ErrorKind::InvalidInput, "not a JSON Schema").at("json_schema");
                failed.got(error.to_string()).source(error)
            })?;
            Ok(Some(Constraint::JsonSchema(schema)))
        }
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::InvalidInput, "`json_schema` and `grammar` at once").needed("one of them"))
        }
    }
}

/// Who is told of an answer, and what came of it.
pub(crate) struct Listener {
    callback: owlet_event_callback,
    user_data: *mut c_void,
    /// Cancelled when the callback fails.
    cancel: CancelToken,
    failed: Option<i32>,
}

impl Listener {
    /// `cancel` is the token of the call; the work takes that of [`Listener::cancel`].
    pub(crate) fn new(callback: owlet_event_callback, user_data: *mut c_void, cancel: &CancelToken) -> Self {
        Self { callback, user_data, cancel: cancel.or_after(std::time::Duration::MAX), failed: None }
    }

    /// Cancelled with the call's token, and when the callback failed.
    pub(crate) fn cancel(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Tells `event` of answer number `answer`.
    pub(crate) fn tell(&mut self, answer: usize, event: &ThinkEvent) -> ControlFlow<()> {
        let Some(callback) = self.callback else { return ControlFlow::Continue(()) };
        let (kind, text) = match event {
            ThinkEvent::Thinking(text) => (owlet_event_kind::Thinking, text),
            ThinkEvent::Answer(text) => (owlet_event_kind::Answer, text),
        };
        let event = owlet_event {
            struct_size: size_of::<owlet_event>(),
            text: text.as_ptr().cast(),
            n_bytes: text.len(),
            answer,
            kind: kind as u32,
        };
        // SAFETY: the caller gave a function of this type and its data; `event` lives during the call.
        let flow = unsafe { callback(self.user_data, &raw const event) };
        self.heed(flow)
    }

    fn heed(&mut self, flow: i32) -> ControlFlow<()> {
        if flow == owlet_flow::Continue as i32 {
            return ControlFlow::Continue(());
        }
        if flow != owlet_flow::Stop as i32 {
            self.failed.get_or_insert(flow);
            self.cancel.cancel();
        }
        ControlFlow::Break(())
    }

    /// `result` of the work, or that the callback failed.
    pub(crate) fn finish<T>(self, result: Result<T>) -> Result<T> {
        self.failed.map_or(result, |number| Err(callback_failed(number)))
    }
}

/// A callback of the app returned `number`.
pub(crate) fn callback_failed(number: i32) -> Error {
    Error::new(ErrorKind::Callback, "a callback failed").got(format!("{number}")).needed("an owlet_flow")
}
