//! Whether a new adapter may take the place of the one that is live.

use std::{
    ffi::{CString, c_char, c_void},
    path::Path,
    sync::{Mutex, MutexGuard},
};

use owlet_adapters::{
    gate::{AdapterGate, GateRule, Trial, Verdict},
    rollout::RolloutProgress,
};
use owlet_runtime::{Error, ErrorKind, Result};

use super::{
    Observer, dataset, inside, owlet_adapt_options, owlet_dataset, owlet_interval, owlet_progress_callback,
    owlet_reward, reward,
};
use crate::{
    boundary::{self, Out},
    cancel::{self, owlet_cancel_token},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, or, versioned},
    model::{self, owlet_model},
    text::{c_string, owlet_string, pointer},
};

/// The adapters of one purpose of an app, in a folder: one that is live, two before it, and a candidate. A candidate goes live
/// only if its answers to held-out samples are good enough beside those of what is live now.
///
/// The folder is this process's own as long as the gate lives. Calls on a gate wait for each other; callbacks of such a
/// call cannot use it, which is OWLET_STATUS_BUSY.
pub struct owlet_adapter_gate {
    _opaque: (),
}

/// A gate and its number.
pub(crate) struct Numbered {
    gate: Mutex<AdapterGate>,
    number: u64,
}

impl Handle for owlet_adapter_gate {
    type Target = Numbered;
    const NAME: &'static str = "owlet_adapter_gate";
}

/// What a candidate must come to, compared with what is live sample by sample. 0 stands for the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_gate_rule {
    /// sizeof(owlet_gate_rule), set by the caller.
    pub struct_size: usize,
    /// Fewest held-out samples, at least 2; default 30.
    pub min_samples: usize,
    /// Least mean change of the reward; default 0.
    pub least_gain: f64,
    /// What the reward may be lower by at the lower end of the 95 % interval of its change; default 0: it must have risen
    /// beyond chance.
    pub most_loss: f64,
    /// What the mean reward of a task type by itself may be lower by, where that is beyond chance; default 0.1. For none at
    /// all, a number such as 1e-9.
    pub most_task_loss: f64,
}

/// What a gate says of a candidate. Never changes; may be read by several threads.
pub struct owlet_verdict {
    _opaque: (),
}

/// A verdict with its strings.
pub(crate) struct Judged {
    verdict: Verdict,
    reasons: Vec<CString>,
}

impl Handle for owlet_verdict {
    type Target = Judged;
    const NAME: &'static str = "owlet_verdict";
}

/// The numbers of a verdict.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_verdict_info {
    /// sizeof(owlet_verdict_info), set by the caller.
    pub struct_size: usize,
    /// Held-out samples.
    pub n_samples: usize,
    /// Reasons against the candidate, for owlet_verdict_get_reason().
    pub n_reasons: usize,
    /// Mean reward of what is live, or of the base.
    pub reward_before: f64,
    /// Mean reward of the candidate.
    pub reward_after: f64,
    /// Its change by pairs.
    pub reward_change: owlet_interval,
    /// Mean accuracy of what is live, or of the base.
    pub accuracy_before: f64,
    /// Mean accuracy of the candidate.
    pub accuracy_after: f64,
    /// Its change by pairs.
    pub accuracy_change: owlet_interval,
    /// 1 if the candidate passed, else 0.
    pub is_accepted: u32,
}

versioned!(owlet_gate_rule, owlet_verdict_info);

