//! What a step reports, and the file that keeps it: `metrics.jsonl`, one object a line.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use owlet_runtime::{Error, ErrorKind, Result};
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
    /// Mean of `-logprob` over the sampled tokens, the paper's entropy, in nats.
    pub neg_logprob: f64,
}

/// The numbers of one training step. All but [`StepMetrics::seconds`] and [`StepMetrics::tokens_per_second`] are the same
/// in a resumed run.
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
    pub loss: f64,
    /// Mean of `-logprob` of the sampled tokens in nats.
    pub neg_logprob: f64,
    /// Mean entropy of the token distributions in nats.
    pub entropy: f64,
    /// Share of tokens whose ratio was clipped.
    pub clip_high: f64,
    /// Share of tokens that the dual clip stopped.
    pub clip_low: f64,
    /// Mean of `old_logprob - logprob`.
    pub old_kl: f64,
    /// Mean KL estimate against the base; 0 where there is no penalty.
    pub reference_kl: f64,
    /// Mean absolute difference between the engine's and the sampler's log-probabilities.
    pub logprob_gap: f64,
    /// Global norm of the gradients before clipping; `null` where it was not finite.
    pub grad_norm: Option<f64>,
    /// Whether the optimizer step was applied.
    pub applied: bool,
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
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Mismatch`] if the file is shorter than `n_bytes`.
    pub fn open(path: &Path, n_bytes: u64) -> Result<Self> {
        let failed = |source| Error::io("cannot open metrics", path, source);
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length < n_bytes {
            return Err(Error::new(ErrorKind::Mismatch, "the metrics are not those of the checkpoint")
                .at(path.display())
                .got(format!("{length} bytes"))
                .needed(format!("at least {n_bytes} bytes")));
        }
        file.set_len(n_bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), n_bytes })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_vec(metrics).expect("numbers and names are always JSON");
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| Error::io("cannot write metrics", &self.path, source))?;
        self.n_bytes += line.len() as u64;
        Ok(())
    }

    /// Length so far, to be stored in a checkpoint.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_resumed_file_continues_at_the_checkpoint() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("metrics.jsonl");
        let line = |step| StepMetrics { step, grad_norm: Some(0.5), ..StepMetrics::default() };
        let mut file = MetricsFile::open(&path, 0).expect("created");
        file.append(&line(0)).expect("written");
        let position = file.n_bytes();
        file.append(&line(1)).expect("written");
        drop(file);
        let mut file = MetricsFile::open(&path, position).expect("opened");
        file.append(&line(2)).expect("written");
        let text = fs::read_to_string(&path).expect("readable");
        let steps: Vec<StepMetrics> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(steps, [line(0), line(2)]);
        let error = MetricsFile::open(&path, 1 << 20).expect_err("too short");
        assert_eq!(error.kind(), ErrorKind::Mismatch);
    }
}
