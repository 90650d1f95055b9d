//! What an answer came to.

use std::ffi::{CString, c_char};

use owlet_runtime::{Generated, StopReason, ToolCall, conversation::Turn};

use crate::{
    boundary,
    device::beyond,
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, versioned},
    text::c_string,
};

/// Why an answer ended.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_stop_reason {
    /// The model ended it.
    EndOfAnswer = 0,
    /// It came to one of the stop texts.
    StopText = 1,
    /// It reached the number of tokens asked for.
    MaxTokens = 2,
    /// The context is full.
    ContextFull = 3,
    /// The constraint leaves no token that the model may say.
    DeadEnd = 4,
    /// A callback ended it.
    Caller = 5,
}

/// A question answered. Never changes; may be read by several threads.
pub struct owlet_turn {
    _opaque: (),
}

/// A turn with its strings.
pub(crate) struct Answered {
    turn: Turn,
    answer: CString,
    thinking: CString,
    calls: Vec<(CString, CString)>,
    n_malformed: usize,
}

impl Handle for owlet_turn {
    type Target = Answered;
    const NAME: &'static str = "owlet_turn";
}

impl Answered {
    pub(crate) fn new(turn: Turn) -> Self {
        let call = |call: &ToolCall| (c_string(&call.name), c_string(&call.arguments.to_string()));
        Self {
            answer: c_string(&turn.answer.text),
            thinking: c_string(&turn.answer.thinking),
            calls: turn.calls.calls.iter().map(call).collect(),
            n_malformed: turn.calls.malformed.len(),
            turn,
        }
    }
}

/// The numbers of a turn. Times are wall-clock milliseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_turn_report {
    /// sizeof(owlet_turn_report), set by the caller.
    pub struct_size: usize,
    /// Tokens of the answer, thinking and the end token included.
    pub n_tokens: usize,
    /// Places of the prompt: instructions, history, question.
    pub n_prompt_tokens: usize,
    /// Of them, those that were computed; the session held the others.
    pub n_computed_tokens: usize,
    /// Messages that were forgotten to make room.
    pub n_dropped_messages: usize,
    /// Getting the question's pictures.
    pub picture_ms: f64,
    /// Computing the prompt.
    pub prefill_ms: f64,
    /// From the call to the first token.
    pub first_token_ms: f64,
    /// Computing the tokens of the answer.
    pub decode_ms: f64,
    /// The most physical memory that this process held so far, in bytes; 0 where the system does not tell.
    pub peak_memory_bytes: u64,
    /// Calls of tools in the answer that cannot be read.
    pub n_malformed_calls: usize,
    /// Which of the stop texts ended the answer, from 0, where `stop_reason` is OWLET_STOP_REASON_STOP_TEXT.
    pub stop_text: usize,
    /// An owlet_stop_reason.
    pub stop_reason: u32,
    /// 1 if the answer is what json_schema or grammar ask for; 0 if it was cut off before, or if there was neither.
    pub meets_constraint: u32,
}

versioned!(owlet_turn_report);

/// What the model answered, without thinking and tags, UTF-8 and NUL-terminated (NULs that it wrote became U+FFFD). The
/// string belongs to the turn and lives as long; "" for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_turn_answer(turn: *const owlet_turn) -> *const c_char {
    // SAFETY: the caller's contract.
    boundary::get(c"".as_ptr(), || unsafe { handle::peek(turn) }.map_or(c"".as_ptr(), |turn| turn.answer.as_ptr()))
}

/// What the model thought before; as owlet_turn_answer().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_turn_thinking(turn: *const owlet_turn) -> *const c_char {
    // SAFETY: the caller's contract.
    boundary::get(c"".as_ptr(), || unsafe { handle::peek(turn) }.map_or(c"".as_ptr(), |turn| turn.thinking.as_ptr()))
}

/// Tells the numbers of a turn in `*out`, whose `struct_size` the caller sets.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_turn_get_report(
    turn: *const owlet_turn,
    out: *mut owlet_turn_report,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let answered = handle::borrow(turn)?;
        let (report, answer) = (&answered.turn.report, &answered.turn.answer);
        let (stop_reason, stop_text) = stop(answer);
        let report = owlet_turn_report {
            n_tokens: answer.tokens.len(),
            n_prompt_tokens: report.n_prompt_tokens,
            n_computed_tokens: report.n_computed_tokens,
            n_dropped_messages: report.n_dropped_messages,
            picture_ms: report.picture_ms,
            prefill_ms: report.prefill_ms,
            first_token_ms: report.first_token_ms,
            decode_ms: report.decode_ms,
            peak_memory_bytes: report.peak_memory_bytes.unwrap_or(0),
            n_malformed_calls: answered.n_malformed,
            stop_text,
            stop_reason,
            meets_constraint: u32::from(answer.meets_constraint == Some(true)),
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, report) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// How many calls of tools the answer has; 0 for NULL. Their results are asked as messages of OWLET_ROLE_TOOL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_turn_count_calls(turn: *const owlet_turn) -> usize {
    boundary::get(0, || handle::borrow(turn).map_or(0, |turn| turn.calls.len()))
}

/// Gives call `index`, from 0: the tool's name, and its arguments as a JSON object, which was not checked against the tool's
/// schema. Strings belong to the turn and live as long. OWLET_STATUS_INVALID_INPUT beyond the last one.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_turn_get_call(
    turn: *const owlet_turn,
    index: usize,
    name: *mut *const c_char,
    arguments: *mut *const c_char,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let turn = handle::borrow(turn)?;
        let call = turn.calls.get(index).ok_or_else(|| beyond(index, turn.calls.len()))?;
        for (out, text) in [(name, &call.0), (arguments, &call.1)] {
            if !out.is_null() {
                // SAFETY: the caller's contract.
                unsafe { out.write(text.as_ptr()) };
            }
        }
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees a turn and its strings. NULL is ignored. The session keeps what was said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_turn_free(turn: *mut owlet_turn) {
    boundary::free(turn);
}

/// An owlet_stop_reason, and which stop text it was.
pub(crate) fn stop(answer: &Generated) -> (u32, usize) {
    let (reason, text) = match answer.stop {
        StopReason::EndOfAnswer => (owlet_stop_reason::EndOfAnswer, 0),
        StopReason::StopString(text) => (owlet_stop_reason::StopText, text),
        StopReason::MaxTokens => (owlet_stop_reason::MaxTokens, 0),
        StopReason::ContextFull => (owlet_stop_reason::ContextFull, 0),
        StopReason::DeadEnd => (owlet_stop_reason::DeadEnd, 0),
        StopReason::Caller => (owlet_stop_reason::Caller, 0),
    };
    (reason as u32, text)
}
