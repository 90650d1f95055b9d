//! Gradients against transformers and peft for other targets and ranks than the references beside the checkpoints have:
//! `tests/golden/targets`, where `make.py` tells what the numbers are.

use std::path::Path;

use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput},
    lora::{LoraConfig, LoraGrads, LoraModule, LoraWeights, Target},
};
use owlet_runtime::rng::Rng;

use crate::hf::{Array, Reference, read_safetensors, relative_error};

/// As in `references`.
const TOLERANCE: f64 = 5e-5;

const NAMES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The adapter that `make.py` trained, in the order of the GGUF file.
fn adapter(reference: &Reference, tensors: &[(String, usize, usize)], rank: usize, targets: &[Target]) -> LoraWeights {
    let config = LoraConfig {
        rank,
        alpha: 2.0 * rank as f32,
        targets: targets.iter().copied().collect(),
        ..LoraConfig::default()
    };
    let module = |(name, n_in, n_out): &(String, usize, usize)| {
        let target = Target::of_tensor(name).filter(|target| targets.contains(target))?;
        let layer = layer(name);
        let values = |factor: u64, shape: [usize; 2]| {
            let mut rng = Rng::keyed(&[rank as u64, layer, target as u64, factor]);
            let values = (0..shape[0] * shape[1]).map(|_| (rng.uniform() * 0.2 - 0.1) as f32).collect();
            Array { shape: shape.to_vec(), values }
        };
        let a = values(0, [rank, *n_in]);
        let mut b = values(1, [*n_out, rank]);
        reference.to_gguf_order(name, &mut b);
        Some(LoraModule { name: name.clone(), n_in: *n_in, n_out: *n_out, a: a.values, b: b.values })
    };
    LoraWeights { config, modules: tensors.iter().filter_map(module).collect() }
}

fn layer(name: &str) -> u64 {
    name.split('.').nth(1).unwrap().parse().unwrap()
}

#[test]
fn gradients_of_other_targets_and_ranks_are_those_of_peft() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/targets");
    let mut failures = Vec::new();
    for model in ["tiny-llama", "tiny-qwen3vl-tied"] {
        let Some(reference) = Reference::find(model) else { continue };
        let options = EngineOptions { n_threads: 1, ..EngineOptions::default() };
        let mut engine = Engine::from_file(&reference.gguf(), options).unwrap();
        for (label, targets, rank) in [
            ("qv", &[Target::Q, Target::V][..], 4),
            ("qv", &[Target::Q, Target::V], 8),
            ("all", &Target::ALL, 8),
            ("all", &Target::ALL, 16),
        ] {
            let expected = read_safetensors(&folder.join(format!("{model}_{label}_r{rank}.safetensors")));
            let lora = adapter(&reference, &engine.lora_targets(), rank, targets);
            for run in ["text", "image", "group"] {
                let of_run: Vec<_> = expected
                    .iter()
                    .filter_map(|(key, array)| Some((key.strip_prefix(&format!("{run}."))?, array)))
                    .collect();
                if of_run.is_empty() {
                    continue;
                }
                let prompt = reference.prompt(reference.lora["runs"][run]["case"].as_str().unwrap());
                let completions = reference.completions(run);
                let completions: Vec<_> = completions.iter().map(Vec::as_slice).collect();
                let weights = reference.numbers(run, "weights");
                let mut gradients = LoraGrads::zeros(&lora);
                let group = GroupInput { prompt: &prompt, completions: &completions };
                engine.gradient(&lora, &group, 1.0, &mut |_| weights.clone(), &mut gradients).unwrap();

                let mut n_compared = 0;
                let mut worst = 0.0f64;
                for (module, gradient) in lora.modules.iter().zip(&gradients.modules) {
                    let name = NAMES[Target::of_tensor(&module.name).unwrap() as usize];
                    for (factor, values) in [("A", &gradient.a), ("B", &gradient.b)] {
                        let key = format!("{}.{name}.lora_{factor}", layer(&module.name));
                        let Some((_, array)) = of_run.iter().find(|(known, _)| *known == key) else { continue };
                        let mut array = (*array).clone();
                        if factor == "B" {
                            reference.to_gguf_order(&module.name, &mut array);
                        }
                        let error = relative_error(values, &array.values);
                        worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
                        n_compared += 1;
                    }
                }
                eprintln!("{model} {label} rank {rank} {run}: {worst:.1e} over {n_compared} tensors");
                if worst > TOLERANCE || n_compared != of_run.len() {
                    failures
                        .push(format!("{model} {label} rank {rank} {run}: {worst}, {n_compared} of {}", of_run.len()));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
