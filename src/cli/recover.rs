//! `owlet recover`: an adapter that gives a quantized model back what quantization took, from the model it was made of.

use std::{collections::BTreeSet, path::PathBuf};

use clap::Args;
use owlet::{Dataset, Error, ErrorKind, Model, ModelOptions, Responses, TuneObjective};

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
/// Key of the draw of held-out samples, the same for all runs: another `--seed` is compared on the same ones.
const HELD_OUT_KEY: u64 = 0x6865_6c64_6f75_7401;

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
    /// Held-out data to compare on before and after [default: a tenth of the data, at most 64 samples, drawn from all task types alike and then not trained on]
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
    let learns_given = args.responses == "data";
    args.tuning.warn_of_data(&data, Some(&held_out), learns_given, output);
    let model = args.tuning.model.load(&cancel, output)?;
    let budget = model.image_budget();
    let teacher_options = ModelOptions {
        mmproj: args.teacher_mmproj.clone(),
        n_threads: args.tuning.model.threads,
        min_pixels: budget.map(|budget| budget.min_pixels),
        max_pixels: budget.map(|budget| budget.max_pixels),
        ..ModelOptions::default()
    };
    let teacher = Model::load(&args.teacher, &teacher_options)?;
    let responses = if learns_given { Responses::Given } else { Responses::Teacher };
    let objective = TuneObjective::Distillation { temperature: args.temperature };
    let options = args.tuning.options(objective, responses);
    let tuner = args
        .tuning
        .tuner(&model, Some(&teacher), data, options)
        .hint(ErrorKind::Mismatch, "the teacher is the model that the quantized one was made from")?;
    run_tuning(&args.tuning, tuner, Some(&held_out), &cancel, output)
}

/// What is trained on and what is held out: every tenth, or every so many that the limit is kept, of the samples as they lie
/// when they are shuffled within each task type, one type behind the other.
fn split(data: &Dataset) -> Result<(Dataset, Dataset)> {
    let every = HELD_OUT_EVERY.max(data.len().div_ceil(MAX_HELD_OUT));
    let mut order = data.epoch_order(HELD_OUT_KEY, 0);
    order.sort_by_key(|&index| data.samples()[index].task_type);
    let drawn: BTreeSet<usize> = order.into_iter().skip(every - 1).step_by(every).collect();
    let part = |held_out: bool| {
        let samples = data.samples().iter().enumerate();
        let samples = samples.filter(|(index, _)| drawn.contains(index) == held_out).map(|(_, sample)| sample.clone());
        Dataset::from_samples(samples.collect())
    };
    let (trained, held_out) = (part(false)?, part(true)?);
    if held_out.is_empty() {
        let error = Error::new(ErrorKind::InvalidInput, "too few samples to hold some out").got(data.len());
        return Err(error.needed(HELD_OUT_EVERY)).hint(ErrorKind::InvalidInput, "name held-out data by `--eval`");
    }
    Ok((trained, held_out))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use owlet::{ProblemType, Sample, TaskType};

    use super::*;

    fn data(n: usize) -> Dataset {
        let tasks = [TaskType::Ocr, TaskType::Ocr, TaskType::MathReasoning];
        let sample = |index: usize| Sample {
            id: index.to_string(),
            place: String::new(),
            problem: format!("{index}?"),
            images: Vec::new(),
            answer: "1".to_owned(),
            problem_type: ProblemType::Numerical,
            task_type: tasks[index % 3],
            options: Vec::new(),
            response: None,
        };
        Dataset::from_samples((0..n).map(sample).collect()).expect("no pictures")
    }

    #[test]
    fn a_tenth_of_every_task_is_held_out_up_to_the_limit() {
        for (n, n_held_out) in [(10, 1), (300, 30), (640, 64), (641, 58), (3000, 63)] {
            let data = data(n);
            let (trained, held_out) = split(&data).expect("enough samples");
            assert_eq!((trained.len(), held_out.len()), (n - n_held_out, n_held_out));
            assert!(held_out.samples().iter().all(|sample| !trained.samples().contains(sample)));
            let mut tasks: BTreeMap<TaskType, usize> = BTreeMap::new();
            held_out.samples().iter().for_each(|sample| *tasks.entry(sample.task_type).or_default() += 1);
            let n_math = tasks.get(&TaskType::MathReasoning).copied().unwrap_or_default();
            assert!(n_math.abs_diff(n_held_out / 3) <= 1, "{n_math} of {n_held_out}");
        }
        assert!(split(&data(9)).is_err());
    }
}
