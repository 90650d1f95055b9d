//! What `owlet tune` and `owlet recover` share: their arguments, the loop around the tuner, and the comparison of before
//! and after.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use owlet::{
    CancelToken, Dataset, ErrorKind, Fit, Model, Precision, Responses, TuneEvent, TuneMetrics, TuneObjective,
    TuneOptions, Tuner, Who,
    loss::Average,
    run::{CheckpointPace, RunFolder},
    tune::{FitChange, Quantity},
};
use serde::Serialize;

use super::{
    adapter::{LoraArgs, ScheduleArgs},
    failure::{Result, Teach},
    model::ModelArgs,
    output::{Output, ensure_distinct, ensure_writable, table},
    training::{CONTEXT_HINT, begin, open_store, say_damaged, stopped, with_resume_hints},
};

/// Arguments of supervised training.
#[derive(Args, Debug)]
pub(crate) struct TuningArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Training data: JSONL or JSON with problem, images, answer, problem_type and task_type
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// The adapter to write, a GGUF that llama.cpp loads
    #[arg(long, short, value_name = "GGUF")]
    out: PathBuf,
    /// Folder of checkpoints and metrics.jsonl [default: that of --out, ending in .checkpoints]
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// Steps from one checkpoint to the next
    #[arg(long, default_value_t = 10, value_name = "N")]
    checkpoint_every: u64,
    /// Go on from the last checkpoint, to the same result as without a break
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    steps: StepArgs,
    #[command(flatten)]
    lora: LoraArgs,
    /// Print the results as one JSON document
    #[arg(long)]
    json: bool,
}

/// The training loop.
#[derive(Args, Debug)]
#[command(next_help_heading = "Training")]
struct StepArgs {
    /// Steps: one update of the adapter each
    #[arg(long, default_value_t = 100, value_name = "N")]
    steps: u64,
    /// Samples of an update; their gradients are added up (gradient accumulation), memory holds one at a time
    #[arg(long, default_value_t = 8, value_name = "N")]
    batch_size: usize,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Longest response, in tokens
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_tokens: usize,
    /// Longest question, in tokens, pictures included
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_prompt_tokens: usize,
    /// Text behind every question [default: think first, then answer, in tags]
    #[arg(long, value_name = "TEXT")]
    suffix: Option<String>,
    /// What the loss is the mean of: all tokens of an update, or its responses
    #[arg(long, default_value = "token", value_name = "NAME", value_parser = ["token", "seq"])]
    average: String,
    /// The same seed gives the same adapter
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    adapter: PathBuf,
    n_steps: u64,
    /// Updates that this process skipped because loss or gradients were not finite.
    n_skipped: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_step: Option<TuneMetrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<HeldOut>,
}

/// The same held-out responses before and after.
#[derive(Debug, Serialize)]
struct HeldOut {
    n_samples: usize,
    n_tokens: usize,
    /// Mean of KL(teacher || model) over the tokens of a response, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    kl: Option<FitChange>,
    /// Share of the tokens where teacher and model find the same token most probable.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<FitChange>,
    /// Mean of `-logprob` over the tokens of a response, in nats.
    neg_logprob: Option<FitChange>,
}

impl HeldOut {
    fn of(before: &Fit, after: &Fit) -> Self {
        Self {
            n_samples: after.samples.len(),
            n_tokens: after.samples.iter().map(|sample| sample.n_tokens).sum(),
            kl: after.change(before, Quantity::Kl),
            agreement: after.change(before, Quantity::Agreement),
            neg_logprob: after.change(before, Quantity::NegLogprob),
        }
    }

