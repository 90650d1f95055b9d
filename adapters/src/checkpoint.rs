//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! A checkpoint is a directory `step-00000042` of three files:
//!
//! | file | content |
//! |---|---|
//! | `adapter.gguf` | the weights in F32, an adapter like any other |
//! | `moments.bin` | AdamW's first and then second moments, little-endian f32, tensors in the order of the weights |
//! | `state.json` | [`TrainState`], format version and the SHA-256 of the other two |
//!
//! It is written under a temporary name, flushed, and renamed, so that a run that is killed at any moment leaves whole
//! checkpoints only. All randomness is keyed by seed and position, so the seed is the whole state of the generators.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    file::{AdapterFile, Precision, Provenance},
    lora::LoraWeights,
    optim::{AdamW, AdamWOptions},
};

/// Version of the format that we write and read.
const VERSION: u32 = 1;
const ADAPTER: &str = "adapter.gguf";
const MOMENTS: &str = "moments.bin";
const STATE: &str = "state.json";
const PREFIX: &str = "step-";
/// Directories that are being written or removed.
const PART: &str = ".part-";

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

/// Where a run stands, between two steps.
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
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    adapter_sha256: String,
    moments_sha256: String,
    state: TrainState,
}

/// The checkpoints of one run in one directory.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    directory: PathBuf,
    keep: usize,
}

impl CheckpointStore {
    /// Checkpoints in `directory`, which is created; the newest `keep` (at least 1) are kept.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn open(directory: &Path, keep: usize) -> Result<Self> {
        fs::create_dir_all(directory)
            .map_err(|source| Error::io("cannot create checkpoint directory", directory, source))?;
        Ok(Self { directory: directory.to_owned(), keep: keep.max(1) })
    }

    /// Writes the checkpoint of `state.step`, then removes old ones and what killed runs left behind. Gives its path.
    /// Checkpoints of later steps go too: they are of a future that this run, which fell back behind it, no longer has.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; nothing that was there before is lost then.
    pub fn save(&self, state: &TrainState, weights: &LoraWeights, optimizer: &AdamW) -> Result<PathBuf> {
        let failed = |path: &Path, source| Error::io("cannot write checkpoint", path, source);
        let temporary = tempfile::Builder::new()
            .prefix(PART)
            .tempdir_in(&self.directory)
            .map_err(|source| failed(&self.directory, source))?;
        let adapter = AdapterFile {
            architecture: state.run.architecture.clone(),
            weights: weights.clone(),
            provenance: Some(Provenance {
                base_model: state.run.base_model.clone(),
                config: state.run.config.to_string(),
                step: state.step,
                seed: state.run.seed,
            }),
        }
        .to_bytes(Precision::F32)?;
        let moments: Vec<u8> = optimizer
            .first
            .tensors()
            .chain(optimizer.second.tensors())
            .flatten()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let state_file = StateFile {
            version: VERSION,
            adapter_sha256: sha256(&adapter),
            moments_sha256: sha256(&moments),
            state: state.clone(),
        };
        let state_json = serde_json::to_vec_pretty(&state_file).expect("numbers and texts are always JSON");
        for (name, bytes) in [(ADAPTER, &adapter), (MOMENTS, &moments), (STATE, &state_json)] {
            let path = temporary.path().join(name);
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
            written.map_err(|source| failed(&path, source))?;
        }
        sync_directory(temporary.path())?;
        let target = self.directory.join(format!("{PREFIX}{:08}", state.step));
        if target.exists() {
            // A run that fell back to an older checkpoint comes by this step again: the damaged one goes aside.
            let aside = self.directory.join(format!("{PART}replaced-{:08}", state.step));
            fs::rename(&target, &aside).map_err(|source| failed(&target, source))?;
        }
        fs::rename(temporary.path(), &target).map_err(|source| failed(&target, source))?;
        // The directory has its name: there is nothing left to remove on drop.
        let _ = temporary.keep();
        sync_directory(&self.directory)?;
        self.remove_old(state.step)?;
        Ok(target)
    }

    /// The newest checkpoint that is whole, for a run that is `run`; `None` where there is none. Damaged ones are passed
    /// over with a warning; [`CheckpointStore::later_than`] names them then.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] if it is of another base model, data set, seed or configuration; [`ErrorKind::Unsupported`] if
    /// it is of a newer version; [`ErrorKind::Io`].
    pub fn load_newest(&self, run: &RunIdentity, optimizer: AdamWOptions) -> Result<Option<Checkpoint>> {
        for (_, path) in self.list()?.into_iter().rev() {
            match load(&path, optimizer) {
                Ok(checkpoint) => {
                    checkpoint.state.run.check(run).map_err(|error| error.at(path.display()))?;
                    return Ok(Some(checkpoint));
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
                Err(error) => tracing::warn!(%error, path = %path.display(), "passing over a damaged checkpoint"),
            }
        }
        Ok(None)
    }

    /// Steps and paths, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found: Vec<(u64, PathBuf)> = self
            .entries()?
            .into_iter()
            .filter_map(|path| Some((path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()?, path)))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Paths of the checkpoints beyond `step`, oldest first. For a run that was resumed at `step` and has not saved since,
    /// these are the damaged ones that were passed over.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn later_than(&self, step: u64) -> Result<Vec<PathBuf>> {
        Ok(self.list()?.into_iter().filter(|(later, _)| *later > step).map(|(_, path)| path).collect())
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let failed = |source| Error::io("cannot read checkpoint directory", &self.directory, source);
        let entries = fs::read_dir(&self.directory).map_err(failed)?;
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
    }

    /// Leaves the checkpoint of `step`, which was just written, and the ones before it up to the number that is kept.
    fn remove_old(&self, step: u64) -> Result<()> {
        let mut past = self.list()?;
        past.retain(|(other, _)| *other <= step);
        let old = past.iter().take(past.len().saturating_sub(self.keep)).map(|(_, path)| path.clone());
        let future = self.later_than(step)?;
        let is_part =
            |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PART));
        for path in old.chain(future).chain(self.entries()?.into_iter().filter(is_part)) {
            fs::remove_dir_all(&path).map_err(|source| Error::io("cannot remove old checkpoint", &path, source))?;
        }
        Ok(())
    }
}

