//! Several answers to one prompt, at the same time.

use std::ffi::{CString, c_char, c_void};

use owlet_runtime::{
    Error, ErrorKind, GenerateRequest, Generated, Prompt, RngKey, Session, SessionOptions, TokenEvent, generate,
};

use crate::{
    adapter::{self, owlet_adapter},
    answer::{self, Listener, owlet_answer_options, owlet_event_callback},
    boundary::{self, Out},
    cancel::{self, owlet_cancel_token},
    device::beyond,
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, or, versioned},
    message::{self, owlet_message},
    model::{self, owlet_model},
    text::c_string,
    turn::stop,
};

/// Answers that are written at a time by default.
const N_PARALLEL: usize = 16;

/// How answers are sampled. 0 and NULL stand for the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_generate_options {
    /// sizeof(owlet_generate_options), set by the caller.
    pub struct_size: usize,
    /// How answers are written; default NULL.
    pub answer: *const owlet_answer_options,
    /// What the model may call: a JSON list of tools; default NULL: none.
    pub tools: *const c_char,
    /// Adapters that act; default NULL.
    pub adapters: *const *const owlet_adapter,
    /// Their scales; default NULL: 1 for each.
    pub scales: *const f32,
    /// Number of adapters.
    pub n_adapters: usize,
    /// Answers wanted; default 1, at most 65536.
    pub n_answers: usize,
    /// Answers written at a time; default `n_answers`, at most 16. More is faster and takes more memory.
    pub n_parallel: usize,
    /// Threads, at most 512; default 0: one per core.
    pub n_threads: usize,
    /// Seed of the random numbers; default 0. Answers differ by their number.
    pub seed: u64,
    /// An owlet_thinking.
    pub thinking: u32,
}

versioned!(owlet_generate_options);

/// Sampled answers, in their order. Never changes; may be read by several threads.
pub struct owlet_answers {
    _opaque: (),
}

/// An answer with its strings.
pub(crate) struct Sampled {
    generated: Generated,
    text: CString,
    thinking: CString,
}

impl Handle for owlet_answers {
    type Target = Vec<Sampled>;
    const NAME: &'static str = "owlet_answers";
}

/// A sampled answer. Pointers belong to the answers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_answer {
    /// sizeof(owlet_answer), set by the caller.
    pub struct_size: usize,
    /// What it says, without thinking and tags.
    pub text: *const c_char,
    /// What the model thought before.
    pub thinking: *const c_char,
    /// Its tokens, the end token included.
    pub tokens: *const i32,
    /// Natural log-probability of each token, as it was sampled.
    pub logprobs: *const f32,
    /// Number of tokens.
    pub n_tokens: usize,
    /// Which of the stop texts ended it, from 0, where `stop_reason` is OWLET_STOP_REASON_STOP_TEXT.
    pub stop_text: usize,
    /// An owlet_stop_reason.
    pub stop_reason: u32,
    /// 1 if it is what json_schema or grammar ask for; 0 if it was cut off before, or if there was neither.
    pub meets_constraint: u32,
}

versioned!(owlet_answer);

/// Samples answers to `messages`, the last of which asks. Pictures and prompt are computed once for all of them. `on_event`,
/// which may be NULL, is told all answers as they are written, on this thread; OWLET_FLOW_STOP ends the answer that it was
/// told of. `options` and `cancel` may be NULL. The caller frees `*out` by owlet_answers_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_generate(
    model: *const owlet_model,
    messages: *const owlet_message,
    n_messages: usize,
    options: *const owlet_generate_options,
    on_event: owlet_event_callback,
    user_data: *mut c_void,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_answers,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, given) = unsafe { (Out::new(out)?, input::options(options)?) };
        // SAFETY: the caller's contract.
        let (prompt, answer_options, adapters) = unsafe {
            (
                message::prompt(messages, n_messages, given.tools)?,
                answer::read(given.answer)?,
                adapter::scaled(given.adapters, given.scales, given.n_adapters)?,
            )
        };
        let (model, cancel) = (model::borrow(model)?, cancel::token(cancel)?);
        let n = or(given.n_answers, 1);
        if n > 1 << 16 {
            let error = Error::new(ErrorKind::Limit, "too many answers").at("n_answers").got(n);
            return Err(error.needed("at most 65536"));
        }
        let prompt = Prompt { thinking: message::thinking(given.thinking)?, ..prompt };
        let prompt = model.encode_until(&prompt, None, &cancel)?;
        let session = SessionOptions {
            n_ctx: prompt.n_tokens().saturating_add(answer_options.max_new_tokens).min(model.info().n_ctx_train),
            n_seq: or(given.n_parallel, n.min(N_PARALLEL)),
            n_threads: given.n_threads,
            ..SessionOptions::default()
        };
        let mut session = Session::new(&model, &session)?;
        session.set_adapters(&adapters)?;
        let request = GenerateRequest { prompt: &prompt, n, rng_key: RngKey { seed: given.seed, step: 0, prompt: 0 } };
        let mut listener = Listener::new(on_event, user_data, &cancel);
        let work = listener.cancel();
        let mut on_token =
            |token: TokenEvent| token.said.iter().try_for_each(|event| listener.tell(token.sample, event));
        let answers = generate(&mut session, &[request], &answer_options, &work, &mut on_token);
        let answers = listener.finish(answers)?.into_iter().flatten();
        out.put(answers.map(Sampled::new).collect());
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

impl Sampled {
    fn new(generated: Generated) -> Self {
        Self { text: c_string(&generated.text), thinking: c_string(&generated.thinking), generated }
    }
}

/// How many answers there are; 0 for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_answers_length(answers: *const owlet_answers) -> usize {
    boundary::get(0, || handle::borrow(answers).map_or(0, |answers| answers.len()))
}

/// Tells of answer `index`, from 0, in `*out`, whose `struct_size` the caller sets.
/// OWLET_STATUS_INVALID_INPUT beyond the last one.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_answers_get(
    answers: *const owlet_answers,
    index: usize,
    out: *mut owlet_answer,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let answers = handle::borrow(answers)?;
        let sampled = answers.get(index).ok_or_else(|| beyond(index, answers.len()))?;
        let (stop_reason, stop_text) = stop(&sampled.generated);
        let answer = owlet_answer {
            text: sampled.text.as_ptr(),
            thinking: sampled.thinking.as_ptr(),
            tokens: sampled.generated.tokens.as_ptr(),
            logprobs: sampled.generated.logprobs.as_ptr(),
            n_tokens: sampled.generated.tokens.len(),
            stop_text,
            stop_reason,
            meets_constraint: u32::from(sampled.generated.meets_constraint == Some(true)),
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, answer) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees answers and their strings. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_answers_free(answers: *mut owlet_answers) {
    boundary::free(answers);
}
