//! Activated adapters: gradients by finite differences and by transformers, and the cache of what the base computes.

use std::{fs, path::Path};

use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput, PrefixCacheOptions, PrefixCacheStats, TokenScores},
    lora::{LoraGrads, LoraMode, LoraWeights, Target},
};
use owlet_runtime::{EncodedPrompt, ErrorKind, Segment, TokenId};
use serde_json::Value;

use crate::{
    exactness::{FAMILIES, Scene, flat, options},
    hf::{self, Array, Reference, relative_error},
    random::RandomModel,
};

/// A scene whose adapter is invoked by the last `n` tokens of the prompt, behind the picture where there is one.
fn scene(model: &RandomModel, options: EngineOptions, lengths: &[usize], n: usize) -> Scene {
    let mut scene = Scene::new(model, options, 4, &Target::ALL, lengths);
    scene.lora.config.mode = LoraMode::Activated { invocation: last_tokens(&scene.prompt, n) };
    scene
}

fn last_tokens(prompt: &EncodedPrompt, n: usize) -> Vec<TokenId> {
    match prompt.segments.last() {
        Some(Segment::Tokens(tokens)) => tokens[tokens.len() - n..].to_vec(),
        _ => panic!("prompts here end with tokens"),
    }
}

fn logprobs(scores: &[TokenScores]) -> Vec<f32> {
    scores.iter().flat_map(|scores| scores.logprobs.clone()).collect()
}

