//! What `owlet adapt` and `owlet demo` share: the loop around the trainer, its display, and results before and after.

use std::{fs, io::Write as _, path::Path};

use indicatif::ProgressBar;
use owlet::{
    AtomicFile, CancelToken, CheckpointStore, Dataset, Error, ErrorKind, Evaluation, MetricsFile, StepEvent,
    StepMetrics, Trainer,
};

use super::{
    failure::{Result, Teach},
    output::{Output, table},
};
use crate::report::TaskResult;

/// Checkpoints that are kept; the one before the newest serves where the newest is damaged.
const KEPT_CHECKPOINTS: usize = 2;
/// Greedy answers of the untrained model, for resumed runs.
const BEFORE: &str = "before.json";

/// The folder that a run can be resumed from.
pub(crate) struct RunFolder {
    store: CheckpointStore,
    metrics: MetricsFile,
    /// Steps, at least 1.
    checkpoint_every: u64,
}

impl RunFolder {
    /// Opens `directory` and puts `trainer` where the newest checkpoint in it stands, if there is one.
    pub(crate) fn open(directory: &Path, trainer: &mut Trainer, checkpoint_every: u64) -> Result<Self> {
        let store = CheckpointStore::open(directory, KEPT_CHECKPOINTS)?;
        let metrics_bytes = trainer
            .resume(&store)
            .hint(ErrorKind::Mismatch, "repeat the command of the first run exactly, with `--resume` added")?;
        let metrics = MetricsFile::open(&directory.join("metrics.jsonl"), metrics_bytes.unwrap_or(0))?;
        Ok(Self { store, metrics, checkpoint_every: checkpoint_every.max(1) })
    }

    fn checkpoint(&self, trainer: &Trainer) -> Result<()> {
        Ok(trainer.checkpoint(&self.store, self.metrics.n_bytes())?)
    }
}

/// Makes `directory` and refuses to mix a new run into the checkpoints of another one.
pub(crate) fn ensure_new(directory: &Path, resume: bool) -> Result<()> {
    if CheckpointStore::open(directory, KEPT_CHECKPOINTS)?.list()?.is_empty() || resume {
        return Ok(());
    }
    let error = Error::new(ErrorKind::InvalidInput, "the folder holds checkpoints of an earlier run");
    Err(error.at(directory.display()))
        .hint(ErrorKind::InvalidInput, "go on from them with `--resume`, or name another `--checkpoint-dir`")
}

/// Answers of the model as it was before the run in `directory`: from the file there, or asked now and kept.
pub(crate) fn answers_before(
    trainer: &mut Trainer,
    held_out: &Dataset,
    directory: &Path,
    cancel: &CancelToken,
    output: Output,
) -> Result<Evaluation> {
    let path = directory.join(BEFORE);
    let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Evaluation>(&bytes).ok());
    let ids = || held_out.samples().iter().map(|sample| &sample.id);
    if let Some(kept) = kept.filter(|kept| kept.answers.iter().map(|answer| &answer.id).eq(ids())) {
        return Ok(kept);
    }
    let evaluation = ask(trainer, held_out, "before", cancel, output)?;
    let bytes = serde_json::to_vec(&evaluation).expect("answers are texts and numbers");
    let mut file = AtomicFile::create(&path)?;
    file.write_all(&bytes).map_err(|source| Error::io("cannot write answers", &path, source))?;
    file.commit()?;
    Ok(evaluation)
}

/// Greedy answers of the model as it is now.
pub(crate) fn ask(
    trainer: &mut Trainer,
    held_out: &Dataset,
    when: &'static str,
    cancel: &CancelToken,
    output: Output,
) -> Result<Evaluation> {
    let bar = output.progress(held_out.len() as u64, "answers").with_message(format!("held out, {when}"));
    let evaluation = trainer.evaluate(held_out, cancel, &mut |progress| bar.set_position(progress.n_done as u64));
    bar.finish_and_clear();
    evaluation.hint(ErrorKind::ContextOverflow, "raise `--max-prompt-tokens`, or lower `--max-pixels`")
}

