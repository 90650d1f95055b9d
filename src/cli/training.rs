//! What `owlet adapt` and `owlet demo` share: the loop around the trainer, its display, and results before and after.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{FormattedDuration, ProgressBar};
use owlet::{
    AtomicFile, CancelToken, CheckpointStore, Dataset, Deadline, Error, ErrorKind, Evaluation, StepEvent, StepMetrics,
    run::{self, AdaptRun, Advice, Begin, RunEvent, RunFolder},
};
use serde::{Deserialize, Serialize};

use super::{
    failure::{Failure, Result, Teach},
    output::{Output, table},
};
use crate::report::TaskResult;

/// Answers of the untrained model, for resumed runs.
const BEFORE: &str = "before.json";
pub(crate) const CONTEXT_HINT: &str = "raise `--max-prompt-tokens`, or lower `--max-pixels`";
const NOTHING_HINT: &str = "name the folder of the first run by `--checkpoint-dir`, or begin anew without `--resume`";

/// As [`owlet::run::open_store`], with help.
pub(crate) fn open_store(directory: &Path, begin: Begin) -> Result<CheckpointStore> {
    run::open_store(directory, begin)
        .hint(ErrorKind::Busy, "wait for it or stop it, or name another `--checkpoint-dir`")
        .hint(ErrorKind::InvalidInput, "go on from them with `--resume`, or name another `--checkpoint-dir`")
        .hint(ErrorKind::NotFound, NOTHING_HINT)
}

/// Adds help where a run cannot go on from its folder.
pub(crate) fn with_resume_hints<T>(resumed: owlet::Result<T>) -> Result<T> {
    resumed
        .hint(ErrorKind::Mismatch, "repeat the command of the first run exactly, with `--resume` added")
        .hint(ErrorKind::NotFound, NOTHING_HINT)
}

/// Tells of checkpoints that were passed over.
pub(crate) fn say_damaged(folder: &RunFolder, output: Output) {
    for path in folder.damaged() {
        output.say(format_args!("warning: a damaged checkpoint is passed over: {}", path.display()));
    }
}

/// What `--resume` stands for.
pub(crate) fn begin(resume: bool) -> Begin {
    if resume { Begin::Resume } else { Begin::Anew }
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
    /// Asks `run`, which has not begun; to resume, takes what the run kept in `directory` if it is of this very run.
    pub(crate) fn answers(
        run: &mut AdaptRun,
        held_out: &Dataset,
        directory: &Path,
        resume: bool,
        cancel: &CancelToken,
        output: Output,
    ) -> Result<Self> {
        let (base_model, config) =
            run.adapter()?.provenance.map(|file| (file.base_model, file.config)).unwrap_or_default();
        let kept = fs::read(directory.join(BEFORE)).ok().filter(|_| resume);
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let is_ours = |kept: &Self| {
            (&kept.held_out[..], &kept.base_model, &kept.config) == (held_out.hash(), &base_model, &config)
        };
        if let Some(kept) = kept.filter(is_ours) {
            return Ok(kept);
        }
        let evaluation = ask(run, held_out, "before", cancel, output)?;
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
    run: &mut AdaptRun,
    held_out: &Dataset,
    when: &'static str,
    cancel: &CancelToken,
    output: Output,
) -> Result<Evaluation> {
    let bar = output.progress(held_out.len() as u64, "answers").with_message(format!("held out, {when}"));
    let evaluation = run.evaluate(held_out, cancel, &mut |progress| bar.set_position(progress.n_done as u64));
    bar.finish_and_clear();
    evaluation.hint(ErrorKind::ContextOverflow, CONTEXT_HINT)
}

/// Works to the last step and gives the metrics of the steps that this process took. A run with a folder gets a checkpoint
/// when it is stopped or fails.
pub(crate) fn train(run: &mut AdaptRun, cancel: &CancelToken, output: Output) -> Result<Vec<StepMetrics>> {
    let mut display = Display::new(run.trainer().options().n_steps, run.n_steps_done(), output);
    let mut all = Vec::new();
    let deadline = Deadline::never().or_cancelled(cancel);
    loop {
        let advanced = run.advance(&deadline, &mut |event| match event {
            RunEvent::Working(event) => display.within_step(event),
            RunEvent::StepDone(metrics) => {
                display.after_step(&metrics);
                all.push(*metrics);
            }
            RunEvent::Advice(advice) => display.say(told(advice)),
            RunEvent::Checkpoint { .. } => {}
        });
        let is_done = advanced.and_then(|is_done| if is_done { Ok(true) } else { cancel.check().map(|()| false) });
        match is_done {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                display.clear();
                let (n_done, has_folder) = (run.n_steps_done(), run.folder().is_some());
                let keep = || run.checkpoint_now(&mut |_| {}).map(|()| run.trainer().n_parts_done());
                return Err(stopped(error, n_done, has_folder.then_some(keep)));
            }
        }
    }
    display.clear();
    Ok(all)
}

/// Why a step ended early, after a checkpoint of what was done before: `keep` writes it, and gives the finished parts of the
/// step under way in it.
pub(crate) fn stopped(error: Error, n_done: u64, keep: Option<impl FnOnce() -> owlet::Result<usize>>) -> Failure {
    let was_cancelled = error.kind() == ErrorKind::Cancelled;
    let was_too_long = error.kind() == ErrorKind::ContextOverflow;
    let mut failure = Failure::from(error);
    if was_too_long {
        failure = failure.with_hint(CONTEXT_HINT);
    }
    match keep {
        // A run that fails at once is repeated with other arguments: a checkpoint would be in its way.
        Some(keep) if n_done > 0 || was_cancelled => failure.with_hint(match keep() {
            Ok(n_parts) => {
                let part = if n_parts > 0 { " and the finished parts of the next one" } else { "" };
                format!("{n_done} steps{part} are kept: the same command with `--resume` goes on from there")
            }
            Err(lost) => format!("the checkpoint of {n_done} steps could not be written: {lost}"),
        }),
        _ => failure,
    }
}

/// Advice as text.
fn told(advice: Advice) -> String {
    match advice {
        Advice::Idle { n_steps, accuracy } => {
            let questions = if accuracy < 0.5 { "easier" } else { "harder" };
            format!(
                "warning: nothing was learned in {n_steps} steps in a row: all answers to a question were equally right or \
                 wrong (accuracy {accuracy:.2})\nhint: take {questions} questions, a higher `--temperature` or a larger \
                 `--group-size`"
            )
        }
        Advice::Skipped { n_steps } => {
            format!("warning: step {n_steps}: gradients were not finite; the adapter stays as it was")
        }
    }
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

    fn after_step(&mut self, metrics: &StepMetrics) {
        let n_done = metrics.step + 1;
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
