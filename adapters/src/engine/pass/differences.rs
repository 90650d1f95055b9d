//! The gradient of a layer's input through all of the layer, adapters included, against finite differences of its output.

use std::sync::Arc;

use owlet_runtime::{
    EncodedPrompt,
    gguf::{GgmlType, GgufFile, GgufWriter},
    rng::Rng,
};

use super::*;
use crate::{engine::EngineOptions, lora::LoraConfig};

const N_EMBD: usize = 32;

fn random(key: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::keyed(&[key, 51]);
    (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// A model of one layer with random weights: biases in qwen2, norms of heads in qwen3, neither in llama.
fn model(architecture: &str) -> Arc<GgufFile> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", architecture);
    for (key, value) in [
        ("block_count", 1u32),
        ("embedding_length", N_EMBD as u32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 8),
    ] {
        writer.set(format!("{architecture}.{key}"), value);
    }
    writer.set(format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-6f32);
    let n_embd = N_EMBD as u64;
    let mut tensors = vec![("token_embd.weight", vec![n_embd, 50]), ("output_norm.weight", vec![n_embd])];
    tensors.extend([
        ("blk.0.attn_norm.weight", vec![n_embd]),
        ("blk.0.ffn_norm.weight", vec![n_embd]),
        ("blk.0.attn_q.weight", vec![n_embd, 32]),
        ("blk.0.attn_k.weight", vec![n_embd, 16]),
        ("blk.0.attn_v.weight", vec![n_embd, 16]),
        ("blk.0.attn_output.weight", vec![32, n_embd]),
        ("blk.0.ffn_gate.weight", vec![n_embd, 64]),
        ("blk.0.ffn_up.weight", vec![n_embd, 64]),
        ("blk.0.ffn_down.weight", vec![64, n_embd]),
    ]);
    match architecture {
        "qwen2" => tensors.extend([
            ("blk.0.attn_q.bias", vec![32]),
            ("blk.0.attn_k.bias", vec![16]),
            ("blk.0.attn_v.bias", vec![16]),
        ]),
        "qwen3" => {
            tensors.extend([("blk.0.attn_q_norm.weight", vec![8]), ("blk.0.attn_k_norm.weight", vec![8])]);
        }
        _ => {}
    }
    for (name, shape) in &tensors {
        writer.declare(name, shape, GgmlType::F32).expect("a valid shape");
    }
    let mut stream = writer.start(Vec::new()).expect("memory");
    for (key, (name, shape)) in (100..).zip(&tensors) {
        let n = shape.iter().product::<u64>() as usize;
        let spread = if shape.len() == 2 { 2.0 * (3.0 / shape[0] as f32).sqrt() } else { 0.5 };
        let centre = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let values: Vec<f32> = random(key, n).iter().map(|value| centre + spread * value).collect();
        stream.write_tensor(name, bytemuck::cast_slice(&values)).expect("memory");
    }
    Arc::new(GgufFile::from_bytes(stream.finish().expect("complete")).expect("valid"))
}

#[test]
fn the_gradient_of_a_layers_input_is_that_of_finite_differences() {
    for architecture in ["llama", "qwen2", "qwen3"] {
        // Whole, and with attention in many blocks.
        for attention_bytes in [64 << 20, 1] {
            let options =
                EngineOptions { n_threads: 1, activation_bytes: 0, attention_bytes, ..EngineOptions::default() };
            let mut engine = Engine::from_file(&model(architecture), options).expect("a valid model");
            let config = LoraConfig { rank: 2, alpha: 2.0, ..LoraConfig::default() };
            let mut lora = LoraWeights::init(&config, &engine.lora_targets(), 0).expect("targets");
            lora.modules.iter_mut().zip(200..).for_each(|(module, key)| module.b = random(key, module.b.len()));
            let prompt = EncodedPrompt::from_tokens(vec![1, 2, 3]);
            let group = GroupInput { prompt: &prompt, completions: &[&[4, 5], &[6, 7, 8]] };
            let layout = engine.layout(&group, 0);
            let mut pass = Pass::new(&mut engine, Some(&lora), &group, &layout, None, Keep::Inputs).expect("memory");
            pass.upload(0);
            let [input, output] = [0, 1].map(|layer| pass.workspace.hidden(layer).clone());
            let x = random(1, input.n_elements());
            let slopes = random(2, output.n_elements());
            let forward = |pass: &mut Pass<'_>, x: &[f32]| {
                pass.backend.write(&input, x);
                let graph = pass.forward_graph(0);
                pass.backend.run(graph).expect("runs");
                dot(&pass.backend.read_all(&output), &slopes)
            };
            forward(&mut pass, &x);
            let [dx, dy] = [0, 1].map(|layer| pass.workspace.gradient(layer).clone());
            pass.backend.write(&dy, &slopes);
            let graph = pass.backward_graph(0, true);
            pass.backend.run(graph).expect("runs");
            let gradient = pass.backend.read_all(&dx);
            // Along the gradient, which cannot be small, and along a random direction, which finds what is missing.
            let norm = dot(&gradient, &gradient).sqrt();
            let scale = (gradient.len() as f64).sqrt() / norm;
            let own: Vec<f32> = gradient.iter().map(|slope| slope * scale as f32).collect();
            for direction in [own, random(3, x.len())] {
                let step = 1e-3;
                let mut at = |step: f32| {
                    let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
                    forward(&mut pass, &moved)
                };
                let measured = (at(step) - at(-step)) / (2.0 * f64::from(step));
                let expected = dot(&gradient, &direction);
                // F32 sums over the step, and its curvature.
                let error = (measured - expected).abs() / (norm * dot(&direction, &direction).sqrt());
                assert!(error < 2e-3, "{architecture}, {attention_bytes}: {measured} for {expected}");
            }
        }
    }
}
