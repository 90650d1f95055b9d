//! `owlet adapt`: teaches a model from answers that can be checked; before and after, it is asked on held-out data.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use owlet::{
    Answer, AtomicFile, EntropyBand, Error, ErrorKind, Evaluation, Interval, LengthEnvelope, LoraWeights, Precision,
    Score, StepMetrics, TaskType, Trainer, TrainerOptions, VerifiableReward,
    reward::Composition,
    run::{AdaptRun, CheckpointPace},
};
use serde::Serialize;

use super::{
    adapter::{LoraArgs, ScheduleArgs},
    failure::{Result, Teach as _},
    gate::{PassArgs, Passed, pass},
    interrupt,
    method::MethodArgs,
    model::ModelArgs,
    output::{Output, ensure_distinct, ensure_writable},
    training::{
        Before, CONTEXT_HINT, ask, begin, open_dataset, open_store, results_table, say_damaged, train,
        with_resume_hints,
    },
};

/// Train a LoRA adapter over a quantized model from answers that can be checked, by G2RPO or another `--method`
#[derive(Args, Debug)]
pub(crate) struct AdaptArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Training data: JSONL or JSON with problem, images, answer, problem_type and task_type
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Held-out data, answered greedily before and after
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Where every held-out answer goes, before and after: JSON Lines, a question a line
    #[arg(long, requires = "eval", value_name = "FILE")]
    answers: Option<PathBuf>,
    /// The adapter to write, a GGUF that llama.cpp loads
    #[arg(long, short, value_name = "GGUF")]
    out: PathBuf,
    /// Folder of checkpoints and metrics.jsonl [default: that of --out, ending in .checkpoints]
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// Steps from one checkpoint to the next
    #[arg(long, default_value_t = 10, value_name = "N")]
    checkpoint_every: u64,
    /// Seconds after which the finished parts of a long step are kept too
    #[arg(long, default_value_t = 60, value_name = "N")]
    checkpoint_seconds: u64,
    /// Go on from the last checkpoint, to the same result as without a break
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    steps: StepArgs,
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    lora: LoraArgs,
    #[command(flatten)]
    shaping: ShapingArgs,
    #[command(flatten)]
    gate: PassArgs,
    /// Print the results as one JSON document
    #[arg(long)]
    json: bool,
}

/// The training loop.
#[derive(Args, Debug)]
#[command(next_help_heading = "Training")]
struct StepArgs {
    /// Steps: questions are answered, answers are scored, the adapter is updated
    #[arg(long, default_value_t = 100, value_name = "N")]
    steps: u64,
    /// Questions a step, however many are answered at a time; their gradients are added up one question after the other
    /// (gradient accumulation), so an update over more of them takes time and hardly any memory
    #[arg(long, default_value_t = 8, value_name = "N")]
    prompts_per_step: usize,
    /// Answers to each question
    #[arg(long, default_value_t = 8, value_name = "G")]
    group_size: usize,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Temperature of the sampled answers and of the loss
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    temperature: f32,
    /// Longest answer, in tokens
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_tokens: usize,
    /// Longest question, in tokens, pictures included
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_prompt_tokens: usize,
    /// Answers sampled at a time in each session: more is faster and takes more memory
    #[arg(long, default_value_t = 16, value_name = "N")]
    sequences: usize,
    /// Sessions that sample side by side; a small model is fastest with one a thread
    #[arg(long, default_value_t = 1, value_name = "N")]
    sessions: usize,
    /// Keep keys and values of the sampler in F32, without fused attention: a smaller log-prob gap for twice the memory
    #[arg(long)]
    precise_kv: bool,
    /// Most memory of the run beside the mapped weights, such as 1GiB; slower where it is short [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = super::plan::parse_bytes)]
    memory_budget: Option<usize>,
    /// Updates of the adapter a step, each from its share of the questions; clips of ratios act from the second on. An update
    /// has prompts-per-step / updates-per-step questions
    #[arg(long, default_value_t = 1, value_name = "N")]
    updates_per_step: usize,
    /// Leave the longest question in its place; by default it comes first, so that a run that lacks memory ends at once
    #[arg(long)]
    no_largest_first: bool,
    /// Text behind every question [default: think first, then answer, in tags]
    #[arg(long, value_name = "TEXT")]
    suffix: Option<String>,
    /// The same seed gives the same adapter
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

/// What shapes reward and loss beyond right and wrong.
#[derive(Args, Debug)]
#[command(next_help_heading = "Shaping")]
struct ShapingArgs {
    /// Reward answers of a task type for their length in tokens: 0 below A, 1 from B to C, 0 above D; may be repeated
    #[arg(long = "length-envelope", value_name = "TASK_TYPE=A,B,C,D", value_parser = parse_envelope)]
    envelopes: Vec<(TaskType, LengthEnvelope)>,
    /// Share of the reward that length has where there is an envelope
    #[arg(long, default_value_t = 0.1, requires = "envelopes", value_name = "SHARE")]
    length_weight: f64,
    /// Hold every task type's mean -logprob between two numbers of nats, such as 0.2,0.6
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_band)]
    entropy_band: Option<EntropyBand>,
    /// Reward each nat of entropy of the token distributions by this, such as 0.001
    #[arg(long, default_value_t = 0.0, value_name = "WEIGHT")]
    entropy_bonus: f64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    adapter: PathBuf,
    n_steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_step: Option<StepMetrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<HeldOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<Passed>,
}