/// Trains to the last step and gives the metrics of the steps that it took. With a folder, metrics are written to it
/// and, from time to time and when cancelled, a checkpoint.
pub(crate) fn train(
    trainer: &mut Trainer,
    mut folder: Option<&mut RunFolder>,
    cancel: &CancelToken,
    output: Output,
) -> Result<Vec<StepMetrics>> {
    let n_steps = trainer.options().n_steps;
    let display = Display::new(n_steps, trainer.n_steps_done(), output);
    let mut all = Vec::new();
    while trainer.n_steps_done() < n_steps {
        let metrics = match (trainer.step(cancel, &mut |event| display.within_step(event)), &folder) {
            (Err(error), Some(folder)) if error.kind() == ErrorKind::Cancelled => {
                folder.checkpoint(trainer)?;
                display.clear();
                let n_done = trainer.n_steps_done();
                let hint = format!("{n_done} steps are kept: the same command with `--resume` goes on from there");
                return Err(error).hint(ErrorKind::Cancelled, hint);
            }
            (done, _) => {
                done.hint(ErrorKind::ContextOverflow, "raise `--max-prompt-tokens`, or lower `--max-pixels`")?
            }
        };
        display.after_step(trainer.n_steps_done(), &metrics);
        if let Some(folder) = &mut folder {
            folder.metrics.append(&metrics)?;
            if trainer.n_steps_done().is_multiple_of(folder.checkpoint_every) || trainer.n_steps_done() == n_steps {
                folder.checkpoint(trainer)?;
            }
        }
        all.push(metrics);
    }
    display.clear();
    Ok(all)
}

/// A bar on a terminal, a line a step elsewhere.
struct Display {
    bar: ProgressBar,
    output: Output,
    n_steps: u64,
}

impl Display {
    fn new(n_steps: u64, n_done: u64, output: Output) -> Self {
        let bar = output.progress(n_steps, "steps");
        bar.set_position(n_done);
        bar.reset_eta();
        Self { bar, output, n_steps }
    }

    fn within_step(&self, event: StepEvent) {
        self.bar.set_prefix(match event {
            StepEvent::Sampling(progress) => format!("answer {}/{}", progress.n_done, progress.n_responses),
            StepEvent::Learning { n_done, n_groups } => format!("learning {n_done}/{n_groups}"),
        });
    }

    fn after_step(&self, n_done: u64, metrics: &StepMetrics) {
        let numbers = format!(
            "reward {:.3}  accuracy {:.2}  length {:.0}  entropy {}  clipped {:.3}  logprob gap {}  {:.0} tok/s",
            metrics.reward,
            metrics.accuracy,
            metrics.length,
            known(metrics.entropy, 2),
            metrics.clip_high + metrics.clip_low,
            known(metrics.logprob_gap, 4),
            metrics.tokens_per_second,
        );
        self.bar.set_position(n_done);
        if self.bar.is_hidden() {
            self.output.say(format_args!("step {n_done}/{}  {numbers}", self.n_steps));
        } else {
            self.bar.set_message(numbers);
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A number that a step without lessons does not have.
fn known(number: Option<f64>, decimals: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

/// Accuracy of every task type, then of all together, before and after.
pub(crate) fn task_results(before: &Evaluation, after: &Evaluation) -> Vec<TaskResult> {
    let after_by_task = after.by_task();
    let mut results: Vec<TaskResult> = before
        .by_task()
        .into_iter()
        .filter_map(|(task, score)| {
            let after = after_by_task.get(&task)?;
            Some(TaskResult { task: task.name().to_owned(), before: score.accuracy, after: after.accuracy })
        })
        .collect();
    let (before, after) = (before.overall().accuracy, after.overall().accuracy);
    results.push(TaskResult { task: "all tasks".to_owned(), before, after });
    results
}

/// The results as text, with the change of the mean reward below.
pub(crate) fn results_table(before: &Evaluation, after: &Evaluation) -> String {
    let heading = ["accuracy", "n", "before", "95 %", "after", "95 %", "change"].map(str::to_owned).to_vec();
    let rows = task_results(before, after).into_iter().map(|result| {
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        let interval = |low: f64, high: f64| format!("{:.0}-{:.0}", 100.0 * low.max(0.0), 100.0 * high.min(1.0));
        vec![
            result.task,
            result.before.n.to_string(),
            percent(result.before.mean),
            interval(result.before.low, result.before.high),
            percent(result.after.mean),
            interval(result.after.low, result.after.high),
            format!("{:+.1}", 100.0 * (result.after.mean - result.before.mean)),
        ]
    });
    let gain = after.reward_gain(before);
    let (first, last) = (before.overall().reward.mean, after.overall().reward.mean);
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    format!(
        "{}mean reward {first:.3} -> {last:.3}, change {:+.3} [{:+.3}, {:+.3}] on the same {} questions\n",
        table(&rows),
        gain.mean,
        gain.low,
        gain.high,
        gain.n
    )
}

/// Opens a data set.
pub(crate) fn open_dataset(path: &Path) -> Result<Dataset> {
    Dataset::open(path)
        .hint(ErrorKind::InvalidFile, "one JSON object a line: problem, images, answer, problem_type, task_type")
}
