//! `owlet demo`: the whole loop on the embedded model: quantize, ask, adapt, ask again, report.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::Args;
use owlet::{
    Answer, AtomicFile, CancelToken, Dataset, Error, ErrorKind, Evaluation, IMAGE_MARK, Image, Model, ModelOptions,
    Precision, QuantType, Sample, Schedule, StepMetrics, ThinkEvent, ThinkSplitter, Trainer, TrainerOptions,
    VerifiableReward, peak_memory_bytes,
    quant::{QuantizeRequest, quantize},
    reward::parse_box,
    run::AdaptRun,
};
use owlet_models::{DatasetOptions, MMPROJ_GGUF, MODEL_GGUF, PROMPT_SUFFIX, Split, write_dataset};

use super::{
    failure::Result,
    interrupt,
    output::{self, Output},
    training::{ask, open_dataset, results_table, task_results, train},
};
use crate::report::{DemoReport, Example, Picture, Reply, StepPoint, html};

/// See the whole loop on the embedded model: quantize, ask, adapt, ask again, and a report as one HTML page
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Folder for the models, the pictures, the adapter and report.html
    #[arg(long, short, default_value = "demo-out", value_name = "DIR")]
    out: PathBuf,
    /// Seed of the pictures, of the adapter and of all sampling
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Training steps
    #[arg(long, default_value_t = 60, value_name = "N")]
    steps: u64,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3, value_name = "RATE")]
    lr: f64,
    /// Type of the quantized base that is taught
    #[arg(long = "type", default_value_t = QuantType::Q8_0, value_name = "TYPE")]
    dtype: QuantType,
    /// Pictures to learn from
    #[arg(long, default_value_t = 480, value_name = "N")]
    train: u64,
    /// Other pictures to be asked about, before and after
    #[arg(long, default_value_t = 240, value_name = "N")]
    heldout: u64,
    /// Threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print the report's numbers as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DemoArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    fs::create_dir_all(&args.out).map_err(|source| Error::io("cannot make folder", &args.out, source))?;
    let model_path = quantize_embedded(args, &cancel, output)?;
    let learn_from = draw(args, Split::Train, args.train)?;
    let held_out = draw(args, Split::HeldOut, args.heldout)?;
    output.say(format_args!("drew {} pictures to learn from and {} held out", learn_from.len(), held_out.len()));

    let model = Model::load(&model_path, &ModelOptions { n_threads: args.threads, ..ModelOptions::default() })?;
    let mut run = AdaptRun::new(Trainer::new(&model, learn_from, Arc::new(VerifiableReward), trainer_options(args))?);
    let before = ask(&mut run, &held_out, "before", &cancel, output)?;
    let shown = questions_to_show(&held_out);
    say_answers("before", &shown, &held_out, &before, output);

    let started = Instant::now();
    let steps = train(&mut run, &cancel, output)?;
    let training_seconds = started.elapsed().as_secs_f64();
    let adapter = args.out.join("adapter.gguf");
    run.write_adapter(&adapter, Precision::F32)?;
    let after = ask(&mut run, &held_out, "after", &cancel, output)?;
    say_answers("after", &shown, &held_out, &after, output);
    output.say(format_args!("\n{}", results_table(&before, &after)));

    let report = DemoReport {
        title: "Owlet: taught on this device".to_owned(),
        summary: summary(&before, &after, steps.len(), training_seconds),
        configuration: configuration(args, &model, run.trainer(), &adapter, training_seconds)?,
        results: task_results(&before, &after),
        steps: steps.iter().map(step_point).collect(),
        examples: shown
            .iter()
            .map(|&index| example(&held_out.samples()[index], &before.answers[index], &after.answers[index]))
            .collect::<Result<_>>()?,
    };
    let page = args.out.join("report.html");
    write_file(&page, html(&report).as_bytes())?;
    if args.json { output.json(&report) } else { output.line(page.display()) }
}

