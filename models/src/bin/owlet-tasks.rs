//! Writes a data set of the six synthetic tasks: `data.jsonl` and `images/*.png`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line tool talks")]

use std::path::PathBuf;
use std::process::ExitCode;

use owlet_models::{DatasetOptions, Split, TaskKind, write_dataset};

const USAGE: &str = "usage: owlet-tasks --out DIR [--seed N] [--count N] [--split train|heldout]
                   [--task TASK_TYPE]... [--size PIXELS] [--responses]

Writes DIR/data.jsonl and DIR/images/*.png; DIR must not exist.
  --task        one of the six task types, may be repeated (default: all six in turn)
  --size        side of the pictures, 96..=256 (default 128)
  --responses   adds the two styles of reply, a description and marks to every line";

fn parse() -> Result<(PathBuf, DatasetOptions), String> {
    let mut options = DatasetOptions::default();
    let mut tasks = Vec::new();
    let mut out = None;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--responses" {
            options.responses = true;
            continue;
        }
        let value = args.next().ok_or(format!("{flag} needs a value"))?;
        let number = || {
            let parsed = value.parse::<u64>();
            parsed.map_err(|_| format!("{flag} needs a whole number, got {value:?}"))
        };
        match flag.as_str() {
            "--out" => out = Some(PathBuf::from(&value)),
            "--seed" => options.seed = number()?,
            "--count" => options.count = number()?,
            "--size" => {
                options.image_size = u32::try_from(number()?)
                    .ok()
                    .filter(|size| (96..=256).contains(size))
                    .ok_or(format!("--size must be 96..=256, got {value}"))?;
            }
            "--split" => {
                options.split =
                    Split::from_name(&value).ok_or(format!("--split must be train or heldout, got {value:?}"))?;
            }
            "--task" => tasks.push(TaskKind::from_task_type(&value).ok_or(format!("unknown task type {value:?}"))?),
            _ => return Err(format!("unknown option {flag:?}")),
        }
    }
    if !tasks.is_empty() {
        options.tasks = tasks;
    }
    Ok((out.ok_or("--out is missing")?, options))
}

fn main() -> ExitCode {
    let (out, options) = match parse() {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("error: {message}\n{USAGE}");
            return ExitCode::from(1);
        }
    };
    match write_dataset(&out, &options) {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}
