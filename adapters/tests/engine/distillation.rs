//! Distillation against transformers and peft: `tests/golden/distill`, where `make.py` tells what the numbers are.

use std::path::Path;

use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput, Teacher, TokenDivergences},
    lora::LoraGrads,
};

use crate::hf::{Reference, errors, read_safetensors};

/// As `make.py` has it.
const TEMPERATURE: f32 = 0.7;

#[test]
fn divergences_and_their_gradients_are_those_of_torch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/distill");
    for model in ["tiny-llama", "tiny-qwen3"] {
        let Some(reference) = Reference::find(model) else { continue };
        let golden = folder.join(format!("{model}.safetensors"));
        let file = reference.gguf();
        let options = || EngineOptions { n_threads: 1, ..EngineOptions::default() };
        let mut student = Engine::from_file(&file, options()).unwrap();
        let mut teacher = Engine::from_file(&file, options()).unwrap();
        let lora = reference.adapter();
        let prompt = reference.prompt(reference.lora["runs"]["group"]["case"].as_str().unwrap());
        let completions = reference.completions("group");
        let completions: Vec<_> = completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &prompt, completions: &completions };
        let weights = reference.numbers("group", "weights");
        let mut gradients = LoraGrads::zeros(&lora);
        let slopes = &mut |_: &[TokenDivergences]| weights.clone();
        let teacher = Teacher { engine: &mut teacher, prompt: &prompt };
        let divergences = student.distill(&lora, &group, TEMPERATURE, teacher, slopes, &mut gradients).unwrap();

        let numbers = read_safetensors(&golden);
        let (_, expected) = numbers.iter().find(|(name, _)| name == "kl").unwrap();
        let got: Vec<f32> = divergences.into_iter().flat_map(|tokens| tokens.kl).collect();
        assert_eq!(got.len(), expected.values.len());
        let differences = got.iter().zip(&expected.values).map(|(got, expected)| (got - expected).abs());
        let worst_kl =
            differences.fold(0.0f32, |worst, error| if error.is_nan() { f32::NAN } else { worst.max(error) });
        let worst = errors(&gradients, &reference.factors(golden.to_str().unwrap()))
            .into_iter()
            .max_by(|(_, a), (_, b)| a.total_cmp(b))
            .unwrap();
        eprintln!("{model}: divergence {worst_kl:.1e}, gradient {:.1e} ({})", worst.1, worst.0);
        // f32 against float64, divergences of up to 3 nats from logits of some tens.
        assert!(worst_kl < 1e-4, "{model}: {worst_kl}");
        assert!(worst.1 < 1e-4, "{model}: {worst:?}");
    }
}
