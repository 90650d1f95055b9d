//! The gate between training and use: an adapter goes live only after it answered held-out questions better than what is
//! live now, and the one before stays at hand.
//!
//! `adapter file -> consider (evaluate both, rule) -> Verdict -> activate -> active -> rollback`. [`rule`](GateRule) says
//! what passes and why; the folder survives a kill between any two writes.

mod rule;
mod shelf;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use owlet_runtime::{Adapter, CancelToken, Error, ErrorKind, Model, Result, Session, gguf::GgufFile};

pub use self::rule::{Change, Changes, GateRule, Reason, Verdict};
use self::shelf::{Shelf, State};
use crate::{
    data::Dataset,
    evaluate::{EvaluateOptions, Evaluation, evaluate},
    file::AdapterFile,
    options::TrainerOptions,
    reward::Reward,
    rollout::RolloutProgress,
};

/// What candidates are asked, and how.
pub struct Trial<'a> {
    /// The base that they were trained over.
    pub model: &'a Model,
    /// Samples that none of them was trained on; nobody can check this here.
    pub held_out: &'a Dataset,
    /// Scores the answers.
    pub reward: &'a dyn Reward,
    /// Those of the training: lengths, suffix, weights of the reward, sessions and threads are taken from them.
    pub options: &'a TrainerOptions,
}

/// The adapters of one app's purpose: one that is live, two before it, a candidate.
#[derive(Debug)]
pub struct AdapterGate {
    shelf: Shelf,
    rule: GateRule,
    damaged: Vec<PathBuf>,
}

impl AdapterGate {
    /// The gate in `folder`, which is created; it is this process's own as long as the gate lives. A live adapter whose file
    /// is damaged gives way to the one before, see [`AdapterGate::damaged`].
    ///
    /// # Errors
    /// `InvalidInput` for a rule out of range; `Busy` if another process has the folder; `InvalidFile` and `Unsupported` for
    /// a folder that is none of a gate; `Io`.
    pub fn open(folder: &Path, rule: GateRule) -> Result<Self> {
        rule.validate()?;
        let (shelf, damaged) = Shelf::open(folder)?;
        Ok(Self { shelf, rule, damaged })
    }

    /// Files of live adapters that were found damaged when the gate was opened, and rolled back.
    pub fn damaged(&self) -> &[PathBuf] {
        &self.damaged
    }

    /// The file of the live adapter; `None` where the base is live. It stays in place until two more adapters went live
    /// after it, or it was rolled back.
    pub fn active(&self) -> Option<PathBuf> {
        self.shelf.state.live.as_ref().map(|live| self.shelf.path(live))
    }

    /// Whether a candidate was accepted and waits for [`AdapterGate::activate`].
    pub fn has_candidate(&self) -> bool {
        self.shelf.state.candidate.is_some()
    }

    /// Asks the adapter in the file `candidate`, and what is live now, the held-out samples of `trial`. One that passes is
    /// copied into the folder and waits for [`AdapterGate::activate`], over a restart too; an earlier one that waits is
    /// dropped first, whatever the verdict. `on_progress` counts the answers of both.
    ///
    /// # Errors
    /// `InvalidInput` for fewer samples than the rule wants and for options out of range; `Mismatch` for a candidate, or a live adapter, of another model;
    /// `InvalidFile` for a damaged candidate, weights that are not finite among it; those of [`AdapterFile::open`], sessions
    /// and [`evaluate`]; `Cancelled`. Nothing is accepted then.
    pub fn consider(
        &mut self,
        candidate: &Path,
        trial: &Trial<'_>,
        cancel: &CancelToken,
        on_progress: &mut (dyn FnMut(RolloutProgress) + Send),
    ) -> Result<Verdict> {
        self.rule.check_samples(trial.held_out.len())?;
        trial.options.validate()?;
        let base_model = trial.model.content_hash()?.to_owned();
        if let Some(live) = self.shelf.state.live.as_ref().filter(|live| live.base_model != base_model) {
            let error = Error::new(ErrorKind::Mismatch, "the live adapter is of another model");
            return Err(error.at(self.shelf.path(live).display()).got(&live.base_model).needed(base_model));
        }
        if self.has_candidate() {
            self.shelf.commit(self.shelf.state.clone().without_candidate())?;
        }
        let copy = self.shelf.copy(candidate)?;
        let verdict = self.judge(&copy, &base_model, trial, cancel, on_progress);
        let verdict = verdict.map_err(|error| error.at(candidate.display()));
        match &verdict {
            Ok(verdict) if verdict.is_accepted() => self.shelf.admit(verdict.candidate.clone(), base_model)?,
            _ => self.shelf.remove_unnamed(),
        }
        verdict
    }