/// Writes the embedded files into the folder, then the model once more in the type asked for; gives its path.
fn quantize_embedded(args: &DemoArgs, cancel: &CancelToken, output: Output) -> Result<PathBuf> {
    let whole = args.out.join("owlet-tiny-F16.gguf");
    write_file(&whole, MODEL_GGUF)?;
    write_file(&args.out.join("mmproj-owlet-tiny-F16.gguf"), MMPROJ_GGUF)?;
    let small = args.out.join(format!("owlet-tiny-{}.gguf", args.dtype));
    if args.dtype != QuantType::F16 {
        let request = QuantizeRequest {
            threads: args.threads,
            cancel: cancel.clone(),
            ..QuantizeRequest::new(&whole, &small, args.dtype)
        };
        let report = quantize(&request, &mut |_| {})?.model;
        let (before, after) = (output::bytes(report.bytes_before), output::bytes(report.bytes_after));
        output.say(format_args!("quantized the embedded model to {}: {before} -> {after} of weights", args.dtype));
    }
    Ok(small)
}

/// The data set of `count` pictures; one that an earlier demo drew has the same bytes.
fn draw(args: &DemoArgs, split: Split, count: u64) -> Result<Dataset> {
    let name = match split {
        Split::Train => "train",
        Split::HeldOut => "heldout",
    };
    let folder = args.out.join(format!("{name}-seed{}-{count}", args.seed));
    let path = folder.join("data.jsonl");
    if !path.exists() {
        let options = DatasetOptions { seed: args.seed, split, count, ..DatasetOptions::default() };
        write_dataset(&folder, &options)
            .map_err(|source| Error::new(ErrorKind::Io, "cannot write data set").at(folder.display()).source(source))?;
    }
    open_dataset(&path)
}

fn trainer_options(args: &DemoArgs) -> TrainerOptions {
    let n_threads = TrainerOptions::resolved_threads(args.threads);
    TrainerOptions {
        seed: args.seed,
        n_steps: args.steps,
        prompts_per_step: 8,
        max_new_tokens: 80,
        max_prompt_tokens: 112,
        // The pictures are all of one size.
        largest_first: false,
        n_sessions: n_threads,
        n_sequences: 32,
        precise_kv: true,
        suffix: PROMPT_SUFFIX.to_owned(),
        schedule: Schedule { learning_rate: args.lr, warmup_steps: 3, ..Schedule::default() },
        n_threads,
        ..TrainerOptions::default()
    }
}

/// The first held-out question of every task type: chosen before anything is answered.
fn questions_to_show(held_out: &Dataset) -> Vec<usize> {
    let samples = held_out.samples();
    let is_first = |index: &usize| samples[..*index].iter().all(|other| other.task_type != samples[*index].task_type);
    (0..samples.len()).filter(is_first).collect()
}

fn say_answers(when: &str, shown: &[usize], held_out: &Dataset, evaluation: &Evaluation, output: Output) {
    output.say(format_args!("\nasked {when}:"));
    for &index in shown {
        let (sample, answer) = (&held_out.samples()[index], &evaluation.answers[index]);
        let reply = reply(answer);
        output.say(format_args!("  {}", question(sample).replace('\n', "  ")));
        output.aside(&format!("    {}\n", reply.thinking.trim()));
        output.say(format_args!("    {}   (true: {})", reply.answer.trim(), sample.answer));
    }
}

fn question(sample: &Sample) -> String {
    sample.prompt_text("").replace(IMAGE_MARK, "")
}

fn reply(answer: &Answer) -> Reply {
    let mut splitter = ThinkSplitter::new();
    let mut events = splitter.push(&answer.text);
    events.extend(splitter.finish());
    let (mut thinking, mut text) = (String::new(), String::new());
    for event in events {
        match event {
            ThinkEvent::Thinking(piece) => thinking.push_str(&piece),
            ThinkEvent::Answer(piece) => text.push_str(&piece),
        }
    }
    let answer_box = parse_box(&text);
    Reply { thinking, answer: text, answer_box, accuracy: answer.parts.accuracy }
}

