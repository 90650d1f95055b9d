//! What a job tells while it runs.

use std::ffi::c_void;

use owlet_adapters::{
    metrics::StepMetrics,
    run::{Advice, RunEvent},
    trainer::StepEvent,
};
use owlet_host::JobEvent;
use owlet_runtime::{CancelToken, Result};

use super::inside::Inside;
use crate::{
    answer::{callback_failed, owlet_flow},
    input::{self, versioned},
};

/// What a job tells of.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_progress_kind {
    /// Answers are being written: `n_done` of `n_total`, with `n_tokens` tokens.
    Sampling = 0,
    /// Gradients are being computed: `n_done` of `n_total` questions.
    Learning = 1,
    /// A step is complete: `metrics` has its numbers, and `n_steps` is how many steps are done.
    StepDone = 2,
    /// A checkpoint of `n_steps` steps is on the disk.
    Checkpoint = 3,
    /// Nothing was learned in `n_done` steps in a row: easier or harder questions, a higher temperature or larger groups may
    /// help.
    NothingLearned = 4,
    /// Gradients were not finite; the adapter stays as it was.
    UpdateSkipped = 5,
    /// The job rests until owlet_adapt_job_resume().
    Paused = 6,
    /// It goes on.
    Resumed = 7,
    /// Held-out samples are being answered: `n_done` of `n_total`.
    Evaluating = 8,
    /// Something that this version of the header does not know.
    Other = 9,
}

/// The numbers of one training step. NaN stands for what only an answer that was learned from can tell, where there was none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_step_metrics {
    /// sizeof(owlet_step_metrics) of the library: later versions may have more fields behind these.
    pub struct_size: usize,
    /// From 0.
    pub step: u64,
    /// Times that the data was gone through before, from 0.
    pub epoch: u64,
    /// Questions that were learned from.
    pub n_groups: usize,
    /// Questions that were dropped because all answers were equally right or wrong.
    pub n_filtered: usize,
    /// Updates that were skipped because their gradients were not finite.
    pub n_skipped_updates: usize,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Mean reward of all answers.
    pub reward: f64,
    /// Their mean accuracy, 0 to 1.
    pub accuracy: f64,
    /// Their mean format reward.
    pub format: f64,
    /// Their mean length in tokens.
    pub length: f64,
    /// Share of answers that were cut off.
    pub truncated: f64,
    /// Policy loss.
    pub loss: f64,
    /// Mean of -logprob of the sampled tokens in nats.
    pub neg_logprob: f64,
    /// Mean entropy of the token distributions in nats.
    pub entropy: f64,
    /// Mean difference between the training engine's and the sampler's log-probabilities.
    pub logprob_gap: f64,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Wall clock of the step.
    pub seconds: f64,
    /// Sampled tokens a second over the whole step.
    pub tokens_per_second: f64,
}

versioned!(owlet_step_metrics);

/// What a job tells, until the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_progress {
    /// sizeof(owlet_progress) of the library: later versions may have more fields behind these.
    pub struct_size: usize,
    /// The numbers of a step that is complete, else NULL.
    pub metrics: *const owlet_step_metrics,
    /// Steps.
    pub n_steps: u64,
    /// What is done of `n_total`.
    pub n_done: usize,
    /// What there is to do.
    pub n_total: usize,
    /// Tokens written.
    pub n_tokens: usize,
    /// An owlet_progress_kind.
    pub kind: u32,
}

versioned!(owlet_progress);

/// Told what a job does, on its own thread, one call at a time, before the call that runs it returns. Returns an owlet_flow;
/// OWLET_FLOW_STOP ends that call with OWLET_STATUS_CANCELLED, unless it is done anyway, any other number with
/// OWLET_STATUS_CALLBACK. Both can be run again.
pub type owlet_progress_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, progress: *const owlet_progress) -> i32>;

/// Who is told of a job.
#[derive(Clone)]
pub(super) struct Observer {
    callback: owlet_progress_callback,
    user_data: *mut c_void,
    job: u64,
    /// Cancelled when the callback wants to stop.
    cancel: CancelToken,
}

// SAFETY: the header says that the callback is called on the job's thread; the call that gave it waits for that.
unsafe impl Send for Observer {}

