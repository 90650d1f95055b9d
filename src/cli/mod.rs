//! The command line: one file a command, each with its `Args` and `run`.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use failure::Result;
use output::Output;

mod adapt;
mod adapter;
mod answer;
mod bench;
mod chat;
mod demo;
mod devices;
mod draw;
mod failure;
mod gate;
mod interrupt;
mod memory;
mod method;
mod model;
mod output;
mod pictures;
mod plan;
#[cfg(feature = "pull")]
mod pull;
mod quantize;
mod question;
mod recover;
mod run;
mod score;
mod speaker;
mod speculate;
mod synth;
mod tasks;
mod tokens;
mod training;
mod tune;
mod tuning;
mod votes;

/// An on-device model that sees, and that the device can teach.
#[derive(Debug, Parser)]
#[command(name = "owlet", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct GlobalArgs {
    /// Say nothing on stderr but errors
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Also print the libraries' log, llama.cpp's among them
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "pull")]
    Pull(pull::PullArgs),
    Quantize(quantize::QuantizeArgs),
    Run(run::RunArgs),
    Score(score::ScoreArgs),
    Chat(chat::ChatArgs),
    Adapt(Box<adapt::AdaptArgs>),
    Gate(gate::GateArgs),
    Tune(Box<tune::TuneArgs>),
    Recover(Box<recover::RecoverArgs>),
    Plan(plan::PlanArgs),
    Bench(bench::BenchArgs),
    Devices(devices::DevicesArgs),
    Tasks(tasks::TasksArgs),
    Synth(synth::SynthArgs),
    Demo(demo::DemoArgs),
}

/// The command line as typed.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse()
}

/// Prints the help that was asked for (exit code 0) or what is wrong with the command line (1).
pub(crate) fn explain_usage(usage: &clap::Error) -> ExitCode {
    // A reader of `--help` who went away is no failure.
    let _ = usage.print();
    ExitCode::from(u8::from(usage.use_stderr()))
}

/// Runs a command; the exit codes are those of [`failure`].
pub(crate) fn run(cli: Cli) -> ExitCode {
    if cli.global.verbose {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .init();
    }
    let output = Output::new(cli.global.quiet);
    let done = match cli.command {
        #[cfg(feature = "pull")]
        Command::Pull(args) => pull::run(&args, output),
        Command::Quantize(args) => quantize::run(&args, output),
        Command::Run(args) => run::run(&args, output),
        Command::Score(args) => score::run(&args, output),
        Command::Chat(args) => chat::run(&args, output),
        Command::Adapt(args) => adapt::run(&args, output),
        Command::Gate(args) => gate::run(&args, output),
        Command::Tune(args) => tune::run(&args, output),
        Command::Recover(args) => recover::run(&args, output),
        Command::Plan(args) => plan::run(&args, output),
        Command::Bench(args) => bench::run(&args, output),
        Command::Devices(args) => devices::run(&args, output),
        Command::Tasks(args) => tasks::run(&args, output),
        Command::Synth(args) => synth::run(&args, output),
        Command::Demo(args) => demo::run(&args, output),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                output::talk(message);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
