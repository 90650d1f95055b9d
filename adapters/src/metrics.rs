//! What a step reports, and the file that keeps it: `metrics.jsonl`, one object a line.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use owlet_runtime::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::task::TaskType;

/// Means over the rollouts of one task type in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskMetrics {
    /// Rollouts.
    pub n_rollouts: usize,
    /// Mean overall reward.
    pub reward: f64,
    /// Mean accuracy.
    pub accuracy: f64,
    /// Mean response length in tokens.
    pub length: f64,
    /// Mean of `-logprob` over the sampled tokens, the paper's entropy, in nats; `null` where no group was trained on.
    pub neg_logprob: Option<f64>,
}

/// The numbers of one training step. All but [`StepMetrics::seconds`] and [`StepMetrics::tokens_per_second`] are the same
/// in a resumed run. What only a learned-from token can tell is `None` in a step that filtered all its groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// From 0.
    pub step: u64,
    /// From 0.
    pub epoch: u64,
    /// Of this step.
    pub learning_rate: f64,
    /// Groups that were trained on.
    pub n_groups: usize,
    /// Groups that were sampled and dropped because all answers were equally right or wrong.
    pub n_filtered: usize,
    /// Mean overall reward of all rollouts, dropped ones included.
    pub reward: f64,
    /// Their mean accuracy.
    pub accuracy: f64,
    /// Their mean format reward.
    pub format: f64,
    /// Their mean length in tokens.
    pub length: f64,
    /// Share of rollouts that were cut at the token limit.
    pub truncated: f64,
    /// Mean absolute advantage of the groups that were trained on.
    pub advantage: f64,
    /// Policy loss, penalties included.
    pub loss: Option<f64>,
    /// Mean of `-logprob` of the sampled tokens in nats.
    pub neg_logprob: Option<f64>,
    /// Mean entropy of the token distributions in nats.
    pub entropy: Option<f64>,
    /// Share of tokens whose ratio was clipped, at either bound; the reference's `pg_clipfrac_higher`.
    pub clipped: f64,
    /// Share of tokens that the dual clip stopped; the reference's `pg_clipfrac_lower`.
    pub dual_clipped: f64,
    /// Mean of `old_logprob - logprob`.
    pub old_kl: f64,
    /// Mean KL estimate against the base; 0 where there is no penalty.
    pub reference_kl: f64,
    /// Mean absolute difference between the engine's and the sampler's log-probabilities.
    pub logprob_gap: Option<f64>,
    /// Largest global norm of the gradients before clipping; `null` where no update was applied.
    pub grad_norm: Option<f64>,
    /// Whether there were updates and all of them were applied.
    pub applied: bool,
    /// Updates that were skipped because their gradients were not finite.
    pub skipped_updates: usize,
    /// The same by task type.
    pub tasks: BTreeMap<TaskType, TaskMetrics>,
    /// Wall clock of the step.
    pub seconds: f64,
    /// Sampled tokens a second over the whole step.
    pub tokens_per_second: f64,
}

/// `metrics.jsonl`, appended line by line.
#[derive(Debug)]
pub struct MetricsFile {
    file: File,
    path: PathBuf,
    n_bytes: u64,
}

impl MetricsFile {
    /// Opens or creates `path` and cuts it to `n_bytes`, the position of a checkpoint (0 for a new run): lines that
    /// were written after the checkpoint are written again by the resumed run.
    ///
    /// A file that is shorter, after a power cut or a copy without it, does not stop a run: its whole lines are kept, the
    /// new ones follow, and a warning says so.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(path: &Path, n_bytes: u64) -> Result<Self> {
        let failed = |source| Error::io("cannot open metrics", path, source);
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let n_bytes = if length < n_bytes {
            tracing::warn!(path = %path.display(), length, n_bytes, "metrics of some steps are lost: the file is too short");
            whole_lines(&mut file).map_err(failed)?
        } else {
            n_bytes
        };
        file.set_len(n_bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), n_bytes })
    }

    /// Waits until all lines are on the disk. To be called before a checkpoint that counts on them.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| Error::io("cannot write metrics", &self.path, source))
    }

    /// Appends the numbers of a step as one line.
    ///
    /// # Errors
    /// `Io`; the file is then as before, and the call may be repeated.
    pub fn append(&mut self, metrics: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(metrics).expect("numbers and names are always JSON");
        line.push(b'\n');
        if let Err(source) = self.file.write_all(&line) {
            // A full disk may have taken half of the line: the next attempt begins where this one did.
            let _ = self.file.set_len(self.n_bytes).and_then(|()| self.file.seek(SeekFrom::Start(self.n_bytes)));
            return Err(Error::io("cannot write metrics", &self.path, source));
        }
        self.n_bytes += line.len() as u64;
        Ok(())
    }

    /// Length so far, to be stored in a checkpoint.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

/// Length of the lines of `file` that end.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last as u64 + 1))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(step: u64) -> StepMetrics {
        StepMetrics { step, grad_norm: Some(0.5), ..StepMetrics::default() }
    }

    fn steps(path: &Path) -> Vec<StepMetrics> {
        let text = fs::read_to_string(path).expect("readable");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn a_file_that_lost_lines_goes_on_after_those_it_has() {
        let folder = tempfile::tempdir().expect("temporary directory");
        for (lost, kept) in [(1, 1), (0, 2), (u64::MAX, 0)] {
            let path = folder.path().join(format!("{kept}.jsonl"));
            let mut file = MetricsFile::open(&path, 0).expect("created");
            (0..2).for_each(|step| file.append(&line(step)).expect("written"));
            let length = file.n_bytes();
            file.file.set_len(length.saturating_sub(lost)).expect("cut");
            let mut file = MetricsFile::open(&path, length + 1).expect("opened");
            file.append(&line(9)).expect("written");
            let expected: Vec<_> = (0..kept).chain([9]).map(line).collect();
            assert_eq!(steps(&path), expected);
            assert_eq!(fs::metadata(&path).expect("there").len(), file.n_bytes());
        }
    }

    #[test]
    fn a_resumed_file_continues_at_the_checkpoint() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).expect("created");
        file.append(&line(0)).expect("written");
        let position = file.n_bytes();
        file.append(&line(1)).expect("written");
        drop(file);
        let mut file = MetricsFile::open(&path, position).expect("opened");
        file.append(&line(2)).expect("written");
        file.sync().expect("synced");
        assert_eq!(steps(&path), [line(0), line(2)]);
    }
}
