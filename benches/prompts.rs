//! The prompt of an activated adapter in the sampler, computed and restored, over a random model of SmolLM2-135M's shape:
//! `cargo bench --profile dev --bench prompts -- [--prompt 1024] [--threads 1] [--repeats 3]` prints one line of JSON.
//!
//! - `computed_ms`: the question by the base, then the invocation with the adapter; `restored_ms`: the question from the
//!   cache. Each the fastest of the repeats. The logits are compared to the bit.
//! - `switch_ms`: taking the adapter from the context and putting it back, as a question that is computed needs it: a prompt
//!   of two tokens whose second invokes the adapter, less one of two tokens that begins with the invocation. The
//!   former also computes its tokens one by one, so this is an upper bound.
//! - `state_bytes`: keys and values that are kept of it.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{sync::Arc, time::Instant};

use owlet::{
    Adapter, AdapterFile, EncodedPrompt, LoraConfig, LoraMode, LoraWeights, Model, ModelOptions, Precision, QuantType,
    Session, SessionOptions,
    quant::synth::{SynthModel, SynthOptions, synthesize},
};
use owlet_adapters::engine::{Engine, EngineOptions};
use owlet_runtime::PromptCache;
use serde_json::json;

/// Invokes the adapter; occurs once.
const INVOCATION: i32 = 255;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().unwrap())
    };
    let (n_prompt, n_threads, n_repeats) = (number("--prompt", 1024), number("--threads", 1), number("--repeats", 3));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let shape = SynthModel::preset("smollm2-135m").unwrap();
    let options = SynthOptions { dtype: QuantType::Q8_0, threads: n_threads, ..SynthOptions::default() };
    synthesize(&shape, &path, &options, &mut |_| ()).unwrap();

    let model = Model::load(&path, &ModelOptions { n_threads, ..ModelOptions::default() }).unwrap();
    let n_ctx = n_prompt + 16;
    let options = SessionOptions { n_ctx, n_threads, ..SessionOptions::default() };
    let mut session = Session::new(&model, &options).unwrap();
    session.set_adapters(&[(adapter(&model, n_threads), 1.0)]).unwrap();
    let cache = Arc::new(PromptCache::new(1 << 30));
    let question = (0..n_prompt as i32 - 3).map(|token| token % 200);
    let prompt = EncodedPrompt::from_tokens(question.chain([INVOCATION, 1, 2]).collect());

    let fastest = |session: &mut Session, cache: Option<&Arc<PromptCache>>, tokens: &EncodedPrompt| {
        session.set_prompt_cache(cache.cloned());
        let times = (0..n_repeats).map(|_| {
            session.clear_all();
            let start = Instant::now();
            session.prefill(0, tokens).unwrap();
            start.elapsed().as_secs_f64() * 1e3
        });
        let fastest = times.fold(f64::INFINITY, f64::min);
        (fastest, session.logits(0).unwrap().to_vec())
    };
    let (computed_ms, computed) = fastest(&mut session, None, &prompt);
    session.set_prompt_cache(Some(Arc::clone(&cache)));
    session.clear_all();
    session.prefill(0, &prompt).unwrap();
    let (restored_ms, restored) = fastest(&mut session, Some(&cache), &prompt);
    assert!(computed == restored && cache.stats().n_computed == 1, "other bits, or not restored");
    let (two_calls_ms, _) = fastest(&mut session, None, &EncodedPrompt::from_tokens(vec![1, INVOCATION]));
    let (one_call_ms, _) = fastest(&mut session, None, &EncodedPrompt::from_tokens(vec![INVOCATION, 1]));
    let report = json!({
        "prompt": n_prompt,
        "threads": n_threads,
        "computed_ms": computed_ms,
        "restored_ms": restored_ms,
        "switch_ms": two_calls_ms - one_call_ms,
        "state_bytes": cache.n_bytes(),
    });
    println!("{report}");
}

/// An adapter on all linear layers, of rank 8.
fn adapter(model: &Model, n_threads: usize) -> Arc<Adapter> {
    let engine = Engine::new(model.path(), EngineOptions { n_threads, ..EngineOptions::default() }).unwrap();
    let mode = LoraMode::Activated { invocation: vec![INVOCATION] };
    let config = LoraConfig { rank: 8, mode, ..LoraConfig::default() };
    let weights = LoraWeights::init(&config, &engine.lora_targets(), 0).unwrap();
    let file = AdapterFile { architecture: model.info().architecture.clone(), weights, provenance: None };
    Arc::new(Adapter::from_bytes(model, &file.to_bytes(Precision::F32).unwrap()).unwrap())
}
