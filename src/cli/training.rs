//! What `owlet adapt` and `owlet demo` share: the loop around the trainer, its display, and results before and after.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{FormattedDuration, ProgressBar};
use owlet::{
    AtomicFile, CancelToken, CheckpointStore, Dataset, Deadline, Error, ErrorKind, Evaluation, MetricsFile, Resumed,
    Slice, StepEvent, StepMetrics, Trainer,
};
use serde::{Deserialize, Serialize};

use super::{
    failure::{Failure, Result, Teach},
    output::{Output, table},
};
use crate::report::TaskResult;

/// Checkpoints that are kept; the one before the newest serves where the newest is damaged.
const KEPT_CHECKPOINTS: usize = 2;
/// Answers of the untrained model, for resumed runs.
const BEFORE: &str = "before.json";
/// Steps in a row without a group to learn from after which advice is given.
const IDLE_STEPS: usize = 5;
pub(crate) const CONTEXT_HINT: &str = "raise `--max-prompt-tokens`, or lower `--max-pixels`";

/// Training that a checkpoint can carry over to another process.
pub(crate) trait Resumable {
    fn resume(&mut self, store: &CheckpointStore) -> owlet::Result<Resumed>;
    fn checkpoint(&self, store: &CheckpointStore, metrics_bytes: u64) -> owlet::Result<()>;
    fn n_steps_done(&self) -> u64;
    /// Finished parts of the step under way.
    fn n_parts_done(&self) -> usize;
}

impl Resumable for Trainer {
    fn resume(&mut self, store: &CheckpointStore) -> owlet::Result<Resumed> {
        Self::resume(self, store)
    }

    fn checkpoint(&self, store: &CheckpointStore, metrics_bytes: u64) -> owlet::Result<()> {
        Self::checkpoint(self, store, metrics_bytes)
    }

    fn n_steps_done(&self) -> u64 {
        Self::n_steps_done(self)
    }

    fn n_parts_done(&self) -> usize {
        Self::n_parts_done(self)
    }
}

/// The folder that a run can be resumed from.
pub(crate) struct RunFolder {
    store: CheckpointStore,
    metrics: MetricsFile,
    pace: CheckpointPace,
    /// Of the last checkpoint, or the beginning.
    saved_at: Instant,
    /// Finished parts of the running step that the last checkpoint has.
    n_parts_saved: usize,
}

/// When checkpoints are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointPace {
    /// After as many steps, at least 1.
    pub(crate) n_steps: u64,
    /// And after as long, within steps too.
    pub(crate) time: Duration,
}

impl RunFolder {
    /// Takes over the folder of `store`; to resume, puts `trainer` where the newest whole checkpoint in it stands.
    pub(crate) fn open(
        store: CheckpointStore,
        trainer: &mut impl Resumable,
        resume: bool,
        pace: CheckpointPace,
        output: Output,
    ) -> Result<Self> {
        let metrics_bytes = if resume { go_on(&store, trainer, output)? } else { 0 };
        let metrics = MetricsFile::open(&store.directory().join("metrics.jsonl"), metrics_bytes)?;
        let n_parts_saved = trainer.n_parts_done();
        Ok(Self { store, metrics, pace, saved_at: Instant::now(), n_parts_saved })
    }

    fn checkpoint(&mut self, trainer: &impl Resumable) -> owlet::Result<()> {
        self.metrics.sync()?;
        trainer.checkpoint(&self.store, self.metrics.n_bytes())?;
        (self.saved_at, self.n_parts_saved) = (Instant::now(), trainer.n_parts_done());
        Ok(())
    }

    /// When the next checkpoint is due by the clock.
    fn deadline(&self) -> Deadline {
        self.saved_at.checked_add(self.pace.time).map_or_else(Deadline::never, Deadline::at)
    }