/// As for full adapters: every tensor is moved along its own gradient, which must change the loss by its norm.
#[test]
fn gradients_are_those_of_finite_differences() {
    let mut failures = Vec::new();
    for family in FAMILIES {
        let model = RandomModel { n_layers: 2, ..RandomModel::small(family) };
        let mut scene = scene(&model, options(), &[1, 7, 4], 3);
        failures.extend(scene.finite_difference_failures().iter().map(|failure| format!("{family} {failure}")));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn only_tokens_before_the_invocation_are_the_bases() {
    for family in ["qwen3vl", "llama"] {
        let model = RandomModel::small(family);
        let mut activated = scene(&model, options(), &[9, 2, 5], 3);
        let mode = activated.lora.config.mode.clone();
        let activated_scores = activated.scores();

        // Without an update, both are the base.
        let fresh = |scene: &mut Scene| scene.lora.modules.iter_mut().for_each(|module| module.b.fill(0.0));
        fresh(&mut activated);
        let base = activated.engine_scores(|engine, group| engine.score(None, group, 1.0));
        let shared = activated.engine_scores(|engine, group| engine.score_base(&mode, group, 1.0));
        for scores in [activated.scores(), shared] {
            let error = relative_error(&logprobs(&scores), &logprobs(&base));
            assert!(error < 1e-6, "{family}: {error}");
        }
        // With one, the mode matters.
        let full_scores = Scene::new(&model, options(), 4, &Target::ALL, &[9, 2, 5]).scores();
        assert!(relative_error(&logprobs(&activated_scores), &logprobs(&full_scores)) > 1e-3, "{family}");

        // Invoked by the first token, an adapter acts on all of them.
        let first = match &activated.prompt.segments[0] {
            Segment::Tokens(tokens) => tokens.clone(),
            Segment::Image(_) => panic!("prompts here begin with tokens"),
        };
        let mut all = Scene::new(&model, options(), 4, &Target::ALL, &[9, 2, 5]);
        let expected = all.gradient();
        all.lora.config.mode = LoraMode::Activated { invocation: first };
        assert_eq!(all.gradient(), expected, "{family}");
        assert_eq!(all.engine.prefix_stats(), PrefixCacheStats::default());
    }
}

#[test]
fn a_group_is_the_sum_of_its_sequences_and_memory_options_change_nothing() {
    let model = RandomModel::small("qwen3vl");
    let lengths = [20, 3, 45, 45];
    let mut together = scene(&model, options(), &lengths, 2);
    let (scores, gradients) = together.gradient();
    let coefficients = together.coefficients();
    let mut sum = LoraGrads::zeros(&together.lora);
    for (index, completion) in together.completions.clone().iter().enumerate() {
        let group = GroupInput { prompt: &together.prompt, completions: &[completion] };
        let answer = &mut |_: &[TokenScores]| vec![coefficients[index].clone()];
        together.engine.gradient(&together.lora, &group, 1.0, answer, &mut sum).unwrap();
    }
    // f32 sums in another order, as below.
    assert!(relative_error(&flat(&gradients), &flat(&sum)) < 1e-5);
    assert_eq!(together.engine.prefix_stats(), PrefixCacheStats { n_memory: 4, n_disk: 0, n_computed: 1 });
    for (name, options) in [
        ("layers computed again", EngineOptions { activation_bytes: 0, ..options() }),
        ("blocks of attention", EngineOptions { attention_bytes: 30_000, ..options() }),
        ("tiny blocks, computed again", EngineOptions { attention_bytes: 1, activation_bytes: 0, ..options() }),
        ("two threads", EngineOptions { n_threads: 2, ..options() }),
    ] {
        let (other_scores, other) = scene(&model, options, &lengths, 2).gradient();
        let error = relative_error(&logprobs(&other_scores), &logprobs(&scores));
        assert!(error < 1e-5, "{name}: {error}");
        let error = relative_error(&flat(&other), &flat(&gradients));
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn a_prefix_that_was_kept_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let model = RandomModel::small("qwen3vl");
    let cached = |memory_bytes| EngineOptions {
        prefix_cache: PrefixCacheOptions {
            memory_bytes,
            directory: Some(folder.path().join("prefixes")),
            ..PrefixCacheOptions::default()
        },
        ..options()
    };
    let stats = |n_memory, n_disk, n_computed| PrefixCacheStats { n_memory, n_disk, n_computed };
    let expected = scene(&model, options(), &[5, 8], 3).gradient();

    let mut first = scene(&model, cached(1 << 20), &[5, 8], 3);
    assert_eq!(first.gradient(), expected, "computed");
    assert_eq!(first.gradient(), expected, "from memory");
    assert_eq!(first.engine.prefix_stats(), stats(1, 0, 1));

    let mut second = scene(&model, cached(0), &[5, 8], 3);
    assert_eq!(second.gradient(), expected, "from the disk");
    assert_eq!(second.gradient(), expected, "from the disk again, for lack of memory");
    assert_eq!(second.engine.prefix_stats(), stats(0, 2, 0));

    // Another picture is another prompt.
    for segment in &mut second.prompt.segments {
        if let Segment::Image(image) = segment {
            std::sync::Arc::make_mut(image).data[7] += 0.5;
        }
    }
    assert_ne!(second.gradient(), expected);
    assert_eq!(second.engine.prefix_stats(), stats(0, 2, 1));

    // So is one of another model, even in the same folder.
    let other_model = RandomModel { n_ff: 96, ..model.clone() };
    let mut other = scene(&other_model, cached(1 << 20), &[5, 8], 3);
    other.gradient();
    assert_eq!(other.engine.prefix_stats(), stats(0, 0, 1));

    for entry in fs::read_dir(folder.path().join("prefixes")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let mut third = scene(&model, cached(1 << 20), &[5, 8], 3);
    assert_eq!(third.gradient(), expected, "damaged on the disk");
    assert_eq!(third.engine.prefix_stats(), stats(0, 0, 1));
    let mut fourth = scene(&model, cached(1 << 20), &[5, 8], 3);
    assert_eq!(fourth.gradient(), expected, "written again");
    assert_eq!(fourth.engine.prefix_stats(), stats(0, 1, 0));

    // A folder that cannot be made is no reason to stop.
    fs::write(folder.path().join("file"), "").unwrap();
    let mut blocked = cached(0);
    blocked.prefix_cache.directory = Some(folder.path().join("file/prefixes"));
    assert_eq!(scene(&model, blocked, &[5, 8], 3).gradient(), expected);
}

#[test]
fn prompts_that_do_not_invoke_the_adapter_are_refused() {
    let model = RandomModel::small("qwen3");
    let mut scene = scene(&model, options(), &[3], 3);
    for invocation in [vec![], vec![89, 89, 89, 89]] {
        scene.lora.config.mode = LoraMode::Activated { invocation };
        let mut gradients = LoraGrads::zeros(&scene.lora);
        let group = GroupInput { prompt: &scene.prompt, completions: &[&[1, 2]] };
        let error = scene.engine.score(Some(&scene.lora), &group, 1.0).expect_err("not invoked");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let answer = &mut |_: &[TokenScores]| -> Vec<Vec<f32>> { unreachable!() };
        let error = scene.engine.gradient(&scene.lora, &group, 1.0, answer, &mut gradients).expect_err("not invoked");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

/// Numbers of `golden/alora/make.py`: each gradient's norm and sums with signs.
#[test]
fn gradients_and_logprobs_are_those_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/alora");
    let mut failures = Vec::new();
    for name in ["tiny-llama", "tiny-qwen3", "tiny-qwen3vl-tied"] {
        let Some(reference) = Reference::find(name) else { continue };
        let golden: Value = serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let mut lora = reference.adapter();
        let invocation = numbers(&golden["invocation"]).iter().map(|&token| token as TokenId).collect();
        lora.config.mode = LoraMode::Activated { invocation };
        let mut engine = Engine::from_file(&reference.gguf(), options()).unwrap();
        for (run, golden) in golden["runs"].as_object().unwrap() {
            let case = reference.lora["runs"][run]["case"].as_str().unwrap();
            if !reference.has_case(case) {
                continue;
            }
            let completions = reference.completions(run);
            let completions: Vec<_> = completions.iter().map(Vec::as_slice).collect();
            let prompt = reference.prompt(case);
            let group = GroupInput { prompt: &prompt, completions: &completions };
            let coefficients = reference.numbers(run, "weights");
            let mut gradients = LoraGrads::zeros(&lora);
            let scores = engine.gradient(&lora, &group, 1.0, &mut |_| coefficients.clone(), &mut gradients).unwrap();
            let expected: Vec<f32> =
                golden["logprobs"].as_array().unwrap().iter().flat_map(numbers).map(|x| x as f32).collect();
            let differences = logprobs(&scores).into_iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let error = differences.max_by(f32::total_cmp).unwrap_or(0.0);
            // As for full adapters (`references.rs`).
            if error.is_nan() || error > 1e-4 || expected.len() != logprobs(&scores).len() {
                failures.push(format!("{name} {run}: log-probabilities {error}"));
            }
            let golden = golden["gradients"].as_object().unwrap();
            assert_eq!(golden.len(), 2 * lora.modules.len());
            let errors =
                golden.iter().map(|(key, sums)| gradient_error(&reference, &lora, &gradients, key, &numbers(sums)));
            let worst =
                errors.fold(0.0f64, |worst, error| if error.is_nan() { f64::INFINITY } else { worst.max(error) });
            eprintln!("{name} {run}: gradient {worst:.1e}, log-probability {error:.1e}");
            if worst > 1e-4 {
                failures.push(format!("{name} {run}: gradient {worst}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Largest difference of the gradient with peft's name `key` to its norm and signed sums, in norms.
fn gradient_error(
    reference: &Reference,
    lora: &LoraWeights,
    gradients: &LoraGrads,
    key: &str,
    expected: &[f64],
) -> f64 {
    let (module, factor) = key.strip_suffix(".weight").unwrap().rsplit_once(".lora_").unwrap();
    let name = hf::gguf_name(&format!("{module}.weight")).unwrap();
    let index = lora.modules.iter().position(|module| module.name == name).unwrap();
    let (module, gradients) = (&lora.modules[index], &gradients.modules[index]);
    let (values, shape) = match factor {
        "A" => (&gradients.a, [lora.config.rank, module.n_in]),
        _ => (&gradients.b, [module.n_out, lora.config.rank]),
    };
    let signed_sum = |k: usize| -> f64 {
        let values_of_signs = (0..values.len()).map(|index| sign(k, index)).collect();
        let mut signs = Array { shape: shape.to_vec(), values: values_of_signs };
        if factor == "B" {
            reference.to_gguf_order(&name, &mut signs);
        }
        values.iter().zip(&signs.values).map(|(&x, &sign)| f64::from(x) * f64::from(sign)).sum()
    };
    let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let got = std::iter::once(norm).chain((0..8).map(signed_sum));
    got.zip(expected)
        .map(|(got, sum)| (got - sum).abs() / expected[0])
        .fold(0.0, |worst, error| if error.is_nan() { f64::NAN } else { worst.max(error) })
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// As `sign` in the script.
fn sign(k: usize, index: usize) -> f32 {
    let z = ((index * 8 + k) as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    if (z ^ (z >> 31)) >> 63 == 1 { 1.0 } else { -1.0 }
}
