//! The memory plan against the memory that runs then take, each in a process of its own.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "tests tell what they measured, one to the other")]

#[expect(dead_code, reason = "the bench prints the time")]
#[path = "common/measured_run.rs"]
mod measured_run;
#[path = "common/planned.rs"]
mod planned;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use measured_run::Length;
use owlet::{
    ErrorKind, LoraConfig, LoraMode, MemoryPart, MemoryPlan, Model, ModelOptions, PlanRequest, PrefixCacheOptions,
    QuantType, Target, Trainer, TrainerOptions,
    gguf::GgufFile,
    quant::synth::{Family, SynthModel, SynthOptions, synthesize},
};
use owlet_adapters::engine::EngineOptions;

/// One setting of the grid.
struct Case {
    name: &'static str,
    model: fn() -> SynthModel,
    dtype: QuantType,
    options: TrainerOptions,
}

fn options() -> TrainerOptions {
    TrainerOptions {
        prompts_per_step: 1,
        group_size: 4,
        max_prompt_tokens: 384,
        max_new_tokens: 24,
        n_sequences: 4,
        suffix: String::new(),
        filter: None,
        lora: LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() },
        n_threads: 1,
        ..TrainerOptions::default()
    }
}

/// Large enough for the tensors to outweigh the program.
fn model() -> SynthModel {
    SynthModel { n_layers: 4, n_ff: 768, n_vocab: 4096, ..SynthModel::tiny(Family::Qwen3) }
}

fn cases() -> Vec<Case> {
    let case = |name, options| Case { name, model, dtype: QuantType::Q8_0, options };
    let budget = |bytes| TrainerOptions { memory_budget: Some(bytes), ..options() };
    vec![
        case("default", options()),
        case(
            "low rank, few targets",
            TrainerOptions {
                lora: LoraConfig { rank: 4, alpha: 8.0, targets: [Target::Q].into(), ..LoraConfig::default() },
                ..options()
            },
        ),
        case("many sequences, F32 keys", TrainerOptions { n_sequences: 16, precise_kv: true, ..options() }),
        case("long answers of a large group", TrainerOptions { group_size: 8, max_new_tokens: 48, ..options() }),
        case(
            "high rank",
            TrainerOptions { lora: LoraConfig { rank: 64, alpha: 64.0, ..LoraConfig::default() }, ..options() },
        ),
        // A cache counts as full, so it is a small one: of two questions of a run of one.
        case(
            "activated adapter",
            TrainerOptions {
                lora: LoraConfig { mode: LoraMode::Activated { invocation: Vec::new() }, ..options().lora },
                prefix_cache: PrefixCacheOptions {
                    memory_bytes: 1 << 20,
                    sampler_bytes: 1 << 20,
                    ..PrefixCacheOptions::default()
                },
                ..options()
            },
        ),
        case("80 MiB", budget(80 << 20)),
        case("64 MiB", budget(64 << 20)),
        Case {
            name: "large vocabulary",
            model: || SynthModel { n_layers: 2, n_vocab: 40_000, ..SynthModel::tiny(Family::Llama) },
            dtype: QuantType::Q4KM,
            options: options(),
        },
    ]
}

fn plan(file: &Arc<GgufFile>, options: &TrainerOptions) -> owlet::Result<MemoryPlan> {
    let request = PlanRequest { file, mmproj_bytes: 0, n_image: 0, options };
    match options.memory_budget {
        Some(budget) => MemoryPlan::fit(&request, budget),
        None => {
            let prefix_cache = options.prefix_cache.clone();
            MemoryPlan::new(&request, &EngineOptions { n_threads: 1, prefix_cache, ..EngineOptions::default() })
        }
    }
}

fn write(folder: &Path, case: &Case) -> PathBuf {
    let path = folder.join("model.gguf");
    let options = SynthOptions { dtype: case.dtype, threads: 1, ..SynthOptions::default() };
    synthesize(&(case.model)(), &path, &options, &mut |_| ()).expect("a model of this shape");
    path
}

/// Not a test of its own: what [`plans_are_within_15_percent_of_the_peak`] runs for every case.
#[test]
#[ignore = "a part of another test"]
fn measure_one_case() {
    let Some((name, path)) = planned::asked() else { return };
    let case = cases().into_iter().find(|case| case.name == name).expect("a case of the grid");
    // The second step has the adapter of the first in its sessions.
    planned::tell(measured_run::run(&path, &case.options, 2).peak);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "reads /proc")]
