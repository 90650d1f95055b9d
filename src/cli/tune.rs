//! `owlet tune`: supervised training on given responses, such as a warm start before `owlet adapt`.

use std::path::PathBuf;

use clap::Args;
use owlet::{Responses, TuneObjective};

use super::{
    failure::Result,
    interrupt,
    output::Output,
    training::open_dataset,
    tuning::{TuningArgs, run_tuning},
};

/// Train a LoRA adapter on given responses: a warm start before `owlet adapt`
///
/// A response is the field `response` (or `completion`) of a row, or else its bare answer in tags, which teaches a model not
/// to think.
#[derive(Args, Debug)]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    tuning: TuningArgs,
    /// Held-out data: how well its responses are predicted before and after
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
}

pub(crate) fn run(args: &TuneArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    args.tuning.ensure_files(&[args.eval.as_deref()])?;
    let data = open_dataset(&args.tuning.data)?;
    let held_out = args.eval.as_deref().map(open_dataset).transpose()?;
    args.tuning.warn_of_data(&data, held_out.as_ref(), true, output);
    let model = args.tuning.model.load(&cancel, output)?;
    let options = args.tuning.options(TuneObjective::Likelihood, Responses::Given);
    let tuner = args.tuning.tuner(&model, None, data, options)?;
    run_tuning(&args.tuning, tuner, held_out.as_ref(), &cancel, output)
}