/// A line of `--answers`: the replies to one question.
#[derive(Debug, Serialize)]
struct AnswerPair<'a> {
    before: &'a Answer,
    after: &'a Answer,
}

/// Greedy answers on the same held-out questions.
#[derive(Debug, Serialize)]
struct HeldOut {
    before: Scores,
    after: Scores,
    /// Mean change of the reward, by pairs.
    reward_gain: Interval,
}

#[derive(Debug, Serialize)]
struct Scores {
    overall: Score,
    by_task: BTreeMap<TaskType, Score>,
}

impl Scores {
    fn of(evaluation: &Evaluation) -> Self {
        Self { overall: evaluation.overall(), by_task: evaluation.by_task() }
    }
}

pub(crate) fn run(args: &AdaptArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    let directory = args.checkpoint_dir.clone().unwrap_or_else(|| args.out.with_extension("checkpoints"));
    let data_files = [Some(&*args.data), args.eval.as_deref(), Some(&*directory), args.lora.from(), args.gate.folder()];
    let inputs = || args.model.files().chain(data_files.into_iter().flatten());
    ensure_distinct(&args.out, inputs())?;
    ensure_writable(&args.out)?;
    if let Some(answers) = &args.answers {
        ensure_distinct(answers, inputs().chain([&*args.out]))?;
        ensure_writable(answers)?;
    }
    let data = open_dataset(&args.data)?;
    let held_out = args.eval.as_deref().map(open_dataset).transpose()?;
    let mut gate = args.gate.open(held_out.as_ref(), output)?;
    let model = args.model.load(&cancel, output)?;
    let start = args.lora.start()?;
    let options = args.trainer_options(start.as_ref())?;
    if let Some(idle) = args.method.idle(options.updates_per_step) {
        output.say(format_args!(
            "warning: without effect: {idle}; new and old probabilities differ from the second update of a step on, \
             and --updates-per-step is 1"
        ));
    }
    let mut trainer = Trainer::new(&model, data, Arc::new(VerifiableReward), options)
        .hint(ErrorKind::ContextOverflow, CONTEXT_HINT)?;
    if let Some(start) = start {
        trainer.start_from(start)?;
    }
    let begin = begin(args.resume);
    let store = open_store(&directory, begin)?;

    let mut run = AdaptRun::new(trainer);
    let before = match &held_out {
        Some(held_out) => Some(Before::answers(&mut run, held_out, &directory, args.resume, &cancel, output)?),
        None => None,
    };
    let pace = CheckpointPace { n_steps: args.checkpoint_every, time: Duration::from_secs(args.checkpoint_seconds) };
    with_resume_hints(run.keep_in(store, begin, pace))?;
    run.folder().into_iter().for_each(|folder| say_damaged(folder, output));
    // Not earlier: a folder that turns out to be of another run keeps its own.
    if let Some(before) = &before {
        before.keep(&directory)?;
    }
    let steps = train(&mut run, &cancel, output)?;
    say_reuse(run.trainer(), output);
    run.write_adapter(&args.out, Precision::F32)?;
    let after = match &held_out {
        Some(held_out) => Some(ask(&mut run, held_out, "after", &cancel, output)?),
        None => None,
    };
    let both = before.map(|before| before.evaluation).zip(after);
    if let (Some(path), Some((before, after))) = (&args.answers, &both) {
        write_answers(path, before, after)?;
    }

    if let Some((before, after)) = both.as_ref().filter(|_| !args.json) {
        output.say(results_table(before, after).trim_end());
    }
    let (options, n_steps) = (run.trainer().options().clone(), run.n_steps_done());
    // Its memory is wanted for the sessions of the gate.
    drop(run);
    let passed = match (&mut gate, &held_out) {
        (Some(gate), Some(held_out)) => Some(pass(gate, &args.out, &model, &options, held_out, &cancel, output)?),
        _ => None,
    };
    if args.json {
        let held_out = both.as_ref().map(|(before, after)| HeldOut {
            before: Scores::of(before),
            after: Scores::of(after),
            reward_gain: after.reward_gain(before),
        });
        let (adapter, last_step) = (args.out.clone(), steps.last().cloned());
        return output.json(&Report { adapter, n_steps, last_step, held_out, gate: passed });
    }
    output.line(args.out.display())
}