fn example(sample: &Sample, before: &Answer, after: &Answer) -> Result<Example> {
    let Some(owlet::Picture::File(path)) = sample.images.first() else {
        return Err(Error::new(ErrorKind::Internal, "a drawn question has no picture").at(&sample.id).into());
    };
    let png = fs::read(path).map_err(|source| Error::io("cannot read picture", path, source))?;
    let image = Image::from_encoded(&png).map_err(|error| error.at(path.display()))?;
    Ok(Example {
        task: sample.task_type.name().to_owned(),
        question: question(sample),
        truth: sample.answer.clone(),
        truth_box: parse_box(&sample.answer),
        picture: Picture { png, width: image.width(), height: image.height() },
        before: reply(before),
        after: reply(after),
    })
}

fn step_point(metrics: &StepMetrics) -> StepPoint {
    StepPoint {
        step: metrics.step + 1,
        reward: metrics.reward,
        accuracy: metrics.accuracy,
        entropy: metrics.entropy,
        length: metrics.length,
    }
}

fn summary(before: &Evaluation, after: &Evaluation, n_steps: usize, seconds: f64) -> String {
    let (gain, n) = (after.reward_gain(before), before.answers.len());
    let change = match () {
        () if gain.low > 0.0 => "rose",
        () if gain.high < 0.0 => "fell",
        () => "did not change beyond chance,",
    };
    format!(
        "The mean reward of greedy answers to {n} held-out questions {change} from {:.3} to {:.3} (change {:+.3}, \
         95 % interval {:+.3} to {:+.3}) in {n_steps} steps of G2RPO, which took {} on this machine. Only the \
         adapter was trained; the quantized weights stayed as they were.",
        before.overall().reward.mean,
        after.overall().reward.mean,
        gain.mean,
        gain.low,
        gain.high,
        duration(seconds),
    )
}

fn configuration(
    args: &DemoArgs,
    model: &Model,
    trainer: &Trainer,
    adapter: &Path,
    seconds: f64,
) -> Result<Vec<(String, String)>> {
    let (info, options) = (model.info(), trainer.options());
    let adapter_bytes = fs::metadata(adapter).map_or(0, |metadata| metadata.len());
    let rows = [
        ("version", format!("owlet {}", env!("CARGO_PKG_VERSION"))),
        ("model", format!("{}, {} weights, {}", info.architecture, info.n_params, info.quantization)),
        (
            "model file",
            format!("{}, projector {}", output::bytes(info.n_bytes), output::bytes(info.mmproj_bytes.unwrap_or(0))),
        ),
        (
            "adapter",
            format!(
                "rank {}, alpha {}, {} weights, {}",
                options.lora.rank,
                options.lora.alpha,
                trainer.adapter()?.weights.n_parameters(),
                output::bytes(adapter_bytes)
            ),
        ),
        ("objective", format!("{}, {} loss", options.estimator, options.loss.objective)),
        (
            "steps",
            format!(
                "{} of {} questions with {} answers each",
                options.n_steps, options.prompts_per_step, options.group_size
            ),
        ),
        (
            "learning rate",
            format!("{} after {} steps of warm-up", options.schedule.learning_rate, options.schedule.warmup_steps),
        ),
        ("pictures", format!("{} to learn from, {} held out", args.train, args.heldout)),
        ("seed", args.seed.to_string()),
        ("threads", options.n_threads.to_string()),
        ("training time", duration(seconds)),
        ("peak memory", peak_memory_bytes().map_or_else(|| "unknown".to_owned(), output::bytes)),
    ];
    Ok(rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|source| Error::io("cannot write file", path, source))?;
    Ok(file.commit()?)
}
