//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! A checkpoint is a directory `step-00000042`, or `step-00000042-part-000007` for one within a step:
//!
//! | file | content |
//! |---|---|
//! | `adapter.gguf` | the weights in F32, an adapter like any other |
//! | `moments.bin` | AdamW's first and then second moments, little-endian f32, tensors in the order of the weights |
//! | `gradients.bin` | within a step: the gradients so far of its next update, where there are any |
//! | `next-adapter.gguf`, `next-moments.bin` | within a step: weights and moments after its updates so far, where there are any |
//! | `state.json` | [`TrainState`], the finished parts of the step, format version and the SHA-256 of the files above |
//! | `state.sha256` | the SHA-256 of `state.json` |
//!
//! It is written under a temporary name, flushed, and renamed, so that a run that is killed at any moment leaves whole
//! checkpoints only. All randomness is keyed by seed and position, so the seed is the whole state of the generators.

mod files;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::files::{Files, Writer, sha256};
use crate::{
    lock::FolderLock,
    lora::LoraWeights,
    optim::{AdamW, AdamWOptions},
    step::StepRecord,
};

/// Version of the format that we write and read.
const VERSION: u32 = 3;
const ADAPTER: &str = "adapter.gguf";
const MOMENTS: &str = "moments.bin";
const GRADIENTS: &str = "gradients.bin";
const NEXT_ADAPTER: &str = "next-adapter.gguf";
const NEXT_MOMENTS: &str = "next-moments.bin";
const STATE: &str = "state.json";
const STATE_HASH: &str = "state.sha256";
const PREFIX: &str = "step-";
/// Between the number of a step and that of its finished parts.
const WITHIN: &str = "-part-";
/// Directories that are being written or removed.
const PART: &str = ".part-";
/// A checkpoint in such a directory that is being replaced or removed.
const ASIDE: &str = "checkpoint";

/// What a run must have in common with the one that wrote a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Hash of the base model.
    pub base_model: String,
    /// GGUF architecture of the base model.
    pub architecture: String,
    /// [`crate::data::Dataset::hash`] of the training set.
    pub dataset: String,
    /// Every option that changes the result.
    pub config: serde_json::Value,
    /// Key of all randomness.
    pub seed: u64,
}

impl RunIdentity {
    /// # Errors
    /// [`ErrorKind::Mismatch`] that names the first difference to `run`, which wants to resume from `self`.
    fn check(&self, run: &RunIdentity) -> Result<()> {
        let differs = |what: &str, got: String, needed: String| {
            Err(Error::new(ErrorKind::Mismatch, format!("the checkpoint is of another {what}")).got(got).needed(needed))
        };
        for (what, ours, theirs) in [
            ("base model", &self.base_model, &run.base_model),
            ("architecture", &self.architecture, &run.architecture),
            ("data set", &self.dataset, &run.dataset),
        ] {
            if ours != theirs {
                return differs(what, ours.clone(), theirs.clone());
            }
        }
        if self.seed != run.seed {
            return differs("seed", self.seed.to_string(), run.seed.to_string());
        }
        if self.config != run.config {
            return differs("configuration", self.config.to_string(), run.config.to_string());
        }
        Ok(())
    }
}

/// Where a run stands: after how many steps, and what they leave to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// The run that it belongs to.
    pub run: RunIdentity,
    /// Steps that are done.
    pub step: u64,
    /// Current epoch, which fixes the order of the samples.
    pub epoch: u64,
    /// Samples of that order that are used up.
    pub position: usize,
    /// Optimizer steps that were applied.
    pub n_updates: u64,
    /// Updates in a row that were skipped, up to the last one.
    pub n_skipped_in_a_row: u64,
    /// Length of `metrics.jsonl` in bytes.
    pub metrics_bytes: u64,
}

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Where the run stands.
    pub state: TrainState,
    /// The adapter.
    pub weights: LoraWeights,
    /// Moments and number of updates.
    pub optimizer: AdamW,
    /// Finished parts of the step under way; `None` between two steps.
    pub running: Option<StepRecord>,
}

/// Where a resumed run goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Length of `metrics.jsonl` at the checkpoint; `None` if there was none to go on from.
    pub metrics_bytes: Option<u64>,
    /// Newer checkpoints that are damaged and were passed over.
    pub damaged: Vec<PathBuf>,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    /// By name of the file.
    sha256: BTreeMap<String, String>,
    state: TrainState,
    running: Option<StepRecord>,
    /// Applied updates of the optimizer in `next-moments.bin`.
    next_n_updates: u64,
}

/// The checkpoints of one run in one directory, which belongs to this store alone as long as it lives.
#[derive(Debug)]
pub struct CheckpointStore {
    directory: PathBuf,
    keep: usize,
    _lock: FolderLock,
}

impl CheckpointStore {
    /// Checkpoints in `directory`, which is created; the newest `keep` (at least 1) are kept.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if another store has the directory, in this process or in another one; [`ErrorKind::Io`].
    pub fn open(directory: &Path, keep: usize) -> Result<Self> {
        fs::create_dir_all(directory)
            .map_err(|source| Error::io("cannot create checkpoint directory", directory, source))?;
        Ok(Self { directory: directory.to_owned(), keep: keep.max(1), _lock: FolderLock::take(directory)? })
    }

