//! Recovery of accuracy on a real, if small, model: the embedded one, quantized hard, against its F16 source.

use std::{fs, path::Path};

use owlet::{
    CancelToken, Dataset, Decay, LoraConfig, Model, ModelOptions, QuantType, Responses, Schedule, TuneObjective,
    TuneOptions, Tuner, Who,
    quant::{QuantizeRequest, quantize},
    tune::Quantity,
};
use owlet_models::{DatasetOptions, MMPROJ_GGUF, MODEL_GGUF, Split, write_dataset};

fn draw(folder: &Path, split: Split, count: u64) -> Dataset {
    let options = DatasetOptions { seed: 5, split, count, ..DatasetOptions::default() };
    let path = write_dataset(&folder.join(format!("{split:?}")), &options).expect("a writable folder");
    Dataset::open(&path).expect("good rows")
}

#[test]
#[ignore = "half a minute: `make test-heavy` runs it"]
fn the_embedded_model_in_2_bits_recovers_on_questions_that_it_did_not_see() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("source.gguf"), MODEL_GGUF).expect("a writable folder");
    fs::write(at("mmproj.gguf"), MMPROJ_GGUF).expect("a writable folder");
    let request = QuantizeRequest::new(at("source.gguf"), at("small.gguf"), QuantType::Q2K);
    quantize(&request, &mut |_| {}).expect("a model that can be quantized");
    let load = |name: &str| Model::load(at(name), &ModelOptions::default()).expect("loads");
    let (source, small) = (load("source.gguf"), load("small.gguf"));

    let n_steps = 40;
    let options = TuneOptions {
        n_steps,
        batch_size: 8,
        max_response_tokens: 64,
        // With the suffix that it was trained on, this model is so sure of itself that 2 bits cost it 0.005 nats.
        suffix: String::new(),
        objective: TuneObjective::Distillation { temperature: 1.0 },
        responses: Responses::Teacher,
        lora: LoraConfig { rank: 8, ..LoraConfig::default() },
        schedule: Schedule { learning_rate: 2e-4, warmup_steps: 3, decay: Decay::Cosine },
        ..TuneOptions::default()
    };
    let mut tuner =
        Tuner::new(&small, Some(&source), draw(folder.path(), Split::Train, 120), options).expect("good options");
    let cancel = CancelToken::new();
    for _ in 0..n_steps {
        tuner.step(&cancel, &mut |_| {}).expect("nothing stops it");
    }
    let held_out = draw(folder.path(), Split::HeldOut, 30);
    let [before, after] =
        [Who::Base, Who::Adapted].map(|who| tuner.fit(&held_out, who, &cancel, &mut |_| {}).expect("fits"));
    let kl = after.change(&before, Quantity::Kl).expect("there is a teacher");
    let agreement = after.change(&before, Quantity::Agreement).expect("there is a teacher");
    // Measured by the command with these settings: 0.154 to 0.097, and 89.3 to 91.3 %.
    assert!(kl.after.mean < 0.8 * kl.before.mean && kl.change.high < 0.0, "{kl:?}");
    assert!(agreement.after.mean > agreement.before.mean, "{agreement:?}");
}
