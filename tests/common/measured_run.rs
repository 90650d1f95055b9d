//! A training run on one long question, and the anonymous memory that it held: shared by the test of the memory plan and the
//! bench of large shapes.

#[path = "peak.rs"]
mod peak;

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use owlet::{
    CheckpointStore, Dataset, Deadline, Model, ModelOptions, Reward, Sample, Slice, Trainer, TrainerOptions,
    reward::RewardParts,
};

/// Time between two looks at what is finished.
const SLICE: Duration = Duration::from_millis(20);

/// Rewards that are hardly ever all alike, so that every group teaches.
pub(crate) struct Length;

impl Reward for Length {
    fn name(&self) -> &str {
        "length"
    }

    fn score(&self, response: &str, _sample: &Sample) -> owlet::Result<RewardParts> {
        Ok(RewardParts { accuracy: (response.len() % 7) as f64 / 7.0, ..RewardParts::default() })
    }
}

/// What a run took.
pub(crate) struct Measured {
    /// Most anonymous memory of the process, in bytes.
    pub(crate) peak: usize,
    /// Of the steps, loading left out.
    pub(crate) seconds: f64,
    /// Share of answers of the last step that were as long as planned: shorter ones take less.
    pub(crate) whole_answers: f64,
}

/// A data set of one question in `folder`, as long as `options` allow, for models with a token a byte.
pub(crate) fn dataset(folder: &Path, options: &TrainerOptions) -> Dataset {
    let path = folder.join("data.jsonl");
    // The chat's own marks take some of the prompt.
    let question = "owl ".repeat(options.max_prompt_tokens.saturating_sub(24) / 4);
    let row = format!(
        r#"{{"problem":"{question}","answer":"1","problem_type":"numerical","task_type":"math_reasoning","data_type":"image"}}"#
    );
    fs::write(&path, row).expect("a writable folder");
    Dataset::open(&path).expect("a good row")
}

/// Trains for `n_steps`, with a checkpoint wherever a part of a step is finished.
pub(crate) fn run(model: &Path, options: &TrainerOptions, n_steps: usize) -> Measured {
    let folder = tempfile::tempdir().expect("a folder");
    let dataset = dataset(folder.path(), options);
    let ((seconds, whole_answers), peak) = peak::watch(|| {
        let load = ModelOptions { n_threads: options.n_threads, ..ModelOptions::default() };
        let model = Model::load(model, &load).expect("loads");
        let mut trainer = Trainer::new(&model, dataset, Arc::new(Length), options.clone()).expect("fits");
        let start = Instant::now();
        let store = CheckpointStore::open(&folder.path().join("checkpoints"), 1).expect("a writable folder");
        let (mut n_done, mut n_parts, mut whole_answers) = (0, 0, 0.0);
        while n_done < n_steps {
            let slice = trainer.step_slice(&Deadline::after(SLICE), &mut |_| ()).expect("learns");
            if let Slice::StepDone(metrics) = slice {
                n_done += 1;
                whole_answers = metrics.truncated;
            }
            if trainer.n_parts_done() != n_parts {
                n_parts = trainer.n_parts_done();
                trainer.checkpoint(&store, 0).expect("a writable folder");
            }
        }
        (start.elapsed().as_secs_f64(), whole_answers)
    });
    Measured { peak, seconds, whole_answers }
}