    /// Appends the numbers of a step that is done; from time to time and after the last step, writes a checkpoint.
    pub(crate) fn after_step(
        &mut self,
        trainer: &impl Resumable,
        metrics: &impl Serialize,
        n_steps: u64,
    ) -> owlet::Result<()> {
        self.metrics.append(metrics)?;
        self.n_parts_saved = 0;
        let n_done = trainer.n_steps_done();
        let is_due = n_done.is_multiple_of(self.pace.n_steps.max(1)) || n_done == n_steps;
        if is_due || self.deadline().is_over() { self.checkpoint(trainer) } else { Ok(()) }
    }

    /// A checkpoint within a step, where parts were finished since the last one.
    fn within_step(&mut self, trainer: &Trainer) -> owlet::Result<()> {
        if trainer.n_parts_done() > self.n_parts_saved {
            return self.checkpoint(trainer);
        }
        self.saved_at = Instant::now();
        Ok(())
    }
}

/// Resumes, and tells of checkpoints that were passed over; gives the length of the metrics at that time.
fn go_on(store: &CheckpointStore, trainer: &mut impl Resumable, output: Output) -> Result<u64> {
    let resumed = trainer
        .resume(store)
        .hint(ErrorKind::Mismatch, "repeat the command of the first run exactly, with `--resume` added")?;
    for path in resumed.damaged {
        output.say(format_args!("warning: a damaged checkpoint is passed over: {}", path.display()));
    }
    resumed.metrics_bytes.ok_or_else(|| nothing_to_resume(store.directory()))
}

/// Makes `directory` for a new run, and refuses to mix it into the checkpoints of another one; to resume, demands some.
/// The folder is this process's own from then on.
pub(crate) fn open_store(directory: &Path, resume: bool) -> Result<CheckpointStore> {
    if resume && !directory.is_dir() {
        return Err(nothing_to_resume(directory));
    }
    let store = CheckpointStore::open(directory, KEPT_CHECKPOINTS)
        .hint(ErrorKind::Busy, "wait for it or stop it, or name another `--checkpoint-dir`")?;
    match (resume, store.list()?.is_empty()) {
        (true, true) => Err(nothing_to_resume(directory)),
        (true, false) | (false, true) => Ok(store),
        (false, false) => {
            let error = Error::new(ErrorKind::InvalidInput, "the folder holds checkpoints of an earlier run");
            Err(error.at(directory.display()))
                .hint(ErrorKind::InvalidInput, "go on from them with `--resume`, or name another `--checkpoint-dir`")
        }
    }
}

fn nothing_to_resume(directory: &Path) -> Failure {
    Failure::from(Error::new(ErrorKind::NotFound, "no checkpoint to go on from").at(directory.display()))
        .with_hint("name the folder of the first run by `--checkpoint-dir`, or begin anew without `--resume`")
}

/// Greedy answers of the model as it was before a run, and what they are the answers of.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Before {
    /// Hash of the held-out data.
    held_out: String,
    /// Hash of the base model.
    base_model: String,
    /// All options of the run, as its adapter has them.
    config: String,
    /// The answers.
    pub(crate) evaluation: Evaluation,
}

impl Before {
    /// Asks `trainer`, which has not begun; to resume, takes what the run kept in `directory` if it is of this very run.
    pub(crate) fn answers(
        trainer: &mut Trainer,
        held_out: &Dataset,
        directory: &Path,
        resume: bool,
        cancel: &CancelToken,
        output: Output,
    ) -> Result<Self> {
        let (base_model, config) =
            trainer.adapter()?.provenance.map(|run| (run.base_model, run.config)).unwrap_or_default();
        let kept = fs::read(directory.join(BEFORE)).ok().filter(|_| resume);
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let is_ours = |kept: &Self| {
            (&kept.held_out[..], &kept.base_model, &kept.config) == (held_out.hash(), &base_model, &config)
        };
        if let Some(kept) = kept.filter(is_ours) {
            return Ok(kept);
        }
        let evaluation = ask(trainer, held_out, "before", cancel, output)?;
        Ok(Self { held_out: held_out.hash().to_owned(), base_model, config, evaluation })
    }

