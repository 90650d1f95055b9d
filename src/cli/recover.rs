//! `owlet recover`: an adapter that gives a quantized model back what quantization took, from the model it was made of.

use std::path::PathBuf;

use clap::Args;
use owlet::{Dataset, Error, ErrorKind, Model, ModelOptions, Responses, TuneObjective, Tuner};

use super::{
    failure::{Result, Teach},
    interrupt,
    output::Output,
    training::open_dataset,
    tuning::{TuningArgs, run_tuning},
};

/// Without `--eval`, one sample of so many is held out.
const HELD_OUT_EVERY: usize = 10;
/// And no more than these.
const MAX_HELD_OUT: usize = 64;

/// Train a LoRA adapter that makes a quantized model predict what its source predicts
///
/// At every token of the responses, the distribution of the source is the target: KL(source || quantized) is minimised.
#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    tuning: TuningArgs,
    /// The model before quantization: a GGUF file of the same tokens
    #[arg(long, value_name = "GGUF")]
    teacher: PathBuf,
    /// Its image projector [default: the `mmproj*.gguf` beside it]
    #[arg(long, value_name = "GGUF")]
    teacher_mmproj: Option<PathBuf>,
    /// Whose responses are learned: the teacher's, answered greedily, or those of the data
    #[arg(long, default_value = "teacher", value_name = "WHOSE", value_parser = ["teacher", "data"])]
    responses: String,
    /// Divide the logits of both by this before they are compared
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    temperature: f32,
    /// Held-out data to compare on before and after [default: every tenth sample of the data, which is then not trained on]
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
}

pub(crate) fn run(args: &RecoverArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    let others = [Some(&*args.teacher), args.teacher_mmproj.as_deref(), args.eval.as_deref()];
    args.tuning.ensure_files(&others)?;
    let data = open_dataset(&args.tuning.data)?;
    let (data, held_out) = match &args.eval {
        Some(eval) => (data, open_dataset(eval)?),
        None => split(&data)?,
    };
    let model = args.tuning.model.load()?;
    let budget = model.image_budget();
    let teacher_options = ModelOptions {
        mmproj: args.teacher_mmproj.clone(),
        n_threads: args.tuning.model.threads,
        min_pixels: budget.map(|budget| budget.min_pixels),
        max_pixels: budget.map(|budget| budget.max_pixels),
        ..ModelOptions::default()
    };
    let teacher = Model::load(&args.teacher, &teacher_options)?;
    let responses = if args.responses == "data" { Responses::Given } else { Responses::Teacher };
    let objective = TuneObjective::Distillation { temperature: args.temperature };
    let options = args.tuning.options(objective, responses);
    let tuner = Tuner::new(&model, Some(&teacher), data, options)
        .hint(ErrorKind::Mismatch, "the teacher is the model that the quantized one was made from")?;
    run_tuning(&args.tuning, tuner, Some(&held_out), &cancel, output)
}

/// What is trained on and what is held out.
fn split(data: &Dataset) -> Result<(Dataset, Dataset)> {
    let is_held_out =
        |index: usize| index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 && index / HELD_OUT_EVERY < MAX_HELD_OUT;
    let part = |held_out: bool| {
        let samples = data.samples().iter().enumerate();
        let samples = samples.filter(|(index, _)| is_held_out(*index) == held_out).map(|(_, sample)| sample.clone());
        Dataset::from_samples(samples.collect())
    };
    let (trained, held_out) = (part(false)?, part(true)?);
    if held_out.is_empty() {
        let error = Error::new(ErrorKind::InvalidInput, "too few samples to hold some out").got(data.len());
        return Err(error.needed(HELD_OUT_EVERY)).hint(ErrorKind::InvalidInput, "name held-out data by `--eval`");
    }
    Ok((trained, held_out))
}