impl Observer {
    pub(super) fn new(
        callback: owlet_progress_callback,
        user_data: *mut c_void,
        job: u64,
        cancel: &CancelToken,
    ) -> Self {
        Self { callback, user_data, job, cancel: cancel.or_after(std::time::Duration::MAX) }
    }

    /// Cancelled with the call's token, and when the callback wants to stop.
    pub(super) fn cancel(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Tells `event`.
    ///
    /// # Errors
    /// `Callback`.
    pub(super) fn tell(&self, event: &JobEvent) -> Result<()> {
        let none = input::zeroed::<owlet_progress>();
        let mut metrics: owlet_step_metrics = input::zeroed();
        let progress = match event {
            JobEvent::Run(RunEvent::Working(StepEvent::Sampling(progress))) => owlet_progress {
                kind: owlet_progress_kind::Sampling as u32,
                n_done: progress.n_done,
                n_total: progress.n_responses,
                n_tokens: progress.n_tokens,
                ..none
            },
            JobEvent::Run(RunEvent::Working(StepEvent::Learning { n_done, n_groups })) => owlet_progress {
                kind: owlet_progress_kind::Learning as u32,
                n_done: *n_done,
                n_total: *n_groups,
                ..none
            },
            JobEvent::Run(RunEvent::StepDone(step)) => {
                metrics = told(step);
                owlet_progress { kind: owlet_progress_kind::StepDone as u32, n_steps: step.step + 1, ..none }
            }
            JobEvent::Run(RunEvent::Checkpoint { n_steps, .. }) => {
                owlet_progress { kind: owlet_progress_kind::Checkpoint as u32, n_steps: *n_steps, ..none }
            }
            JobEvent::Run(RunEvent::Advice(Advice::Idle { n_steps, .. })) => {
                owlet_progress { kind: owlet_progress_kind::NothingLearned as u32, n_done: *n_steps, ..none }
            }
            JobEvent::Run(RunEvent::Advice(Advice::Skipped { n_steps })) => {
                owlet_progress { kind: owlet_progress_kind::UpdateSkipped as u32, n_steps: *n_steps, ..none }
            }
            JobEvent::Paused => owlet_progress { kind: owlet_progress_kind::Paused as u32, ..none },
            JobEvent::Resumed => owlet_progress { kind: owlet_progress_kind::Resumed as u32, ..none },
        };
        let is_step = progress.kind == owlet_progress_kind::StepDone as u32;
        let metrics = if is_step { &raw const metrics } else { std::ptr::null() };
        self.call(&owlet_progress { metrics, ..progress })
    }

    /// Tells that `n_done` of `n_total` held-out samples were answered.
    ///
    /// # Errors
    /// `Callback`.
    pub(super) fn tell_evaluation(&self, n_done: usize, n_total: usize, n_tokens: usize) -> Result<()> {
        let kind = owlet_progress_kind::Evaluating as u32;
        self.call(&owlet_progress { kind, n_done, n_total, n_tokens, ..input::zeroed() })
    }

    fn call(&self, progress: &owlet_progress) -> Result<()> {
        let Some(callback) = self.callback else { return Ok(()) };
        let _inside = Inside::of(self.job);
        // SAFETY: the app gave a function of this type and its data; `progress` lives during the call.
        let flow = unsafe { callback(self.user_data, progress) };
        if flow == owlet_flow::Stop as i32 {
            self.cancel.cancel();
        } else if flow != owlet_flow::Continue as i32 {
            return Err(callback_failed(flow).at("progress"));
        }
        Ok(())
    }
}

fn told(step: &StepMetrics) -> owlet_step_metrics {
    let known = |number: Option<f64>| number.unwrap_or(f64::NAN);
    owlet_step_metrics {
        step: step.step,
        epoch: step.epoch,
        n_groups: step.n_groups,
        n_filtered: step.n_filtered,
        n_skipped_updates: step.skipped_updates,
        learning_rate: step.learning_rate,
        reward: step.reward,
        accuracy: step.accuracy,
        format: step.format,
        length: step.length,
        truncated: step.truncated,
        loss: known(step.loss),
        neg_logprob: known(step.neg_logprob),
        entropy: known(step.entropy),
        logprob_gap: known(step.logprob_gap),
        grad_norm: known(step.grad_norm),
        seconds: step.seconds,
        tokens_per_second: step.tokens_per_second,
        ..input::zeroed()
    }
}