    fn table(&self) -> String {
        let title = format!("{} held-out responses", self.n_samples);
        let heading = [&title, "before", "after", "change", "95 %"].map(str::to_owned).to_vec();
        let row = |name: &str, change: &FitChange, scale: f64, decimals: usize| {
            let number = |value: f64| format!("{:.decimals$}", scale * value);
            let signed = |value: f64| format!("{:+.decimals$}", scale * value);
            let FitChange { before, after, change } = change;
            let interval = format!("{} to {}", signed(change.low), signed(change.high));
            vec![name.to_owned(), number(before.mean), number(after.mean), signed(change.mean), interval]
        };
        let rows = [
            self.kl.map(|change| row("KL from the teacher, nats", &change, 1.0, 4)),
            self.agreement.map(|change| row("same best token, %", &change, 100.0, 2)),
            self.neg_logprob.map(|change| row("-logprob, nats", &change, 1.0, 4)),
        ];
        table(&std::iter::once(heading).chain(rows.into_iter().flatten()).collect::<Vec<_>>())
    }
}

impl TuningArgs {
    pub(crate) fn options(&self, objective: TuneObjective, responses: Responses) -> TuneOptions {
        let defaults = TuneOptions::default();
        TuneOptions {
            seed: self.steps.seed,
            n_steps: self.steps.steps,
            batch_size: self.steps.batch_size,
            max_response_tokens: self.steps.max_tokens,
            max_prompt_tokens: self.steps.max_prompt_tokens,
            suffix: self.steps.suffix.clone().unwrap_or(defaults.suffix),
            objective,
            responses,
            average: if self.steps.average == "seq" { Average::Seq } else { Average::Token },
            lora: self.lora.config(),
            schedule: self.steps.schedule.schedule(),
            max_skipped_updates: self.steps.schedule.max_skipped_updates(),
            n_threads: self.model.threads,
            prefix_cache: self.lora.prefix_cache(),
            ..defaults
        }
    }

    /// Fails where the adapter could not be written, or would take the place of another file of the command.
    pub(crate) fn ensure_files(&self, others: &[Option<&Path>]) -> Result<()> {
        let directory = self.directory();
        let ours = self.model.files().chain([&*self.data, &*directory]).chain(self.lora.from());
        ensure_distinct(&self.out, ours.chain(others.iter().copied().flatten()))?;
        ensure_writable(&self.out)
    }

    /// The tuner, and help where a sample is too long for it.
    pub(crate) fn tuner(
        &self,
        model: &Model,
        teacher: Option<&Model>,
        data: Dataset,
        options: TuneOptions,
    ) -> Result<Tuner> {
        with_length_hints(Tuner::new(model, teacher, data, options))
    }

    /// Warns of data that seldom does what its user wants: answers without the thinking that questions ask for, and
    /// held-out samples that are trained on.
    pub(crate) fn warn_of_data(&self, data: &Dataset, held_out: Option<&Dataset>, learns_given: bool, output: Output) {
        let suffix = self.steps.suffix.clone().unwrap_or_else(|| TuneOptions::default().suffix);
        let n_bare = data.samples().iter().filter(|sample| sample.response.is_none()).count();
        if learns_given && n_bare > 0 && suffix.contains("<thinking>") {
            output.say(format_args!(
                "warning: {n_bare} of {} rows have no `response`: their bare answers are learned, though the questions ask \
                 for thinking first\nhint: give every row a `response`, or name another `--suffix`",
                data.len()
            ));
        }
        if held_out.is_some_and(|held_out| held_out.hash() == data.hash()) {
            output.say(
                "warning: `--eval` has the samples of `--data`: what they show is not how well others are predicted",
            );
        }
    }

    fn directory(&self) -> PathBuf {
        self.checkpoint_dir.clone().unwrap_or_else(|| self.out.with_extension("checkpoints"))
    }
}

fn with_length_hints<T>(result: owlet::Result<T>) -> Result<T> {
    result.hint(ErrorKind::ContextOverflow, CONTEXT_HINT).hint(ErrorKind::Limit, "raise `--max-tokens`")
}

