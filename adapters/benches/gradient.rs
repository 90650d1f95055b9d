//! Time of one gradient of a group, and of scoring it: `cargo bench -p owlet-adapters --bench gradient [-- FILTER [THREADS]]`.
//!
//! Prints milliseconds (best of several), and GFLOP/s over the products with the frozen weights alone: two operations per
//! weight and token forward, two backward, two more where layers are computed again. Everything else counts as overhead.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

#[path = "../tests/engine/random.rs"]
mod random;

use std::time::Instant;

use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput},
    lora::{LoraGrads, LoraMode, Target},
};
use owlet_runtime::{Segment, TokenId, gguf::GgmlType};
use random::RandomModel;

struct Case {
    name: &'static str,
    model: RandomModel,
    options: EngineOptions,
    n_prompt: usize,
    n_completions: usize,
    length: usize,
    n_repeats: usize,
    /// Whether the adapter acts from the last three tokens of the prompt on; what comes before is at hand.
    activated: bool,
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let filter = arguments.next().unwrap_or_default();
    let n_threads = arguments.next().map_or(EngineOptions::default().n_threads, |n| n.parse().unwrap());
    let tiny = RandomModel {
        n_layers: 6,
        n_embd: 256,
        n_ff: 768,
        n_vocab: 1024,
        n_head: 8,
        n_head_kv: 2,
        head_dim: 32,
        dtype: GgmlType::Q8_0,
        ..RandomModel::small("qwen3")
    };
    let wide = RandomModel {
        n_layers: 4,
        n_embd: 1024,
        n_ff: 3072,
        n_vocab: 16_384,
        n_head: 16,
        n_head_kv: 8,
        head_dim: 64,
        dtype: GgmlType::Q4K,
        ..RandomModel::small("qwen3")
    };
    let default = || EngineOptions { n_threads, ..EngineOptions::default() };
    let frugal = || EngineOptions { activation_bytes: 0, ..default() };
    let with = |model: &RandomModel, dtype| RandomModel { dtype, ..model.clone() };
    let case = |name, model, options| {
        let (n_prompt, n_completions, length, n_repeats) = (80, 8, 51, 20);
        Case { name, model, options, n_prompt, n_completions, length, n_repeats, activated: false }
    };
    let large = |name, model, options| Case { n_prompt: 320, length: 65, n_repeats: 3, ..case(name, model, options) };
    let long = |name| Case { n_prompt: 1024, length: 33, ..large(name, wide.clone(), default()) };
    let cases = [
        case("tiny q8_0", tiny.clone(), default()),
        case("tiny q4_K", with(&tiny, GgmlType::Q4K), default()),
        case("tiny f32", with(&tiny, GgmlType::F32), default()),
        case("tiny q8_0, nothing kept", tiny.clone(), frugal()),
        large("wide q4_K", wide.clone(), default()),
        large("wide q4_K, nothing kept", wide.clone(), frugal()),
        large("wide f32", with(&wide, GgmlType::F32), default()),
        Case { activated: true, ..case("tiny q8_0, activated", tiny.clone(), default()) },
        Case { activated: true, ..large("wide q4_K, activated", wide.clone(), default()) },
        long("wide q4_K, long prompt"),
        Case { activated: true, ..long("wide q4_K, long, activated") },
    ];
    println!("{:28} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "gradient", "score", "GFLOP/s", "score", "MiB held");
    for case in cases.iter().filter(|case| case.name.contains(&filter)) {
        measure(case);
    }
}

fn measure(case: &Case) {
    let mut engine = Engine::from_file(&case.model.write(), case.options.clone()).unwrap();
    let targets = engine.lora_targets();
    let mut lora = random::adapter(&targets, 16, &Target::ALL);
    let prompt = case.model.prompt(case.n_prompt);
    let mut n_in_batch = case.n_prompt;
    if let (true, Some(Segment::Tokens(tokens))) = (case.activated, prompt.segments.last()) {
        n_in_batch = 3;
        lora.config.mode = LoraMode::Activated { invocation: tokens[tokens.len() - n_in_batch..].to_vec() };
    }
    let tokens: Vec<Vec<TokenId>> =
        (0..case.n_completions as u64).map(|key| case.model.tokens(case.length, key)).collect();
    let completions: Vec<_> = tokens.iter().map(Vec::as_slice).collect();
    let group = GroupInput { prompt: &prompt, completions: &completions };
    let mut gradients = LoraGrads::zeros(&lora);
    let coefficients = vec![vec![1e-3; case.length]; case.n_completions];

    let mut best = [f64::INFINITY; 2];
    for _ in 0..=case.n_repeats {
        let start = Instant::now();
        engine.gradient(&lora, &group, 1.0, &mut |_| coefficients.clone(), &mut gradients).unwrap();
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        engine.score(Some(&lora), &group, 1.0).unwrap();
        best[1] = best[1].min(start.elapsed().as_secs_f64());
    }
    let n_tokens = (n_in_batch + case.n_completions * (case.length - 1)) as f64;
    let n_predicting = (case.n_completions * (case.length - 1) + 1) as f64;
    let body: f64 = targets.iter().map(|(_, n_in, n_out)| (n_in * n_out) as f64).sum();
    let head = (case.model.n_embd * case.model.n_vocab) as f64;
    let forward = 2.0 * (body * n_tokens + head * n_predicting);
    let passes = if case.options.activation_bytes == 0 { 3.0 } else { 2.0 };
    println!(
        "{:28} {:9.1} {:9.1} {:9.1} {:9.1} {:9.1}",
        case.name,
        best[0] * 1e3,
        best[1] * 1e3,
        passes * forward / best[0] / 1e9,
        forward / best[1] / 1e9,
        engine.memory_bytes() as f64 / f64::from(1 << 20)
    );
}