/// Opens the gate in `folder`, which is created. `rule` may be NULL. A live adapter whose file is damaged gives way to the one
/// before. OWLET_STATUS_BUSY if another process has the folder. The caller frees `*out` by owlet_adapter_gate_free(). May be
/// called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_gate_open(
    folder: *const c_char,
    rule: *const owlet_gate_rule,
    out: *mut *mut owlet_adapter_gate,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, folder, given) = unsafe { (Out::new(out)?, input::path(folder, "folder")?, input::options(rule)?) };
        let default = GateRule::default();
        let rule = GateRule {
            min_samples: or(given.min_samples, default.min_samples),
            least_gain: or(given.least_gain, default.least_gain),
            most_loss: or(given.most_loss, default.most_loss),
            most_task_loss: or(given.most_task_loss, default.most_task_loss),
        };
        let gate = Mutex::new(AdapterGate::open(&folder, rule)?);
        out.put(Numbered { gate, number: inside::number() });
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Asks the adapter in the file `candidate`, and what is live now, the samples of `held_out`, which neither was trained on, and
/// compares their rewards. One that passes is copied into the folder and waits for owlet_adapter_gate_activate(), over a
/// restart too. `reward` (NULL: Owlet's own rules) and `options` (NULL: the defaults) should be those of the training.
/// `on_progress`, `cancel` and `options` may be NULL. A refused candidate is no failure: the verdict says so. The caller frees
/// `*out` by owlet_verdict_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_gate_consider(
    gate: *mut owlet_adapter_gate,
    candidate: *const c_char,
    model: *const owlet_model,
    held_out: *const owlet_dataset,
    reward: *const owlet_reward,
    options: *const owlet_adapt_options,
    on_progress: owlet_progress_callback,
    user_data: *mut c_void,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_verdict,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let numbered = handle::borrow(gate);
        let number = numbered.as_ref().map_or(0, |gate| gate.number);
        // Before anything fails, so that the app's data is given back.
        // SAFETY: the caller's contract.
        let reward = unsafe { reward::read(reward, number) }?;
        // SAFETY: the caller's contract.
        let (out, candidate, given) =
            unsafe { (Out::new(out)?, input::path(candidate, "candidate")?, input::options(options)?) };
        let (model, held_out, cancel) = (model::borrow(model)?, dataset::borrow(held_out)?, cancel::token(cancel)?);
        // SAFETY: the caller's contract.
        let options = unsafe { given.trainer() }?;
        let numbered = numbered?;
        let mut gate = enter(&numbered)?;
        let observer = Observer::new(on_progress, user_data, number, &cancel);
        let cancel = observer.cancel();
        let trial = Trial { model: &model, held_out: &held_out, reward: &*reward, options: &options };
        let mut failed = None;
        let (failure, stop) = (&mut failed, cancel.clone());
        let mut tell = move |progress: RolloutProgress| {
            let told = observer.tell_evaluation(progress.n_done, progress.n_responses, progress.n_tokens);
            if let Err(error) = told {
                failure.get_or_insert(error);
                stop.cancel();
            }
        };
        let verdict = gate.consider(&candidate, &trial, &cancel, &mut tell);
        let verdict = failed.map_or(verdict, Err)?;
        let reasons = verdict.reasons.iter().map(|reason| c_string(&reason.to_string())).collect();
        out.put(Judged { verdict, reasons });
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Has the candidate that passed go live, all at once; what was live before is kept. OWLET_STATUS_NOT_FOUND where none waits.
/// May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_gate_activate(
    gate: *mut owlet_adapter_gate,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || enter(&*handle::borrow(gate)?)?.activate().map(drop);
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Has the adapter before go live again, or the base where there is none. The one that was live is forgotten.
/// OWLET_STATUS_NOT_FOUND where the base is live. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_gate_rollback(
    gate: *mut owlet_adapter_gate,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || enter(&*handle::borrow(gate)?)?.rollback().map(drop);
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Gives the path of the adapter that is live, for owlet_adapter_open(); NULL where the base is. The caller frees `*out` by
/// owlet_string_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_gate_get_active(
    gate: *mut owlet_adapter_gate,
    out: *mut *mut owlet_string,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let out = unsafe { Out::new(out) }?;
        if let Some(path) = enter(&*handle::borrow(gate)?)?.active() {
            out.put(path_string(&path)?);
        }
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees a gate. NULL is ignored. What is in its folder stays. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_adapter_gate_free(gate: *mut owlet_adapter_gate) {
    boundary::free(gate);
}

/// Tells the numbers of a verdict in `*out`, whose `struct_size` the caller sets.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_verdict_get_info(
    verdict: *const owlet_verdict,
    out: *mut owlet_verdict_info,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let judged = handle::borrow(verdict)?;
        let (reward, accuracy) = (&judged.verdict.changes.reward, &judged.verdict.changes.accuracy);
        let info = owlet_verdict_info {
            n_samples: judged.verdict.n_samples,
            n_reasons: judged.reasons.len(),
            reward_before: reward.before,
            reward_after: reward.after,
            reward_change: reward.change.into(),
            accuracy_before: accuracy.before,
            accuracy_after: accuracy.after,
            accuracy_change: accuracy.change.into(),
            is_accepted: u32::from(judged.verdict.is_accepted()),
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, info) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Reason `index`, from 0, against a candidate, as a sentence; NULL beyond the last one. The string belongs to the verdict and
/// lives as long.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_verdict_get_reason(verdict: *const owlet_verdict, index: usize) -> *const c_char {
    // SAFETY: the caller's contract.
    let reason =
        || pointer(unsafe { handle::peek(verdict) }.and_then(|judged| judged.reasons.get(index)).map(|r| &**r));
    boundary::get(std::ptr::null(), reason)
}

/// Frees a verdict and its strings. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_verdict_free(verdict: *mut owlet_verdict) {
    boundary::free(verdict);
}

/// The gate, once other calls are done with it.
///
/// # Errors
/// `Busy` from its own callbacks, `Internal` after a call that panicked.
fn enter(gate: &Numbered) -> Result<MutexGuard<'_, AdapterGate>> {
    inside::check(gate.number)?;
    gate.gate.lock().map_err(|_| Error::new(ErrorKind::Internal, "an earlier call broke this gate").needed("a new one"))
}

/// `path` as functions of C take it.
fn path_string(path: &Path) -> Result<CString> {
    let error = |_| Error::new(ErrorKind::Internal, "path with a NUL").at(path.display());
    #[cfg(unix)]
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    #[cfg(not(unix))]
    let bytes = path.to_str().unwrap_or_default().as_bytes();
    CString::new(bytes).map_err(error)
}
