//! `owlet gate`: what is live behind an adapter gate, and back to the one before. Also how `owlet adapt --gate` asks it.

use std::path::{Path, PathBuf};

use clap::Args;
use owlet::{
    CancelToken, Dataset, ErrorKind, Model, TrainerOptions, VerifiableReward,
    gate::{AdapterGate, GateRule, Trial, Verdict},
};
use serde::Serialize;

use super::{
    failure::{Result, Teach as _},
    output::Output,
};

/// Show which adapter is live behind a gate of `owlet adapt --gate`, or go back to the one before
///
/// Prints its file, or nothing where the base is live.
#[derive(Args, Debug)]
pub(crate) struct GateArgs {
    /// The gate's folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The adapter before goes live again, or the base where there is none
    #[arg(long)]
    rollback: bool,
    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Active {
    active: Option<PathBuf>,
}

pub(crate) fn run(args: &GateArgs, output: Output) -> Result<()> {
    let active = if args.rollback {
        let mut gate = open(&args.folder, GateRule::default(), output)?;
        gate.rollback()?
    } else {
        owlet::gate::active_adapter(&args.folder)?
    };
    match active {
        active if args.json => output.json(&Active { active }),
        Some(path) => output.line(path.display()),
        None => {
            output.say("no adapter is live: the base answers");
            Ok(())
        }
    }
}

/// Whether and how an adapter goes live after its training.
#[derive(Args, Debug)]
#[command(next_help_heading = "Gate")]
pub(crate) struct PassArgs {
    /// Folder of a gate: the adapter goes live there if its held-out answers earn more than those of the one that is live, or
    /// of the base, beyond chance
    #[arg(long, requires = "eval", value_name = "DIR")]
    gate: Option<PathBuf>,
    /// Let adapters pass that are not worse by more than this mean reward beyond chance
    #[arg(long, requires = "gate", default_value_t = 0.0, value_name = "REWARD")]
    gate_margin: f64,
}

/// What became of an adapter at the gate.
#[derive(Debug, Serialize)]
pub(crate) struct Passed {
    accepted: bool,
    /// What is live now.
    active: Option<PathBuf>,
    verdict: Verdict,
}

impl PassArgs {
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.gate.as_deref()
    }

    /// The gate, before the hours of a training that it would refuse to look at.
    pub(crate) fn open(&self, held_out: Option<&Dataset>, output: Output) -> Result<Option<AdapterGate>> {
        let (Some(folder), Some(held_out)) = (&self.gate, held_out) else { return Ok(None) };
        let rule = GateRule { most_loss: self.gate_margin, ..GateRule::default() };
        rule.validate()?;
        rule.check_samples(held_out.len()).hint(ErrorKind::InvalidInput, "give `--eval` more samples")?;
        open(folder, rule, output).map(Some)
    }
}

/// Lets the adapter at `path`, trained by `options`, through the gate if it may pass.
pub(crate) fn pass(
    gate: &mut AdapterGate,
    path: &Path,
    model: &Model,
    options: &TrainerOptions,
    held_out: &Dataset,
    cancel: &CancelToken,
    output: Output,
) -> Result<Passed> {
    let trial = Trial { model, held_out, reward: &VerifiableReward, options };
    let bar = output.progress(2 * held_out.len() as u64, "answers").with_message("gate");
    let verdict = gate.consider(path, &trial, cancel, &mut |progress| bar.set_position(progress.n_done as u64));
    bar.finish_and_clear();
    let verdict = verdict?;
    let reward = &verdict.changes.reward;
    let change = format!(
        "reward {:.3} -> {:.3}, change {:+.3} [{:+.3}, {:+.3}] on {} samples",
        reward.before, reward.after, reward.change.mean, reward.change.low, reward.change.high, verdict.n_samples
    );
    if verdict.is_accepted() {
        let live = gate.activate()?;
        output.say(format_args!("gate: accepted, {change}\ngate: live is {}", live.display()));
    } else {
        let reasons: Vec<_> = verdict.reasons.iter().map(ToString::to_string).collect();
        output.say(format_args!("gate: refused, {change}\ngate: {}", reasons.join("; ")));
    }
    Ok(Passed { accepted: verdict.is_accepted(), active: gate.active(), verdict })
}

fn open(folder: &Path, rule: GateRule, output: Output) -> Result<AdapterGate> {
    let gate = AdapterGate::open(folder, rule)?;
    for path in gate.damaged() {
        output.say(format_args!("warning: a damaged adapter is no longer live: {}", path.display()));
    }
    Ok(gate)
}
