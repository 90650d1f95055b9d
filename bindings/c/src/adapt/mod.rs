//! Training an adapter on the device.

mod dataset;
mod evaluation;
mod gate;
mod inside;
mod options;
mod progress;
mod reward;

use std::{
    ffi::{c_char, c_void},
    sync::Arc,
};

use owlet_adapters::file::Precision;
use owlet_host::{Job, JobState};
use owlet_runtime::{CancelToken, Result};

pub use self::{dataset::*, evaluation::*, gate::*, options::*, progress::*, reward::*};
use crate::{
    adapter::owlet_adapter,
    boundary::{self, Out},
    cancel::{self, owlet_cancel_token},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input,
    model::{self, owlet_model},
};

/// A training run with a thread of its own.
///
/// What it has done is kept in its folder, by checkpoints and whenever it is paused or cancelled: a job that is opened with
/// the same folder, options, data and reward goes on from there, to the same adapter as if it had never stopped.
///
/// It may be used by several threads: one runs it, others pause it and use its adapter, which waits for the end of a slice
/// of work (docs/cancellation.md). Its own callbacks cannot use it, which is OWLET_STATUS_BUSY, but for
/// owlet_adapt_job_pause(), owlet_adapt_job_get_state() and owlet_adapt_job_free().
pub struct owlet_adapt_job {
    _opaque: (),
}

/// A job and its number.
pub(crate) struct Numbered {
    job: Job,
    number: u64,
}

impl Handle for owlet_adapt_job {
    type Target = Numbered;
    const NAME: &'static str = "owlet_adapt_job";
}

/// What a job is doing.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_job_state {
    /// Nothing: nobody runs it.
    Idle = 0,
    /// It trains.
    Running = 1,
    /// It is run, and rests.
    Paused = 2,
    /// The last step is done.
    Done = 3,
}

/// Prepares a run over `dataset`, or goes on with that of the folder in `options` (NULL: the defaults). `reward` scores the
/// answers; NULL stands for Owlet's own rules for the problem types. `cancel` may be NULL. The job keeps shares of model and
/// data set. The caller frees `*out` by owlet_adapt_job_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_open(
    model: *const owlet_model,
    dataset: *const owlet_dataset,
    options: *const owlet_adapt_options,
    reward: *const owlet_reward,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_adapt_job,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let number = inside::number();
        // First, so that the app's data is given back whatever fails.
        // SAFETY: the caller's contract.
        let reward = unsafe { reward::read(reward, number) }?;
        // SAFETY: the caller's contract.
        let (out, given) = unsafe { (Out::new(out)?, input::options(options)?) };
        let (model, dataset) = (model::borrow(model)?, dataset::borrow(dataset)?);
        // SAFETY: the caller's contract.
        let (trainer, run) = unsafe { (given.trainer()?, given.run()?) };
        let job = Job::open(&model, dataset, reward, trainer, run, &cancel::token(cancel)?).wait()?;
        out.put(Numbered { job, number });
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Trains to the last step, and returns then. `on_progress`, which may be NULL, is told what happens, on the job's thread.
/// `cancel` may be NULL. After OWLET_STATUS_CANCELLED, a callback that failed or a full disk, another call goes on from there;
/// with a folder, a later process too. OWLET_STATUS_BUSY while another thread runs it.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_run(
    job: *mut owlet_adapt_job,
    on_progress: owlet_progress_callback,
    user_data: *mut c_void,
    cancel: *const owlet_cancel_token,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let (job, cancel) = (borrow(job)?, cancel::token(cancel)?);
        let observer = Observer::new(on_progress, user_data, job.number, &cancel);
        let cancel = observer.cancel();
        job.job.run(&cancel, Box::new(move |event| observer.tell(&event))).wait()?;
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Has a running job rest from the end of the running slice of work on, after a checkpoint; the call that runs it does not
/// return. A job that nobody runs rests as soon as it is run. May be called from any thread, and from the job's callbacks.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_pause(
    job: *mut owlet_adapt_job,
    error: *mut *mut owlet_error,
) -> owlet_status {
    // SAFETY: the caller's contract.
    unsafe {
        boundary::call(error, || {
            handle::borrow(job)?.job.pause();
            Ok(())
        })
    }
}