/// How often an activated run found keys and values of questions at hand.
fn say_reuse(trainer: &Trainer, output: Output) {
    let sampler = trainer.prompt_stats();
    let Some(engine) = trainer.prefix_stats().filter(|engine| engine.n_computed + engine.n_disk > 0) else { return };
    output.say(format_args!(
        "questions left to the base, computed, in memory and from the folder: sampler {}, {}, {}; engine {}, {}, {}",
        sampler.n_computed, sampler.n_restored, sampler.n_loaded, engine.n_computed, engine.n_memory, engine.n_disk
    ));
}

impl AdaptArgs {
    fn trainer_options(&self, start: Option<&LoraWeights>) -> Result<TrainerOptions> {
        let (estimator, loss) = self.method.parts(self.steps.max_tokens)?;
        let defaults = TrainerOptions::default();
        Ok(TrainerOptions {
            seed: self.steps.seed,
            n_steps: self.steps.steps,
            prompts_per_step: self.steps.prompts_per_step,
            group_size: self.steps.group_size,
            max_new_tokens: self.steps.max_tokens,
            max_prompt_tokens: self.steps.max_prompt_tokens,
            largest_first: !self.steps.no_largest_first,
            n_sequences: self.steps.sequences,
            n_sessions: self.steps.sessions,
            precise_kv: self.steps.precise_kv,
            updates_per_step: self.steps.updates_per_step,
            temperature: self.steps.temperature,
            suffix: self.steps.suffix.clone().unwrap_or(defaults.suffix),
            estimator,
            loss,
            entropy_band: self.shaping.entropy_band,
            entropy_bonus: self.shaping.entropy_bonus,
            reward: Composition {
                length_weight: if self.shaping.envelopes.is_empty() { 0.0 } else { self.shaping.length_weight },
                envelopes: self.shaping.envelopes.iter().copied().collect(),
                ..defaults.reward
            },
            lora: start.map_or_else(|| self.lora.config(), |start| start.config.clone()),
            schedule: self.steps.schedule.schedule(),
            max_skipped_updates: self.steps.schedule.max_skipped_updates(),
            memory_budget: self.steps.memory_budget,
            n_threads: self.model.threads,
            prefix_cache: self.lora.prefix_cache(),
            ..defaults
        })
    }
}