/// Reads one checkpoint directory and checks that it is whole.
fn load(directory: &Path, options: AdamWOptions) -> Result<Checkpoint> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read(&path).map_err(|source| Error::io("cannot read checkpoint", &path, source))
    };
    let damaged =
        |name: &str| Error::new(ErrorKind::InvalidFile, "damaged checkpoint").at(directory.join(name).display());
    let state_json = read(STATE)?;
    // The version first: the rest of a newer file may have another shape.
    let version: VersionOnly = serde_json::from_slice(&state_json).map_err(|source| damaged(STATE).source(source))?;
    if version.version != VERSION {
        let error = Error::new(ErrorKind::Unsupported, "the checkpoint is of another version").at(directory.display());
        return Err(error.got(version.version).needed(VERSION));
    }
    let file: StateFile = serde_json::from_slice(&state_json).map_err(|source| damaged(STATE).source(source))?;
    let moments = read(MOMENTS)?;
    for (name, bytes, expected) in
        [(ADAPTER, &read(ADAPTER)?, &file.adapter_sha256), (MOMENTS, &moments, &file.moments_sha256)]
    {
        let got = sha256(bytes);
        if got != *expected {
            return Err(damaged(name).got(got).needed(expected));
        }
    }
    let weights = AdapterFile::open(&directory.join(ADAPTER))?.weights;
    let mut optimizer = AdamW::new(options, &weights);
    optimizer.n_updates = file.state.n_updates;
    let needed = 2 * 4 * weights.n_parameters();
    if moments.len() != needed {
        return Err(damaged(MOMENTS).got(format!("{} bytes", moments.len())).needed(format!("{needed} bytes")));
    }
    let mut values = moments.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    let slots = optimizer.first.tensors_mut().chain(optimizer.second.tensors_mut()).flatten();
    slots.zip(&mut values).for_each(|(slot, value)| *slot = value);
    Ok(Checkpoint { state: file.state, weights, optimizer })
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes renames and new names in a directory last beyond a power cut, where the system can.
fn sync_directory(directory: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::io("cannot write checkpoint", directory, source))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{LoraConfig, LoraGrads, Target};

    fn run() -> RunIdentity {
        RunIdentity {
            base_model: "model".into(),
            architecture: "qwen3vl".into(),
            dataset: "data".into(),
            config: serde_json::json!({"rank": 2, "learning_rate": 0.1}),
            seed: 7,
        }
    }

    fn checkpoint(step: u64) -> Checkpoint {
        let tensors = [("blk.0.attn_q.weight".to_owned(), 8, 4)];
        let config = LoraConfig { rank: 2, alpha: 4.0, targets: [Target::Q].into(), ..LoraConfig::default() };
        let mut weights = LoraWeights::init(&config, &tensors, step).expect("valid");
        let mut optimizer = AdamW::new(AdamWOptions::default(), &weights);
        let mut grads = LoraGrads::zeros(&weights);
        grads.tensors_mut().for_each(|tensor| tensor.fill(0.1));
        optimizer.step(&mut weights, &grads, 0.01);
        let state = TrainState { run: run(), step, epoch: 1, position: 5, n_updates: 1, metrics_bytes: 99 };
        Checkpoint { state, weights, optimizer }
    }

    fn save(store: &CheckpointStore, step: u64) -> PathBuf {
        let Checkpoint { state, weights, optimizer } = checkpoint(step);
        store.save(&state, &weights, &optimizer).expect("written")
    }

    fn newest(store: &CheckpointStore) -> Option<Checkpoint> {
        store.load_newest(&run(), AdamWOptions::default()).expect("readable")
    }

    #[test]
    fn the_newest_comes_back_to_the_bit_and_old_ones_go() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let store = CheckpointStore::open(&folder.path().join("checkpoints"), 2).expect("created");
        assert_eq!(newest(&store), None);
        fs::create_dir(folder.path().join("checkpoints/.part-killed")).expect("created");
        for step in [1, 2, 30] {
            save(&store, step);
        }
        save(&store, 30);
        assert_eq!(newest(&store), Some(checkpoint(30)));
        let steps: Vec<u64> = store.list().expect("readable").into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [2, 30]);
        assert_eq!(fs::read_dir(folder.path().join("checkpoints")).expect("readable").count(), 2);
    }

    #[test]
    fn damaged_checkpoints_are_passed_over() {
        let folder = tempfile::tempdir().expect("temporary directory");
        for name in [ADAPTER, MOMENTS, STATE] {
            let store = CheckpointStore::open(folder.path(), 5).expect("created");
            save(&store, 1);
            let damaged = save(&store, 2).join(name);
            let mut bytes = fs::read(&damaged).expect("readable");
            bytes.truncate(bytes.len() / 2);
            fs::write(&damaged, bytes).expect("writable");
            assert_eq!(newest(&store), Some(checkpoint(1)), "{name}");
            fs::remove_file(&damaged).expect("removable");
            assert_eq!(newest(&store), Some(checkpoint(1)), "{name}");
        }
    }

    #[test]
    fn a_run_that_fell_back_keeps_what_it_writes() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let store = CheckpointStore::open(folder.path(), 2).expect("created");
        save(&store, 10);
        let damaged = save(&store, 20);
        fs::write(damaged.join(STATE), "{").expect("writable");
        assert_eq!(newest(&store), Some(checkpoint(10)));
        assert_eq!(store.later_than(10).expect("readable"), [damaged]);
        let store = CheckpointStore::open(folder.path(), 1).expect("created");
        let saved = save(&store, 13);
        assert_eq!(store.list().expect("readable"), [(13, saved)]);
        assert_eq!(newest(&store), Some(checkpoint(13)));
    }

    #[test]
    fn checkpoints_of_other_runs_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let store = CheckpointStore::open(folder.path(), 1).expect("created");
        let path = save(&store, 1);
        for (other, reason) in [
            (RunIdentity { base_model: "other".into(), ..run() }, "base model"),
            (RunIdentity { dataset: "other".into(), ..run() }, "data set"),
            (RunIdentity { config: serde_json::json!({"rank": 4}), ..run() }, "configuration"),
            (RunIdentity { seed: 8, ..run() }, "seed"),
        ] {
            let error = store.load_newest(&other, AdamWOptions::default()).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            assert!(error.to_string().contains(reason), "{error}");
        }
        let state = path.join(STATE);
        let newer = fs::read_to_string(&state).expect("readable").replace("\"version\": 1", "\"version\": 2");
        fs::write(&state, newer).expect("writable");
        let error = store.load_newest(&run(), AdamWOptions::default()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}