    fn judge(
        &self,
        candidate: &Path,
        base_model: &str,
        trial: &Trial<'_>,
        cancel: &CancelToken,
        on_progress: &mut (dyn FnMut(RolloutProgress) + Send),
    ) -> Result<Verdict> {
        check_file(candidate, base_model)?;
        let hash = GgufFile::open(candidate)?.content_hash()?.to_owned();
        let live = self.shelf.state.live.as_ref();
        let against = self.active().map(|path| Adapter::open(trial.model, path)).transpose()?;
        let candidate = Adapter::open(trial.model, candidate)?;

        let options = trial.options.session_options();
        let sessions = (0..trial.options.n_sessions).map(|_| Session::new(trial.model, &options));
        let mut sessions = sessions.collect::<Result<Vec<_>>>()?;
        let n = trial.held_out.len();
        let mut n_before = RolloutProgress { n_responses: 2 * n, ..RolloutProgress::default() };
        let mut ask = |adapter: Option<Adapter>| -> Result<Evaluation> {
            let adapters: Vec<_> = adapter.map(|adapter| (Arc::new(adapter), 1.0)).into_iter().collect();
            sessions.iter_mut().try_for_each(|session| session.set_adapters(&adapters))?;
            let options = EvaluateOptions {
                max_new_tokens: trial.options.max_new_tokens,
                suffix: &trial.options.suffix,
                reward: trial.reward,
                composition: &trial.options.reward,
            };
            let mut last = n_before;
            let evaluation = evaluate(&mut sessions, trial.held_out, &options, cancel, &mut |progress| {
                let (n_done, n_tokens) = (n_before.n_done + progress.n_done, n_before.n_tokens + progress.n_tokens);
                last = RolloutProgress { n_done, n_tokens, ..n_before };
                on_progress(last);
            })?;
            n_before = last;
            Ok(evaluation)
        };
        let (before, after) = (ask(against)?, ask(Some(candidate))?);
        let (reasons, changes) = self.rule.judge(&before, &after);
        Ok(Verdict {
            candidate: hash,
            against: live.map(|live| live.hash.clone()),
            held_out: trial.held_out.hash().to_owned(),
            n_samples: n,
            reward_name: trial.reward.name().to_owned(),
            rule: self.rule,
            changes,
            reasons,
        })
    }

    /// The accepted candidate goes live, all at once; what was live before is kept. Gives its file.
    ///
    /// # Errors
    /// `NotFound` where no candidate waits; `Io`, and what was live stays so.
    pub fn activate(&mut self) -> Result<PathBuf> {
        let nothing = || Error::new(ErrorKind::NotFound, "no candidate was accepted");
        let state = self.shelf.state.clone().activated().ok_or_else(nothing)?;
        self.shelf.commit(state)?;
        self.active().ok_or_else(|| Error::new(ErrorKind::Internal, "an activated adapter is not live"))
    }

    /// The adapter before goes live again, or the base where there is none; gives its file. The one that was live is
    /// forgotten, and so is a candidate, which was compared with it.
    ///
    /// # Errors
    /// `NotFound` where the base is live; `Io`, and what was live stays so.
    pub fn rollback(&mut self) -> Result<Option<PathBuf>> {
        let nothing = || Error::new(ErrorKind::NotFound, "no adapter is live that could be rolled back");
        let state = self.shelf.state.clone().rolled_back().ok_or_else(nothing)?;
        self.shelf.commit(state)?;
        Ok(self.active())
    }
}

/// The file of the adapter that is live in the gate `folder`, for a process that only uses it: takes no lock and changes
/// nothing. `None` where the base is live or there is no gate.
///
/// # Errors
/// `InvalidFile`, `Unsupported`, `Io`.
pub fn active_adapter(folder: &Path) -> Result<Option<PathBuf>> {
    Ok(State::read(folder)?.live.map(|live| live.path_in(folder)))
}

/// # Errors
/// `Mismatch` for an adapter of another model than `base_model`, by what its file says; `InvalidFile` for weights that are
/// not finite; those of [`AdapterFile::open`].
fn check_file(path: &Path, base_model: &str) -> Result<()> {
    let AdapterFile { weights, provenance, .. } = AdapterFile::open(path)?;
    // Files of other programs do not say; their shapes are checked when they are loaded.
    if let Some(other) = provenance.filter(|provenance| provenance.base_model != base_model) {
        let error = Error::new(ErrorKind::Mismatch, "the adapter is of another model");
        return Err(error.got(other.base_model).needed(base_model));
    }
    let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    match weights.modules.iter().find(|module| !(is_finite(&module.a) && is_finite(&module.b))) {
        Some(module) => Err(Error::new(ErrorKind::InvalidFile, "weights that are not finite").at(&module.name)),
        None => Ok(()),
    }
}
