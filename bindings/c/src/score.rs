//! How probable given answers are.

use std::ffi::c_char;

use owlet_runtime::{Error, ErrorKind, ScoreOptions, Scored, Session, SessionOptions, TokenId, score_many};

use crate::{
    adapter::{self, owlet_adapter},
    boundary::{self, Out},
    cancel::{self, owlet_cancel_token},
    device::beyond,
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, or, versioned},
    message::{self, owlet_message},
    model::{self, owlet_model},
};

/// Tokens of a completion that are computed at once.
const N_LOGITS: usize = 32;

/// How answers are scored. 0 and NULL stand for the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_score_options {
    /// sizeof(owlet_score_options), set by the caller.
    pub struct_size: usize,
    /// Adapters that act; default NULL.
    pub adapters: *const *const owlet_adapter,
    /// Their scales; default NULL: 1 for each.
    pub scales: *const f32,
    /// Number of adapters.
    pub n_adapters: usize,
    /// Threads, at most 512; default 0: one per core.
    pub n_threads: usize,
    /// Divides the logits, at most 100; default 1.
    pub temperature: f32,
    /// Not 0: answers are beginnings, and the token that ends one does not count.
    pub is_open_ended: u32,
    /// Not 0: control tokens share in the probability, as Hugging Face counts it; default: only tokens that may be sampled.
    pub whole_vocabulary: u32,
}

versioned!(owlet_score_options);

/// Scores of answers, in their order. Never changes; may be read by several threads.
pub struct owlet_scores {
    _opaque: (),
}

impl Handle for owlet_scores {
    type Target = Vec<Scored>;
    const NAME: &'static str = "owlet_scores";
}

/// How probable an answer is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_score {
    /// sizeof(owlet_score), set by the caller.
    pub struct_size: usize,
    /// Natural log-probability of each of its tokens; belongs to the scores.
    pub logprobs: *const f32,
    /// Number of tokens.
    pub n_tokens: usize,
    /// Natural log-probability of the answer.
    pub sum: f64,
    /// The mean over its tokens, which does not prefer short answers.
    pub mean: f64,
}

versioned!(owlet_score);

/// Tells how probable each of `n_answers` answers is after `messages`, the last of which asks. Pictures and prompt are computed
/// once. `options` and `cancel` may be NULL. The caller frees `*out` by owlet_scores_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_score(
    model: *const owlet_model,
    messages: *const owlet_message,
    n_messages: usize,
    answers: *const *const c_char,
    n_answers: usize,
    options: *const owlet_score_options,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_scores,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, prompt, answers, given) = unsafe {
            (
                Out::new(out)?,
                message::prompt(messages, n_messages, std::ptr::null())?,
                input::array(answers, n_answers, "answers")?,
                input::options(options)?,
            )
        };
        if answers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "no answers to score").at("n_answers").got(0));
        }
        // SAFETY: the caller's contract.
        let adapters = unsafe { adapter::scaled(given.adapters, given.scales, given.n_adapters) }?;
        let (model, cancel) = (model::borrow(model)?, cancel::token(cancel)?);
        let completions: Vec<Vec<TokenId>> = answers
            .iter()
            // SAFETY: the caller's contract.
            .map(|&answer| model.completion(unsafe { input::text(answer, "answers") }?, given.is_open_ended == 0))
            .collect::<Result<_, _>>()?;
        let completions: Vec<&[TokenId]> = completions.iter().map(Vec::as_slice).collect();
        let prompt = model.encode_until(&prompt, None, &cancel)?;
        let longest = completions.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let session = SessionOptions {
            n_ctx: (prompt.n_tokens() + longest).min(model.info().n_ctx_train),
            n_logits: N_LOGITS,
            n_threads: given.n_threads,
            ..SessionOptions::default()
        };
        let mut session = Session::new(&model, &session)?;
        session.set_adapters(&adapters)?;
        let whole_vocabulary = given.whole_vocabulary != 0;
        let options = ScoreOptions { temperature: or(given.temperature, 1.0), whole_vocabulary };
        out.put(score_many(&mut session, &prompt, &completions, &options, &cancel)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// How many scores there are; 0 for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_scores_length(scores: *const owlet_scores) -> usize {
    boundary::get(0, || handle::borrow(scores).map_or(0, |scores| scores.len()))
}

/// Tells the score of answer `index`, from 0, in `*out`, whose `struct_size` the caller sets.
/// OWLET_STATUS_INVALID_INPUT beyond the last one.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_scores_get(
    scores: *const owlet_scores,
    index: usize,
    out: *mut owlet_score,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let scores = handle::borrow(scores)?;
        let scored = scores.get(index).ok_or_else(|| beyond(index, scores.len()))?;
        let score = owlet_score {
            logprobs: scored.logprobs.as_ptr(),
            n_tokens: scored.logprobs.len(),
            sum: scored.sum(),
            mean: scored.mean(),
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, score) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees scores. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_scores_free(scores: *mut owlet_scores) {
    boundary::free(scores);
}
