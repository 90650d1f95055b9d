//! Memory and time of one training step on a model file, against its plan; `benches/memory.sh` makes the files and runs the
//! settings: `cargo bench --profile dev --bench memory -- MODEL PROMPT COMPLETION GROUP RANK THREADS [BUDGET_MIB]`.
//!
//! A step is everything: sampling, the gradient, the optimizer's update, the new adapter in the sampler.
#![expect(clippy::print_stdout, reason = "a program that prints")]

#[path = "../tests/common/measured_run.rs"]
mod measured_run;

use std::{path::Path, sync::Arc};

use owlet::{LoraConfig, MemoryPlan, PlanRequest, TrainerOptions, gguf::GgufFile};
use owlet_adapters::engine::EngineOptions;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [model, numbers @ ..] = arguments.as_slice() else {
        println!("needs MODEL PROMPT COMPLETION GROUP RANK THREADS [BUDGET_MIB]; see benches/memory.sh");
        return;
    };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [n_prompt, n_completion, group_size, rank, n_threads, ref budget @ ..] = numbers[..] else {
        panic!("needs PROMPT COMPLETION GROUP RANK THREADS [BUDGET_MIB]");
    };
    let options = TrainerOptions {
        prompts_per_step: 1,
        group_size,
        max_prompt_tokens: n_prompt,
        max_new_tokens: n_completion,
        n_sequences: group_size,
        suffix: String::new(),
        filter: None,
        // Any token is as good as another, so that no answer ends before it is as long as planned.
        temperature: 100.0,
        lora: LoraConfig { rank, ..LoraConfig::default() },
        memory_budget: budget.first().map(|mebibytes| mebibytes << 20),
        n_threads,
        ..TrainerOptions::default()
    };
    let file = Arc::new(GgufFile::open(model).expect("a model file"));
    let request = PlanRequest { file: &file, mmproj_bytes: 0, n_image: 0, options: &options };
    let plan = match options.memory_budget {
        Some(budget) => MemoryPlan::fit(&request, budget),
        None => MemoryPlan::new(&request, &EngineOptions { n_threads, ..EngineOptions::default() }),
    };
    let plan = plan.expect("fits");
    drop(file);
    let measured = measured_run::run(Path::new(model), &options, 1);
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let parts: Vec<_> =
        plan.parts.iter().map(|(part, bytes)| format!("{} {:.0}", part.name(), mebibytes(*bytes))).collect();
    println!(
        "P {n_prompt}, C {n_completion}, G {group_size}, rank {rank}, budget {:?} MiB: planned {:.0} MiB, measured {:.0} MiB \
         ({:+.1} %), {:.1} s a step, {:.0} % of the answers whole\n  {}",
        budget.first(),
        mebibytes(plan.peak_bytes()),
        mebibytes(measured.peak),
        100.0 * (plan.peak_bytes() as f64 / measured.peak as f64 - 1.0),
        measured.seconds,
        100.0 * measured.whole_answers,
        parts.join(", ")
    );
}