    /// Keeps the answers for the run that goes on from `directory`.
    pub(crate) fn keep(&self, directory: &Path) -> Result<()> {
        let path = directory.join(BEFORE);
        let bytes = serde_json::to_vec(self).expect("answers are texts and numbers");
        let mut file = AtomicFile::create(&path)?;
        file.write_all(&bytes).map_err(|source| Error::io("cannot write answers", &path, source))?;
        Ok(file.commit()?)
    }
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
    evaluation.hint(ErrorKind::ContextOverflow, CONTEXT_HINT)
}

/// Trains to the last step and gives the metrics of the steps that it took. With a folder, metrics are written to it
/// and, from time to time and when a step is stopped or fails, a checkpoint.
pub(crate) fn train(
    trainer: &mut Trainer,
    mut folder: Option<&mut RunFolder>,
    cancel: &CancelToken,
    output: Output,
) -> Result<Vec<StepMetrics>> {
    let n_steps = trainer.options().n_steps;
    let mut display = Display::new(n_steps, trainer.n_steps_done(), output);
    let mut all = Vec::new();
    let mut n_idle = 0;
    while trainer.n_steps_done() < n_steps {
        let deadline = folder.as_ref().map_or_else(Deadline::never, |folder| folder.deadline()).or_cancelled(cancel);
        let slice = trainer.step_slice(&deadline, &mut |event| display.within_step(event));
        let metrics = match slice {
            // Kept even if the run is to stop: the trainer is past this step and does not tell its numbers again.
            Ok(Slice::StepDone(metrics)) => *metrics,
            pending => {
                if let Err(error) = pending.and_then(|_| cancel.check()) {
                    display.clear();
                    return Err(stopped(error, trainer, folder));
                }
                if let Some(folder) = &mut folder {
                    folder.within_step(trainer)?;
                }
                continue;
            }
        };
        display.after_step(trainer.n_steps_done(), &metrics);
        n_idle = if metrics.n_groups == 0 { n_idle + 1 } else { 0 };
        if n_idle == IDLE_STEPS {
            display.say(idle_advice(&metrics));
        }
        if metrics.skipped_updates > 0 {
            display.say(format_args!(
                "warning: step {}: gradients were not finite; the adapter stays as it was",
                trainer.n_steps_done()
            ));
        }
        if let Some(folder) = &mut folder {
            folder.after_step(trainer, &metrics, n_steps)?;
        }
        all.push(metrics);
    }
    display.clear();
    Ok(all)
}

/// Why a step ended early, after a checkpoint of what was done before.
pub(crate) fn stopped(error: Error, trainer: &impl Resumable, folder: Option<&mut RunFolder>) -> Failure {
    let (n_done, was_cancelled) = (trainer.n_steps_done(), error.kind() == ErrorKind::Cancelled);
    let was_too_long = error.kind() == ErrorKind::ContextOverflow;
    let mut failure = Failure::from(error);
    if was_too_long {
        failure = failure.with_hint(CONTEXT_HINT);
    }
    match folder {
        // A run that fails at once is repeated with other arguments: a checkpoint would be in its way.
        Some(folder) if n_done > 0 || was_cancelled => failure.with_hint(match folder.checkpoint(trainer) {
            Ok(()) => {
                let part = if trainer.n_parts_done() > 0 { " and the finished parts of the next one" } else { "" };
                format!("{n_done} steps{part} are kept: the same command with `--resume` goes on from there")
            }
            Err(lost) => format!("the checkpoint of {n_done} steps could not be written: {lost}"),
        }),
        _ => failure,
    }
}

/// What may help where all answers to each question are equally right or wrong.
fn idle_advice(metrics: &StepMetrics) -> String {
    let questions = if metrics.accuracy < 0.5 { "easier" } else { "harder" };
    format!(
        "warning: nothing was learned in {IDLE_STEPS} steps in a row: all answers to a question were equally right or \
         wrong (accuracy {:.2})\nhint: take {questions} questions, a higher `--temperature` or a larger `--group-size`",
        metrics.accuracy
    )
}