fn write_answers(path: &Path, before: &Evaluation, after: &Evaluation) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    for (before, after) in before.answers.iter().zip(&after.answers) {
        let mut line = serde_json::to_vec(&AnswerPair { before, after }).expect("answers are texts and numbers");
        line.push(b'\n');
        file.write_all(&line).map_err(|source| Error::io("cannot write answers", path, source))?;
    }
    Ok(file.commit()?)
}

fn parse_envelope(text: &str) -> Result<(TaskType, LengthEnvelope), String> {
    let (task, lengths) = text.split_once('=').ok_or("needs TASK_TYPE=A,B,C,D")?;
    let task = task.parse::<TaskType>().map_err(|error| error.to_string())?;
    let [min_start, peak_start, peak_end, max_end] = numbers(lengths)?;
    let envelope = LengthEnvelope { min_start, peak_start, peak_end, max_end };
    envelope.validate().map_err(|error| error.to_string())?;
    Ok((task, envelope))
}

fn parse_band(text: &str) -> Result<EntropyBand, String> {
    let [low, high] = numbers(text)?;
    let band = EntropyBand { low, high, ..EntropyBand::default() };
    band.validate().map_err(|error| error.to_string())?;
    Ok(band)
}

/// Exactly `N` numbers between commas.
fn numbers<T: std::str::FromStr, const N: usize>(text: &str) -> Result<[T; N], String> {
    let parsed =
        text.split(',').map(|number| number.trim().parse().map_err(|_| format!("`{number}` is no number here")));
    let parsed = parsed.collect::<Result<Vec<T>, String>>()?;
    let found = parsed.len();
    parsed.try_into().map_err(|_| format!("needs {N} numbers between commas, got {found}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        adapt: AdaptArgs,
    }

    #[test]
    fn the_trainer_is_told_what_the_command_line_says() {
        let options = |more: &str| {
            let line = "owlet -m model.gguf --data data.jsonl -o out.gguf";
            let words = line.split_whitespace().chain(more.split_whitespace());
            Line::try_parse_from(words).expect("good arguments").adapt.trainer_options(None).expect("good options")
        };
        let plain = options("");
        assert!(plain.largest_first && plain.max_skipped_updates == TrainerOptions::default().max_skipped_updates);
        assert!(!options("--no-largest-first").largest_first);
        assert_eq!(options("--max-skipped-updates 3").max_skipped_updates, 3);
        // Eight questions an update, of which two are answered at a time.
        let options = options("--prompts-per-step 16 --updates-per-step 2 --group-size 8 --sequences 16");
        assert_eq!((options.prompts_per_step, options.updates_per_step, options.n_sequences), (16, 2, 16));
        options.validate().expect("in range");
    }

    #[test]
    fn envelopes_are_a_task_type_and_four_ascending_lengths() {
        let (task, envelope) = parse_envelope("ocr=4,8,64,128").expect("a good envelope");
        assert_eq!((task, envelope.min_start, envelope.max_end), (TaskType::Ocr, 4, 128));
        for (text, reason) in [
            ("4,8,64,128", "TASK_TYPE="),
            ("dance=4,8,64,128", "unknown task_type"),
            ("ocr=4,8,64", "needs 4 numbers"),
            ("ocr=4,8,64,many", "`many` is no number"),
            ("ocr=64,8,4,128", "trapezoid"),
        ] {
            let error = parse_envelope(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn bands_are_two_ascending_numbers() {
        let band = parse_band("0.1, 0.5").expect("a good band");
        assert_eq!((band.low, band.high), (0.1, 0.5));
        for text in ["0.5", "0.5,0.1", "-1,0.5", "a,b"] {
            assert!(parse_band(text).is_err(), "{text}");
        }
    }
}