/// Trains, writes the adapter and reports.
pub(crate) fn run_tuning(
    args: &TuningArgs,
    mut tuner: Tuner,
    held_out: Option<&Dataset>,
    cancel: &CancelToken,
    output: Output,
) -> Result<()> {
    let directory = args.directory();
    if let Some(start) = args.lora.start()? {
        tuner.start_from(start)?;
    }
    let begin = begin(args.resume);
    let store = open_store(&directory, begin)?;
    let pace = CheckpointPace { n_steps: args.checkpoint_every, time: Duration::MAX };
    let mut folder = with_resume_hints(RunFolder::open(store, &mut tuner, begin, pace))?;
    say_damaged(&folder, output);
    let before = held_out.map(|data| compare(&mut tuner, data, Who::Start, cancel, output)).transpose()?;
    let (last_step, n_skipped) = train(&mut tuner, &mut folder, cancel, output)?;
    tuner.adapter()?.write(&args.out, Precision::F32)?;
    let after = held_out.map(|data| compare(&mut tuner, data, Who::Adapted, cancel, output)).transpose()?;
    let held_out = before.zip(after).map(|(before, after)| HeldOut::of(&before, &after));
    if args.json {
        let (adapter, n_steps) = (args.out.clone(), tuner.n_steps_done());
        return output.json(&Report { adapter, n_steps, n_skipped, last_step, held_out });
    }
    if let Some(held_out) = held_out {
        output.say(held_out.table().trim_end());
    }
    output.line(args.out.display())
}

/// How well held-out responses are predicted.
fn compare(tuner: &mut Tuner, data: &Dataset, who: Who, cancel: &CancelToken, output: Output) -> Result<Fit> {
    let when = match who {
        Who::Base | Who::Start => "held out, before",
        Who::Adapted => "held out, after",
    };
    let bar = output.progress(data.len() as u64, "responses").with_message(when);
    let fit = tuner.fit(data, who, cancel, &mut |n_done| bar.set_position(n_done as u64));
    bar.finish_and_clear();
    with_length_hints(fit)
}

/// Trains to the last step; gives the metrics of the last one that this process took, and how many updates it skipped.
fn train(
    tuner: &mut Tuner,
    folder: &mut RunFolder,
    cancel: &CancelToken,
    output: Output,
) -> Result<(Option<TuneMetrics>, usize)> {
    let n_steps = tuner.options().n_steps;
    let bar = output.step_progress(n_steps);
    bar.set_position(tuner.n_steps_done());
    let (mut last, mut n_skipped) = (None, 0);
    while tuner.n_steps_done() < n_steps {
        let step = tuner.step(cancel, &mut |event| {
            bar.set_prefix(match event {
                TuneEvent::Answering { n_done, n_samples } => format!("teacher's answer {n_done}/{n_samples}"),
                TuneEvent::Learning { n_done, n_samples } => format!("learning {n_done}/{n_samples}"),
            });
        });
        let metrics = match step {
            Ok(metrics) => metrics,
            Err(error) => {
                bar.finish_and_clear();
                let keep = || folder.checkpoint(tuner).map(|()| 0);
                return Err(stopped(error, tuner.n_steps_done(), Some(keep)));
            }
        };
        folder.after_step(tuner, &metrics, n_steps)?;
        let n_done = tuner.n_steps_done();
        if !metrics.applied {
            n_skipped += 1;
            let warning = format!("warning: step {n_done}: gradients were not finite; the adapter stays as it was");
            bar.suspend(|| output.say(warning));
        }
        bar.set_position(n_done);
        if bar.is_hidden() {
            output.say(format_args!("step {n_done}/{n_steps}  {}", numbers(&metrics)));
        } else {
            bar.set_message(numbers(&metrics));
        }
        last = Some(metrics);
    }
    bar.finish_and_clear();
    Ok((last, n_skipped))
}

/// The numbers of a step in less than 80 columns.
fn numbers(metrics: &TuneMetrics) -> String {
    let agreement = metrics.agreement.map_or(String::new(), |share| format!("  agreement {:.1} %", 100.0 * share));
    let number = |number: Option<f64>, decimals: usize| {
        number.map_or_else(|| "not finite".to_owned(), |number| format!("{number:.decimals$}"))
    };
    let (loss, norm) = (number(metrics.loss, 4), number(metrics.grad_norm, 3));
    format!(
        "loss {loss}{agreement}  gradient {norm}  rate {:.1e}  {:.0} tok/s",
        metrics.learning_rate, metrics.tokens_per_second
    )
}