/// A bar on a terminal, a line a step elsewhere.
struct Display {
    bar: ProgressBar,
    output: Output,
    n_steps: u64,
    /// Steps of the run before this process.
    n_before: u64,
    started: Instant,
    /// Speed and time left, once a step is done.
    pace: String,
}

impl Display {
    fn new(n_steps: u64, n_done: u64, output: Output) -> Self {
        let bar = output.step_progress(n_steps);
        bar.set_position(n_done);
        Self { bar, output, n_steps, n_before: n_done, started: Instant::now(), pace: String::new() }
    }

    fn within_step(&self, event: StepEvent) {
        let stage = match event {
            StepEvent::Sampling(progress) => format!("answer {}/{}", progress.n_done, progress.n_responses),
            StepEvent::Learning { n_done, n_groups } => format!("learning {n_done}/{n_groups}"),
        };
        self.bar.set_prefix(format!("{}{stage}", self.pace));
    }

    fn after_step(&mut self, n_done: u64, metrics: &StepMetrics) {
        let left = time_left(self.started.elapsed(), n_done - self.n_before, self.n_steps - n_done);
        let pace = pace(metrics, left);
        self.bar.set_position(n_done);
        if self.bar.is_hidden() {
            self.output.say(format_args!("step {n_done}/{}  {}  {pace}", self.n_steps, numbers(metrics)));
        } else {
            self.bar.set_message(numbers(metrics));
        }
        self.pace = format!("{pace}  ");
        self.bar.set_prefix(self.pace.clone());
    }

    fn say(&self, text: impl std::fmt::Display) {
        self.bar.suspend(|| self.output.say(text));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// At the mean pace of the steps that this process did.
fn time_left(elapsed: Duration, n_done: u64, n_left: u64) -> Duration {
    let seconds = elapsed.as_secs_f64() / n_done.max(1) as f64 * n_left as f64;
    Duration::try_from_secs_f64(seconds.round()).unwrap_or(Duration::MAX)
}

fn pace(metrics: &StepMetrics, left: Duration) -> String {
    format!("{:.0} tok/s  {} left", metrics.tokens_per_second, FormattedDuration(left))
}

/// The numbers of a step in less than 80 columns.
fn numbers(metrics: &StepMetrics) -> String {
    format!(
        "reward {:.3}  acc {:.2}  len {:.0}  entropy {}  clip {:.3}  logp gap {}",
        metrics.reward,
        metrics.accuracy,
        metrics.length,
        known(metrics.entropy, 2),
        metrics.clipped + metrics.dual_clipped,
        known(metrics.logprob_gap, 4),
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_step_fit_a_terminal_of_80_columns() {
        let metrics = StepMetrics {
            reward: -0.512,
            accuracy: 1.0,
            length: 4096.0,
            entropy: Some(10.25),
            clipped: 1.0,
            logprob_gap: Some(12.3456),
            tokens_per_second: 12345.0,
            ..StepMetrics::default()
        };
        let numbers = numbers(&metrics);
        assert!(numbers.len() <= 80, "{} columns: {numbers}", numbers.len());
        for name in ["reward -0.512", "len 4096", "entropy 10.25", "clip 1.000", "logp gap 12.3456"] {
            assert!(numbers.contains(name), "{numbers}");
        }
        // As the template has it: the bar, the steps, the pace, the stage.
        let pace = pace(&metrics, Duration::from_secs(45_296));
        assert_eq!(pace, "12345 tok/s  12:34:56 left");
        let line = format!("{:16} 1000/1000 steps  {pace}  answer 1024/1024", "");
        assert!(line.len() <= 80, "{} columns: {line}", line.len());
    }

    #[test]
    fn time_left_is_that_of_the_steps_done_here() {
        let seconds = Duration::from_secs;
        for (elapsed, n_done, n_left, expected) in [(30, 3, 7, 70), (30, 3, 0, 0), (0, 0, 5, 0)] {
            assert_eq!(time_left(seconds(elapsed), n_done, n_left), seconds(expected));
        }
        assert_eq!(time_left(seconds(30), 1, u64::MAX), Duration::MAX);
    }
}