    /// Where the checkpoints are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes the checkpoint of `state.step` and of the finished parts of the step that follows; where the very same one is
    /// there and whole, that one stays. Takes next to no memory. Then removes old ones and what killed runs left behind. Gives its path. Checkpoints of a later place
    /// go too: they are of a future that this run, which fell back behind it, no longer has.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; nothing that was there before is lost then.
    pub fn save(
        &self,
        state: &TrainState,
        weights: &LoraWeights,
        optimizer: &AdamW,
        running: Option<&StepRecord>,
    ) -> Result<PathBuf> {
        let failed = |path: &Path, source| Error::io("cannot write checkpoint", path, source);
        let temporary = self.temporary()?;
        let mut files = Writer::new(temporary.path());
        files.adapter(ADAPTER, &state.run, state.step, weights)?;
        files.moments(MOMENTS, optimizer)?;
        let learned = running.and_then(|running| running.learned.as_ref());
        if let Some(gradients) = learned.and_then(|learned| learned.gradients.as_ref()) {
            files.numbers(GRADIENTS, gradients.tensors())?;
        }
        let next = learned.and_then(|learned| learned.updated.as_ref());
        if let Some((weights, optimizer)) = next {
            files.adapter(NEXT_ADAPTER, &state.run, state.step, weights)?;
            files.moments(NEXT_MOMENTS, optimizer)?;
        }
        let state_file = StateFile {
            version: VERSION,
            sha256: files.sha256.clone(),
            state: state.clone(),
            running: running.cloned(),
            next_n_updates: next.map_or(0, |(_, optimizer)| optimizer.n_updates),
        };
        let place = Place { step: state.step, n_parts: running.map_or(0, StepRecord::n_parts) };
        let target = self.directory.join(place.name());
        if is_same(&target, &state_file) {
            drop(temporary);
            self.remove_old(place)?;
            return Ok(target);
        }
        let state_json = serde_json::to_vec_pretty(&state_file).expect("numbers and texts are always JSON");
        files.bytes(STATE, &state_json)?;
        files.bytes(STATE_HASH, sha256(&state_json).as_bytes())?;
        sync_directory(temporary.path())?;
        // A run that fell back to an older checkpoint comes by this place again: the damaged one goes aside.
        let aside = if target.exists() { Some(self.put_aside(&target)?) } else { None };
        if let Err(source) = fs::rename(temporary.path(), &target) {
            if let Some(aside) = aside
                && fs::rename(aside.path().join(ASIDE), &target).is_err()
            {
                // Better under a strange name than not at all.
                let _ = aside.keep();
            }
            return Err(failed(&target, source));
        }
        // The directory has its name: there is nothing left to remove on drop.
        let _ = temporary.keep();
        sync_directory(&self.directory)?;
        drop(aside);
        self.remove_old(place)?;
        Ok(target)
    }

    /// A directory with a name that says that it is no checkpoint; it goes when it is dropped.
    fn temporary(&self) -> Result<TempDir> {
        let directory = tempfile::Builder::new().prefix(PART).tempdir_in(&self.directory);
        directory.map_err(|source| Error::io("cannot write checkpoint", &self.directory, source))
    }

    /// Moves a checkpoint to [`ASIDE`] in a directory that is no checkpoint, so that a kill leaves no half of one behind.
    fn put_aside(&self, checkpoint: &Path) -> Result<TempDir> {
        let aside = self.temporary()?;
        fs::rename(checkpoint, aside.path().join(ASIDE))
            .map_err(|source| Error::io("cannot move old checkpoint", checkpoint, source))?;
        Ok(aside)
    }