/// Has a job that rests go on. May be called from any thread, and from the job's callbacks.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_resume(
    job: *mut owlet_adapt_job,
    error: *mut *mut owlet_error,
) -> owlet_status {
    // SAFETY: the caller's contract.
    unsafe {
        boundary::call(error, || {
            handle::borrow(job)?.job.resume();
            Ok(())
        })
    }
}

/// What a job is doing: an owlet_job_state; OWLET_JOB_STATE_IDLE for NULL. May be called from any thread, and from the job's
/// callbacks.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_get_state(job: *const owlet_adapt_job) -> u32 {
    let state = || match handle::borrow(job).map(|job| job.job.state()) {
        Ok(JobState::Running) => owlet_job_state::Running,
        Ok(JobState::Paused) => owlet_job_state::Paused,
        Ok(JobState::Done) => owlet_job_state::Done,
        Ok(JobState::Idle) | Err(_) => owlet_job_state::Idle,
    };
    boundary::get(owlet_job_state::Idle, state) as u32
}

/// Counts the steps that are done, those of earlier processes included. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_count_steps(
    job: *mut owlet_adapt_job,
    out: *mut u64,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        if out.is_null() {
            return Err(boundary::null("out"));
        }
        let n_steps = borrow(job)?.job.n_steps_done(&CancelToken::new()).wait()?;
        // SAFETY: the caller's contract; not NULL.
        unsafe { out.write(n_steps) };
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Writes the adapter as it is after the last complete step to `path`, a GGUF file that llama.cpp loads; an older file is
/// replaced only when the new one is complete. May be called from any thread, also while the job runs.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_write_adapter(
    job: *mut owlet_adapt_job,
    path: *const c_char,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let path = unsafe { input::path(path, "path") }?;
        borrow(job)?.job.write_adapter(path, Precision::F32, &CancelToken::new()).wait()
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Gives the adapter as it is after the last complete step, without a file, for owlet_session_set_adapters(). The caller frees
/// `*out` by owlet_adapter_free(). May be called from any thread, also while the job runs.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_get_adapter(
    job: *mut owlet_adapt_job,
    out: *mut *mut owlet_adapter,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let out = unsafe { Out::new(out) }?;
        out.put(borrow(job)?.job.adapter(&CancelToken::new()).wait()?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Asks the samples of `dataset`, which should be held-out ones, greedily with the adapter as it is after the last complete
/// step, and scores the answers by the job's reward. `on_progress`, which may be NULL, is told how far it is, on the job's
/// thread. `cancel` may be NULL. The caller frees `*out` by owlet_evaluation_free(). May be called from any thread; it waits
/// for a run under way to rest or to end.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapt_job_evaluate(
    job: *mut owlet_adapt_job,
    dataset: *const owlet_dataset,
    on_progress: owlet_progress_callback,
    user_data: *mut c_void,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_evaluation,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let out = unsafe { Out::new(out) }?;
        let (job, dataset, cancel) = (borrow(job)?, dataset::borrow(dataset)?, cancel::token(cancel)?);
        let observer = Observer::new(on_progress, user_data, job.number, &cancel);
        let cancel = observer.cancel();
        let tell = move |progress: owlet_adapters::rollout::RolloutProgress| {
            observer.tell_evaluation(progress.n_done, progress.n_responses, progress.n_tokens)
        };
        out.put(Evaluated::new(job.job.evaluate(dataset, &cancel, Box::new(tell)).wait()?));
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees a job. NULL is ignored. A run under way goes on to its end: cancel it before. Otherwise its thread ends, for which
/// it is waited a few seconds at most. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_adapt_job_free(job: *mut owlet_adapt_job) {
    boundary::free(job);
}

/// The job behind a handle, for work on its thread.
fn borrow(job: *const owlet_adapt_job) -> Result<Arc<Numbered>> {
    let job = handle::borrow(job)?;
    inside::check(job.number)?;
    Ok(job)
}
