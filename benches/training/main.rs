//! One training step (gradient of a group and AdamW) over a random model of SmolLM2-135M's shape, the counterpart of
//! `benches/peer/step.py`, and the share of the processor's matrix product that it reaches.
//!
//! `cargo bench --profile dev --bench training -- [--type q8_0] [--prompt 320] [--group 8] [--completion 64] [--rank 8]
//! [--activated]
//! [--layers 30] [--threads N] [--activation-mib 256] [--repeats 2]`
//! prints one line of JSON:
//!
//! - `seconds`: the fastest of the repeated steps, after one that is not counted; `score_seconds`: of the forward pass alone;
//!   `cpu_seconds`: least time of all processors that a step took (Linux), for machines that are not idle.
//! - `anonymous_bytes`: peak of the process's anonymous memory (Linux), the base excluded, which is mapped from a file.
//!   With `--activated` the adapter acts from the last 3 tokens of the prompt on; keys and values of the others come from
//!   the first step, which is not counted, as they do from the second epoch on.
//! - `gflops` of the step: two operations per frozen weight and token forward, two backward, and no credit for what is
//!   computed again; `peak_gflops`: ggml's F32 `mul_mat` of 1536x576 weights and 824 tokens, measured after the steps.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

mod process;

use std::time::Instant;

use owlet::quant::synth::{SynthModel, SynthOptions, synthesize};
use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput},
    lora::{LoraConfig, LoraGrads, LoraMode, LoraWeights, Target},
    optim::{AdamW, AdamWOptions},
};
use owlet_runtime::{
    EncodedPrompt, TokenId,
    ggml::Backend,
    gguf::{GgmlType, GgufFile},
    quantize::QuantType,
    rng::Rng,
};
use serde_json::json;

use self::process::{Peak, cpu_seconds};

/// Tokens of the prompt that an activated adapter changes.
const N_INVOCATION: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let text = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let number = |name: &str, default: usize| text(name).map_or(default, |value| value.parse().unwrap());
    let dtype: QuantType = text("--type").unwrap_or("q8_0".into()).parse().unwrap();
    let shape = SynthModel { n_layers: number("--layers", 30) as u32, ..SynthModel::preset("smollm2-135m").unwrap() };
    let (n_prompt, n_completions) = (number("--prompt", 320), number("--group", 8));
    let (length, rank, n_repeats) = (number("--completion", 64), number("--rank", 8), number("--repeats", 2));
    let is_activated = arguments.iter().any(|argument| argument == "--activated");
    let mut options = EngineOptions::default();
    options.n_threads = number("--threads", options.n_threads);
    options.activation_bytes = number("--activation-mib", options.activation_bytes >> 20) << 20;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let write = SynthOptions { dtype, ..SynthOptions::default() };
    synthesize(&shape, &path, &write, &mut |_| ()).unwrap();
    let file = std::sync::Arc::new(GgufFile::open(&path).unwrap());
    let peak = Peak::start();
    let mut engine = Engine::from_file(&file, options.clone()).unwrap();
    let tokens = |n: usize, key: u64| -> Vec<TokenId> {
        let mut rng = Rng::keyed(&[key]);
        (0..n).map(|_| rng.below(shape.n_vocab as usize) as TokenId).collect()
    };
    let prompt = tokens(n_prompt, 0);
    let mode = match is_activated {
        true => LoraMode::Activated { invocation: prompt[n_prompt - N_INVOCATION..].to_vec() },
        false => LoraMode::Full,
    };
    let config =
        LoraConfig { rank, alpha: 2.0 * rank as f32, targets: Target::ALL.into(), mode, ..LoraConfig::default() };
    let targets = engine.lora_targets();
    let mut lora = LoraWeights::init(&config, &targets, 1).unwrap();
    let mut gradients = LoraGrads::zeros(&lora);
    let mut optimizer = AdamW::new(AdamWOptions::default(), &lora);

    let prompt = EncodedPrompt::from_tokens(prompt);
    let completions: Vec<_> = (1..=n_completions).map(|key| tokens(length, key as u64)).collect();
    let completions: Vec<_> = completions.iter().map(Vec::as_slice).collect();
    let group = GroupInput { prompt: &prompt, completions: &completions };
    let weight = 1.0 / (n_completions * length) as f32;
    let advantage = |index: usize| 2.0 * index as f32 / (n_completions.max(2) - 1) as f32 - 1.0;
    let coefficients: Vec<_> = (0..n_completions).map(|index| vec![-advantage(index) * weight; length]).collect();

    let (mut seconds, mut score_seconds, mut least_cpu) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for repeat in 0..=n_repeats {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        gradients.zero();
        engine.gradient(&lora, &group, 1.0, &mut |_| coefficients.clone(), &mut gradients).unwrap();
        optimizer.step(&mut lora, &gradients, 1e-5);
        if repeat > 0 || n_repeats == 0 {
            seconds = seconds.min(start.elapsed().as_secs_f64());
            least_cpu = least_cpu.min(cpu_seconds() - cpu_start);
        }
        let start = Instant::now();
        engine.score(Some(&lora), &group, 1.0).unwrap();
        score_seconds = score_seconds.min(start.elapsed().as_secs_f64());
    }
    let anonymous_bytes = peak.stop();

    let n_computed = if is_activated { N_INVOCATION } else { n_prompt };
    let n_tokens = (n_computed + n_completions * (length - 1)) as f64;
    let n_predicting = (n_completions * (length - 1) + 1) as f64;
    let body: f64 = targets.iter().map(|(_, n_in, n_out)| (n_in * n_out) as f64).sum();
    let forward = 2.0 * (body * n_tokens + f64::from(shape.n_embd) * f64::from(shape.n_vocab) * n_predicting);
    let peak_gflops = product_gflops(options.n_threads);
    let line = json!({
        "type": dtype.to_string(), "prompt": n_prompt, "group": n_completions, "completion": length, "rank": rank,
        "activated": is_activated,
        "layers": shape.n_layers, "threads": options.n_threads, "activation_bytes": options.activation_bytes,
        "seconds": seconds, "cpu_seconds": least_cpu, "score_seconds": score_seconds, "anonymous_bytes": anonymous_bytes,
        "gflops": 2.0 * forward / seconds / 1e9, "score_gflops": forward / score_seconds / 1e9,
        "peak_gflops": peak_gflops,
    });
    println!("{line}");
}

/// The best of many F32 products of ggml, in GFLOP/s.
fn product_gflops(n_threads: usize) -> f64 {
    let (k, m, n) = (576, 1536, 824);
    let mut backend = Backend::cpu(n_threads).unwrap();
    let stored =
        backend.allocate(&[(GgmlType::F32, &[k, m]), (GgmlType::F32, &[k, n]), (GgmlType::F32, &[m, n])]).unwrap();
    stored[..2].iter().for_each(|stored| backend.zero(stored));
    let mut best = f64::INFINITY;
    for _ in 0..30 {
        let mut graph = backend.graph(8);
        let (weights, tokens) = (graph.leaf(&stored[0]), graph.leaf(&stored[1]));
        let product = graph.mul_mat(weights, tokens);
        graph.place(product, &stored[2]);
        let start = Instant::now();
        backend.run(graph).unwrap();
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (k * m * n) as f64 / best / 1e9
}