    /// The newest checkpoint that is whole, for a run that is `run`, `None` where there is none, and the paths of newer
    /// ones that are damaged and were passed over.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] if it is of another base model, data set, seed or configuration; [`ErrorKind::Unsupported`] if
    /// it is of another version; [`ErrorKind::Io`] for one that cannot be read, whole or not.
    pub fn load_newest(
        &self,
        run: &RunIdentity,
        optimizer: AdamWOptions,
    ) -> Result<(Option<Checkpoint>, Vec<PathBuf>)> {
        let mut damaged = Vec::new();
        for path in self.list()?.into_iter().rev() {
            match load(&path, optimizer) {
                Ok(checkpoint) => {
                    checkpoint.state.run.check(run).map_err(|error| error.at(path.display()))?;
                    return Ok((Some(checkpoint), damaged));
                }
                // Only what is known to be damaged: a later checkpoint removes what was passed over, and a disk that fails to
                // read may do so no more than once.
                Err(error) if !matches!(error.kind(), ErrorKind::InvalidFile | ErrorKind::NotFound) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "passing over a damaged checkpoint");
                    damaged.push(path);
                }
            }
        }
        Ok((None, damaged))
    }

    /// Paths of the checkpoints, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn list(&self) -> Result<Vec<PathBuf>> {
        Ok(self.places()?.into_iter().map(|(_, path)| path).collect())
    }

    fn places(&self) -> Result<Vec<(Place, PathBuf)>> {
        let place = |path: PathBuf| Some((Place::parse(path.file_name()?.to_str()?)?, path));
        let mut found: Vec<_> = self.entries()?.into_iter().filter_map(place).collect();
        found.sort();
        Ok(found)
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let failed = |source| Error::io("cannot read checkpoint directory", &self.directory, source);
        let entries = fs::read_dir(&self.directory).map_err(failed)?;
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
    }

    /// Leaves the checkpoint of `newest`, which was just written, and the ones before it up to the number that is kept.
    fn remove_old(&self, newest: Place) -> Result<()> {
        let (past, future): (Vec<_>, Vec<_>) = self.places()?.into_iter().partition(|(place, _)| *place <= newest);
        let n_old = past.len().saturating_sub(self.keep);
        let failed = |path: &Path, source| Error::io("cannot remove old checkpoint", path, source);
        for (_, path) in past.into_iter().take(n_old).chain(future) {
            self.put_aside(&path)?.close().map_err(|source| failed(&path, source))?;
        }
        let is_part =
            |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PART));
        for path in self.entries()?.into_iter().filter(is_part) {
            fs::remove_dir_all(&path).map_err(|source| failed(&path, source))?;
        }
        Ok(())
    }
}

/// Where in its run a checkpoint is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    step: u64,
    /// Finished parts of the step.
    n_parts: usize,
}

impl Place {
    fn name(self) -> String {
        match self {
            Self { step, n_parts: 0 } => format!("{PREFIX}{step:08}"),
            Self { step, n_parts } => format!("{PREFIX}{step:08}{WITHIN}{n_parts:06}"),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let numbers = name.strip_prefix(PREFIX)?;
        let (step, n_parts) = numbers.split_once(WITHIN).unwrap_or((numbers, "0"));
        Some(Self { step: step.parse().ok()?, n_parts: n_parts.parse().ok()? })
    }
}

/// Whether the checkpoint in `directory` is whole and of the place that `new` is of. Of the time that a step took it may say
/// something else.
fn is_same(directory: &Path, new: &StateFile) -> bool {
    let n_parts = |running: &Option<StepRecord>| running.as_ref().map(StepRecord::n_parts);
    read_state(directory).is_ok_and(|old| {
        old.state == new.state && old.sha256 == new.sha256 && n_parts(&old.running) == n_parts(&new.running)
    }) && Files { directory, sha256: &new.sha256 }.check_all().is_ok()
}

/// Reads and checks `state.json`.
fn read_state(directory: &Path) -> Result<StateFile> {
    let read = |path: &Path| fs::read(path).map_err(|source| Error::io("cannot read checkpoint", path, source));
    let path = directory.join(STATE);
    let state_json = read(&path)?;
    let damaged = || Error::new(ErrorKind::InvalidFile, "damaged checkpoint").at(path.display());
    let hash = match read(&directory.join(STATE_HASH)) {
        // Versions before 3 have none, and say so.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        hash => Some(hash?),
    };
    if hash.as_ref().is_some_and(|hash| *hash != sha256(&state_json).into_bytes()) {
        return Err(damaged());
    }
    // The version first: the rest of another version may have another shape.
    let version: VersionOnly = serde_json::from_slice(&state_json).map_err(|source| damaged().source(source))?;
    if version.version != VERSION {
        let error = Error::new(ErrorKind::Unsupported, "the checkpoint is of another version").at(directory.display());
        return Err(error.got(version.version).needed(VERSION));
    }
    if hash.is_none() {
        return Err(damaged().got("no hash"));
    }
    serde_json::from_slice(&state_json).map_err(|source| damaged().source(source))
}

/// Reads one checkpoint directory and checks that it is whole.
fn load(directory: &Path, options: AdamWOptions) -> Result<Checkpoint> {
    let StateFile { sha256, state, mut running, next_n_updates, .. } = read_state(directory)?;
    let files = Files { directory, sha256: &sha256 };
    let weights = files.weights(ADAPTER)?;
    let optimizer = files.optimizer(MOMENTS, options, &weights, state.n_updates)?;
    if let Some(learned) = running.as_mut().and_then(|running| running.learned.as_mut()) {
        if files.contains(GRADIENTS) {
            learned.gradients = Some(Arc::new(files.gradients(GRADIENTS, &weights)?));
        }
        if files.contains(NEXT_ADAPTER) {
            let weights = files.weights(NEXT_ADAPTER)?;
            let optimizer = files.optimizer(NEXT_MOMENTS, options, &weights, next_n_updates)?;
            learned.updated = Some((Arc::new(weights), Arc::new(optimizer)));
        }
    }
    Ok(Checkpoint { state, weights, optimizer, running })
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Makes renames and new names in a directory last beyond a power cut, where the system can.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::io("cannot write checkpoint", directory, source))?;
    Ok(())
}

#[cfg(test)]
mod tests;
