//! How good answers to held-out samples are.

use std::ffi::{CString, c_char};

use owlet_adapters::evaluate::Evaluation;

use crate::{
    boundary,
    device::beyond,
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, versioned},
    text::c_string,
};

/// Answers to held-out samples. Never changes; may be read by several threads.
pub struct owlet_evaluation {
    _opaque: (),
}

/// An evaluation with its strings.
pub(crate) struct Evaluated {
    evaluation: Evaluation,
    /// Id and text of every answer.
    texts: Vec<(CString, CString)>,
}

impl Handle for owlet_evaluation {
    type Target = Evaluated;
    const NAME: &'static str = "owlet_evaluation";
}

impl Evaluated {
    pub(crate) fn new(evaluation: Evaluation) -> Self {
        let texts = evaluation.answers.iter().map(|answer| (c_string(&answer.id), c_string(&answer.text))).collect();
        Self { evaluation, texts }
    }
}

/// A mean and the ends of its 95 % interval.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Means over the answers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_evaluation_info {
    /// sizeof(owlet_evaluation_info), set by the caller.
    pub struct_size: usize,
    /// Answers, for owlet_evaluation_get_answer().
    pub n_answers: usize,
    /// Accuracy, 0 to 1.
    pub accuracy: owlet_interval,
    /// Reward.
    pub reward: owlet_interval,
    /// Mean length in tokens.
    pub length: f64,
}

/// An answer to a held-out sample. Strings belong to the evaluation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_evaluated_answer {
    /// sizeof(owlet_evaluated_answer), set by the caller.
    pub struct_size: usize,
    /// Id of the sample.
    pub id: *const c_char,
    /// The whole text that the model wrote.
    pub text: *const c_char,
    /// How right it is, 0 to 1.
    pub accuracy: f64,
    /// Its reward.
    pub reward: f64,
    /// Its tokens, the end token included.
    pub n_tokens: usize,
    /// 1 if it was cut off, else 0.
    pub is_truncated: u32,
}

versioned!(owlet_evaluation_info, owlet_evaluated_answer);

/// Tells the means of an evaluation in `*out`, whose `struct_size` the caller sets.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_evaluation_get_info(
    evaluation: *const owlet_evaluation,
    out: *mut owlet_evaluation_info,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let evaluated = handle::borrow(evaluation)?;
        let overall = evaluated.evaluation.overall();
        let info = owlet_evaluation_info {
            n_answers: evaluated.texts.len(),
            accuracy: overall.accuracy.into(),
            reward: overall.reward.into(),
            length: overall.length,
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, info) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

impl From<owlet_adapters::statistics::Interval> for owlet_interval {
    fn from(interval: owlet_adapters::statistics::Interval) -> Self {
        Self { mean: interval.mean, low: interval.low, high: interval.high }
    }
}

/// Tells of answer `index`, from 0, in the order of the samples, in `*out`, whose `struct_size` the caller sets.
/// OWLET_STATUS_INVALID_INPUT beyond the last one.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_evaluation_get_answer(
    evaluation: *const owlet_evaluation,
    index: usize,
    out: *mut owlet_evaluated_answer,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let evaluated = handle::borrow(evaluation)?;
        let found = evaluated.evaluation.answers.iter().zip(&evaluated.texts).nth(index);
        let (answer, (id, text)) = found.ok_or_else(|| beyond(index, evaluated.texts.len()))?;
        let told = owlet_evaluated_answer {
            id: id.as_ptr(),
            text: text.as_ptr(),
            accuracy: answer.parts.accuracy,
            reward: answer.reward,
            n_tokens: answer.n_tokens,
            is_truncated: u32::from(answer.truncated),
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, told) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees an evaluation and its strings. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_evaluation_free(evaluation: *mut owlet_evaluation) {
    boundary::free(evaluation);
}