fn plans_are_within_15_percent_of_the_peak() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut failures = Vec::new();
    for case in cases() {
        let path = write(folder.path(), &case);
        let file = Arc::new(GgufFile::open(&path).expect("valid"));
        let plan = plan(&file, &case.options).expect("fits");
        let parts: Vec<_> = plan.parts.iter().map(|(part, bytes)| (part.name(), *bytes)).collect();
        failures.extend(planned::compare(case.name, &path, &parts));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn budgets_are_met_step_by_step_or_refused_with_what_would_fit() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = cases().remove(0);
    let file = Arc::new(GgufFile::open(write(folder.path(), &case)).expect("valid"));
    let with = |memory_budget| plan(&file, &TrainerOptions { memory_budget, group_size: 8, ..case.options.clone() });
    let free = with(None).expect("no limit").peak_bytes();
    // A budget leaves a margin of 4 %.
    let enough = |peak: usize| peak + peak / 25;
    assert_eq!(with(Some(enough(free) + 1)).expect("just fits"), with(None).expect("no limit"));
    let mut seen = Vec::new();
    let mut budget = enough(free);
    let refusal = loop {
        budget -= free / 40;
        match with(Some(budget)) {
            Ok(plan) => {
                assert!(enough(plan.peak_bytes()) <= budget, "{} for {budget}", plan.peak_bytes());
                seen.push((
                    plan.bytes(MemoryPart::Activations),
                    plan.engine.half_checkpoints,
                    plan.engine.max_completions,
                ));
            }
            Err(error) => break error,
        }
    };
    let recomputes = |&&(activations, half, _): &&(usize, bool, usize)| activations == 0 && !half;
    assert!(seen.iter().any(|seen| seen.0 > 0), "{seen:?}: smaller caches first");
    assert!(seen.iter().filter(recomputes).count() > 0, "{seen:?}: then layers are computed again");
    assert!(seen.iter().any(|seen| seen.1), "{seen:?}: then inputs of layers are halved");
    assert!(seen.last().is_some_and(|seen| seen.2 < 8), "{seen:?}: then the group goes in parts");
    let text = refusal.to_string();
    assert!(refusal.kind() == ErrorKind::Limit && text.contains("--"), "{text}");
    let least = text.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    assert!(with(Some(least.expect("a number of MiB") << 20)).is_ok(), "{text}");
}

#[test]
fn prompts_that_activated_runs_keep_are_counted_and_given_up_for_a_budget() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = cases().remove(0);
    let file = Arc::new(GgufFile::open(write(folder.path(), &case)).expect("valid"));
    let lora = LoraConfig { mode: LoraMode::Activated { invocation: vec![65] }, ..case.options.lora.clone() };
    let activated = TrainerOptions { lora, ..case.options.clone() };
    let planned = |options: &TrainerOptions, sampler_bytes: usize| {
        let prefix_cache = PrefixCacheOptions { sampler_bytes, ..PrefixCacheOptions::default() };
        let request = PlanRequest { file: &file, mmproj_bytes: 0, n_image: 0, options };
        let engine = EngineOptions { n_threads: 1, prefix_cache, ..EngineOptions::default() };
        MemoryPlan::new(&request, &engine).expect("a plan").bytes(MemoryPart::SamplerPrefixes)
    };
    assert_eq!([planned(&activated, 0), planned(&case.options, 5 << 20)], [0, 0]);
    // F16 keys and values of 384 tokens, twice: of llama.cpp and on their way into the cache.
    let n_bytes = |n_sessions| planned(&TrainerOptions { n_sessions, n_threads: 2, ..activated.clone() }, 5 << 20);
    let decoder = model();
    let per_prompt = (2 * decoder.n_layers * decoder.head_dim * decoder.n_kv_heads * 2 * 384) as usize;
    assert_eq!([n_bytes(1), n_bytes(2)], [1, 2].map(|n_sessions| (5 << 20) + n_sessions * 2 * per_prompt));

    let tight = TrainerOptions { memory_budget: Some(90 << 20), ..activated };
    let tight = plan(&file, &tight).expect("fits without what is kept");
    assert_eq!((tight.bytes(MemoryPart::SamplerPrefixes), tight.engine.prefix_cache.sampler_bytes), (0, 0));
}

#[test]
fn a_trainer_refuses_a_budget_before_it_takes_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = cases().remove(0);
    let model = Model::load(write(folder.path(), &case), &ModelOptions::default()).expect("loads");
    let options = TrainerOptions { memory_budget: Some(5 << 20), ..case.options };
    let error = Trainer::new(&model, measured_run::dataset(folder.path(), &options), Arc::new(Length), options).err();
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Limit));
}
