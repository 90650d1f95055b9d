//! `owlet tasks`: draws the synthetic tasks as a data set.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use owlet::{Error, ErrorKind};
use owlet_models::{DatasetOptions, IMAGE_SIZE, Split, TaskKind, write_dataset};

use super::{
    failure::{Failure, Result},
    output::Output,
};

/// Draw synthetic tasks as a data set: DIR/data.jsonl and DIR/images/*.png
#[derive(Args, Debug)]
pub(crate) struct TasksArgs {
    /// Folder to write; it must not exist yet
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Names the data set: the same seed gives the same bytes
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// How many samples, dealt out over the tasks in turn
    #[arg(long, default_value_t = 96, value_name = "N")]
    count: u64,
    /// Which pictures: no picture is in both
    #[arg(long, value_enum, default_value_t = SplitName::Train)]
    split: SplitName,
    /// A task type to draw, such as `ocr`; may be repeated [default: all six]
    #[arg(long = "task", value_name = "TASK_TYPE")]
    tasks: Vec<String>,
    /// Side of the pictures in pixels, 96 to 256
    #[arg(long, default_value_t = IMAGE_SIZE, value_name = "N", value_parser = clap::value_parser!(u32).range(96..=256))]
    size: u32,
    /// Add a response to every sample for `owlet tune`, and what the recipe of the embedded model reads
    #[arg(long)]
    responses: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SplitName {
    Train,
    Heldout,
}

pub(crate) fn run(args: &TasksArgs, output: Output) -> Result<()> {
    let mut options = DatasetOptions {
        seed: args.seed,
        count: args.count,
        split: match args.split {
            SplitName::Train => Split::Train,
            SplitName::Heldout => Split::HeldOut,
        },
        image_size: args.size,
        responses: args.responses,
        ..DatasetOptions::default()
    };
    if !args.tasks.is_empty() {
        options.tasks = args.tasks.iter().map(|name| task_kind(name)).collect::<Result<_>>()?;
    }
    if args.out.exists() {
        let error = Error::new(ErrorKind::InvalidInput, "cannot write data set").at(args.out.display());
        return Err(error.got("a folder that exists").needed("a new one").into());
    }
    let path = write_dataset(&args.out, &options)
        .map_err(|source| Error::new(ErrorKind::Io, "cannot write data set").at(args.out.display()).source(source))?;
    output.say(format_args!("drew {} samples", args.count));
    output.line(path.display())
}

fn task_kind(name: &str) -> Result<TaskKind> {
    TaskKind::from_task_type(name).ok_or_else(|| {
        let known = TaskKind::ALL.map(TaskKind::task_type).join(", ");
        Failure::argument("unknown task type", format_args!("`{name}`"), format_args!("one of {known}"))
    })
}
