//! Gradients and log-probabilities of the engine against Hugging Face transformers and peft, on F32 bases.

use crate::hf::{self, Reference};
use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput, TokenScores},
    lora::{LoraGrads, LoraWeights},
    optim::{AdamW, AdamWOptions},
};

const MODELS: [&str; 4] = ["tiny-qwen3", "tiny-llama", "tiny-qwen3vl-tied", "tiny-qwen3vl-untied"];

/// Relative L2 error that a tensor's gradient may have. The references themselves are up to 1e-5 from float64; measured are
/// 7e-6, and 2e-5 in tiny-qwen3vl-untied, one of whose frequencies turns by another position in ggml.
const TOLERANCE: f64 = 5e-5;

/// Largest error of a log-probability, which reach -25; measured are 3e-5, and 6e-5 in the same model.
const LOGPROB_TOLERANCE: f32 = 1e-4;

struct Measured {
    scores: Vec<TokenScores>,
    gradients: LoraGrads,
}

fn measure(engine: &mut Engine, reference: &Reference, lora: &LoraWeights, run: &str) -> Measured {
    let case = reference.lora["runs"][run]["case"].as_str().unwrap();
    let prompt = reference.prompt(case);
    let completions = reference.completions(run);
    let completions: Vec<_> = completions.iter().map(Vec::as_slice).collect();
    let group = GroupInput { prompt: &prompt, completions: &completions };
    let key = if run.starts_with("g2rpo") { "dloss_dlogprob" } else { "weights" };
    let coefficients = reference.numbers(run, key);
    let mut gradients = LoraGrads::zeros(lora);
    let scores = engine.gradient(lora, &group, 1.0, &mut |_| coefficients.clone(), &mut gradients).unwrap();
    assert_eq!(scores, engine.score(Some(lora), &group, 1.0).unwrap(), "{run}: both ways to score are one computation");
    Measured { scores, gradients }
}

#[test]
fn gradients_and_logprobs_are_those_of_transformers() {
    let mut failures = Vec::new();
    for model in MODELS {
        let Some(reference) = Reference::find(model) else { continue };
        let file = reference.gguf();
        let lora = reference.adapter();
        // Nothing kept and small blocks; everything kept.
        let frugal = EngineOptions {
            n_threads: 1,
            activation_bytes: 0,
            attention_bytes: 20_000,
            logit_bytes: 40_000,
            ..EngineOptions::default()
        };
        let generous = EngineOptions { n_threads: 1, ..EngineOptions::default() };
        for (name, options) in [("generous", generous), ("frugal", frugal)] {
            let mut engine = Engine::from_file(&file, options).unwrap();
            for run in ["text", "image", "group", "g2rpo_token", "g2rpo_seq"] {
                if !reference.has(run) {
                    continue;
                }
                let measured = measure(&mut engine, &reference, &lora, run);
                let expected = reference.factors(&format!("lora/grad_{run}.safetensors"));
                let mut errors = hf::errors(&measured.gradients, &expected);
                errors.sort_by(|(_, a), (_, b)| b.total_cmp(a));
                let logprobs = reference.numbers(run, "logprobs");
                let got = measured.scores.iter().flat_map(|scores| &scores.logprobs);
                let logprob_error = got
                    .zip(logprobs.iter().flatten())
                    .map(|(got, expected)| (got - expected).abs())
                    .fold(0.0f32, |worst, error| if error.is_nan() { f32::NAN } else { worst.max(error) });
                let (worst, error) = &errors[0];
                eprintln!("{model} {name} {run}: gradient {error:.1e} ({worst}), log-probability {logprob_error:.1e}");
                let is_far = error.is_nan() || *error > TOLERANCE;
                if is_far || logprob_error.is_nan() || logprob_error > LOGPROB_TOLERANCE {
                    failures.push(format!("{model} {name} {run}: {:?} {logprob_error}", &errors[..3]));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn three_optimizer_steps_are_those_of_torch() {
    for model in MODELS {
        let Some(reference) = Reference::find(model) else { continue };
        let options = EngineOptions { n_threads: 1, ..EngineOptions::default() };
        let mut engine = Engine::from_file(&reference.gguf(), options).unwrap();
        for run in ["text", "group"] {
            let Some(expected) = reference.after_three_steps(run) else { continue };
            let mut lora = reference.adapter();
            let mut optimizer =
                AdamW::new(AdamWOptions { max_grad_norm: f64::INFINITY, ..AdamWOptions::default() }, &lora);
            for _ in 0..3 {
                let gradients = measure(&mut engine, &reference, &lora, run).gradients;
                optimizer.step(&mut lora, &gradients, 1e-3);
            }
            let mut worst = 0.0f64;
            for (module, (name, (a, b))) in lora.modules.iter().zip(&expected) {
                for (got, expected) in [(&module.a, &a.values), (&module.b, &b.values)] {
                    // Adam divides by the gradient's size, so noise in small gradients shows. Measured are 3e-6, and 6e-5 in
                    // the model where a frequency turns by another position.
                    let error = hf::relative_error(got, expected);
                    worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
                    assert!(error < 2e-4, "{model} {run} {name}: {error}");
                }
            }
            eprintln!("{model} {run}: parameters {worst:.1e}");
        }
    }
}
