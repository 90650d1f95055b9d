//! The engine against itself: finite differences, groups against separate sequences, packed against unpacked weights.

use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput, TokenScores},
    lora::{LoraGrads, LoraWeights, Target},
};
use owlet_runtime::{EncodedPrompt, Result, TokenId, gguf::GgmlType, rng::Rng};

use crate::{
    hf::relative_error,
    random::{self, RandomModel},
};

pub(crate) const FAMILIES: [&str; 5] = ["qwen3vl", "qwen3", "qwen2vl", "qwen2", "llama"];

/// A model, an adapter and a group.
pub(crate) struct Scene {
    pub(crate) engine: Engine,
    pub(crate) lora: LoraWeights,
    pub(crate) prompt: EncodedPrompt,
    pub(crate) completions: Vec<Vec<TokenId>>,
    temperature: f32,
}

impl Scene {
    pub(crate) fn new(
        model: &RandomModel,
        options: EngineOptions,
        rank: usize,
        targets: &[Target],
        lengths: &[usize],
    ) -> Self {
        let engine = Engine::from_file(&model.write(), options).unwrap();
        let lora = random::adapter(&engine.lora_targets(), rank, targets);
        let completions = lengths.iter().zip(100..).map(|(&n, key)| model.tokens(n, key)).collect();
        Self { engine, lora, prompt: model.prompt(11), completions, temperature: 1.0 }
    }

    pub(crate) fn coefficients(&self) -> Vec<Vec<f32>> {
        let mut rng = Rng::keyed(&[41]);
        let lengths = self.completions.iter().map(Vec::len);
        lengths.map(|n| (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()).collect()
    }

    pub(crate) fn gradient(&mut self) -> (Vec<TokenScores>, LoraGrads) {
        let coefficients = self.coefficients();
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &self.prompt, completions: &completions };
        let mut gradients = LoraGrads::zeros(&self.lora);
        let answer = &mut |_: &[TokenScores]| coefficients.clone();
        let scores = self.engine.gradient(&self.lora, &group, self.temperature, answer, &mut gradients).unwrap();
        (scores, gradients)
    }

    /// `sum coefficient * logprob`, the loss whose gradient `gradient` computes.
    fn loss(&mut self, lora: &LoraWeights) -> f64 {
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &self.prompt, completions: &completions };
        let scores = self.engine.score(Some(lora), &group, self.temperature).unwrap();
        let logprobs = scores.iter().flat_map(|scores| &scores.logprobs);
        let terms = logprobs.zip(self.coefficients().concat()).map(|(&logprob, c)| f64::from(logprob) * f64::from(c));
        terms.sum()
    }

    /// Scores with the adapter.
    pub(crate) fn scores(&mut self) -> Vec<TokenScores> {
        let (lora, temperature) = (self.lora.clone(), self.temperature);
        self.engine_scores(|engine, group| engine.score(Some(&lora), group, temperature))
    }

    /// What `score` gives for the group.
    pub(crate) fn engine_scores(
        &mut self,
        score: impl FnOnce(&mut Engine, &GroupInput) -> Result<Vec<TokenScores>>,
    ) -> Vec<TokenScores> {
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        score(&mut self.engine, &GroupInput { prompt: &self.prompt, completions: &completions }).unwrap()
    }

    /// Moves every tensor along its own gradient: the loss must change by the norm of the gradient. Tells where it does not.
    pub(crate) fn finite_difference_failures(&mut self) -> Vec<String> {
        let (_, gradients) = self.gradient();
        let mut failures = Vec::new();
        for (index, gradient) in gradients.tensors().enumerate() {
            let norm = gradient.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let step = 1e-2;
            let mut at = |sign: f64| {
                let mut lora = self.lora.clone();
                let tensor = lora.tensors_mut().nth(index).unwrap();
                let scale = (sign * step / norm) as f32;
                tensor.iter_mut().zip(gradient).for_each(|(value, x)| *value += scale * x);
                self.loss(&lora)
            };
            let measured = (at(1.0) - at(-1.0)) / (2.0 * step);
            // The loss is a sum of a dozen f32 log-probabilities near -5 and the step's curvature is its square.
            let error = (measured - norm).abs() / norm.max(0.05);
            if error.is_nan() || error > 1e-2 {
                failures.push(format!("tensor {index}: {measured} for {norm}"));
            }
        }
        failures
    }
}

/// One thread: the tests run beside each other, and threads that wait for threads that are not running wait long.
pub(crate) fn options() -> EngineOptions {
    EngineOptions { n_threads: 1, ..EngineOptions::default() }
}

pub(crate) fn flat(gradients: &LoraGrads) -> Vec<f32> {
    gradients.tensors().flatten().copied().collect()
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let mut failures = Vec::new();
    for family in FAMILIES {
        let model = RandomModel { n_layers: 2, ..RandomModel::small(family) };
        for (targets, temperature) in [(&Target::ALL[..], 1.0), (&[Target::Q, Target::V], 0.7), (&[Target::Gate], 1.0)]
        {
            let mut scene = Scene::new(&model, options(), 3, targets, &[1, 7, 4]);
            scene.temperature = temperature;
            let found = scene.finite_difference_failures();
            failures.extend(found.iter().map(|failure| format!("{family} {targets:?} {failure}")));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_group_is_the_sum_of_its_sequences() {
    for family in FAMILIES {
        let lengths = [5, 1, 30, 17, 2];
        let mut scene = Scene::new(&RandomModel::small(family), options(), 4, &Target::ALL, &lengths);
        let (scores, together) = scene.gradient();
        let coefficients = scene.coefficients();
        let mut sum = LoraGrads::zeros(&scene.lora);
        for (index, completion) in scene.completions.clone().iter().enumerate() {
            let group = GroupInput { prompt: &scene.prompt, completions: &[completion] };
            let answer = &mut |_: &[TokenScores]| vec![coefficients[index].clone()];
            let alone = scene.engine.gradient(&scene.lora, &group, 1.0, answer, &mut sum).unwrap();
            for (a, b) in alone[0].logprobs.iter().zip(&scores[index].logprobs) {
                assert!((a - b).abs() < 2e-5, "{family}: {a} alone, {b} in the group");
            }
        }
        // f32 sums in another order.
        let error = relative_error(&flat(&together), &flat(&sum));
        assert!(error < 1e-5, "{family}: {error}");
    }
}

#[test]
fn memory_options_do_not_change_the_result() {
    let model = RandomModel::small("qwen3vl");
    let run = |options| {
        let mut scene = Scene::new(&model, options, 4, &Target::ALL, &[20, 3, 45, 45]);
        let (scores, gradients) = scene.gradient();
        (scores, flat(&gradients))
    };
    let (scores, gradients) = run(options());
    let cases = [
        ("layers computed again", EngineOptions { activation_bytes: 0, ..options() }),
        ("blocks of attention", EngineOptions { attention_bytes: 30_000, ..options() }),
        ("tiny blocks, computed again", EngineOptions { attention_bytes: 1, activation_bytes: 0, ..options() }),
        ("the whole vocabulary", EngineOptions { logit_bytes: usize::MAX, ..options() }),
        ("chunks of the vocabulary", EngineOptions { logit_bytes: 4 * 119 * 7, ..options() }),
        ("one vocabulary entry at a time", EngineOptions { logit_bytes: 0, ..options() }),
        ("two threads", EngineOptions { n_threads: 2, ..options() }),
        ("parts of the group", EngineOptions { max_completions: 3, ..options() }),
        ("one completion at a time", EngineOptions { max_completions: 1, activation_bytes: 0, ..options() }),
    ];
    for (name, options) in cases {
        let (other_scores, other) = run(options);
        for (a, b) in scores.iter().zip(&other_scores) {
            let pairs = a.logprobs.iter().zip(&b.logprobs).chain(a.entropies.iter().zip(&b.entropies));
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 2e-5), "{name}: scores");
        }
        // f32 sums in another order.
        let error = relative_error(&other, &gradients);
        assert!(error < 1e-5, "{name}: {error}");
    }
}

/// What it costs to keep inputs of layers in F16: the gradient of a model whose inputs were rounded to 11 bits.
#[test]
fn half_checkpoints_move_the_gradient_by_their_rounding() {
    for family in FAMILIES {
        let run = |half_checkpoints| {
            let options = EngineOptions { activation_bytes: 0, half_checkpoints, ..options() };
            let mut scene = Scene::new(&RandomModel::small(family), options, 4, &Target::ALL, &[20, 3, 45, 45]);
            let (scores, gradients) = scene.gradient();
            (scores, flat(&gradients))
        };
        let ((scores, gradients), (half_scores, half)) = (run(false), run(true));
        assert_eq!(scores, half_scores, "{family}: the way forward is the same");
        let error = relative_error(&half, &gradients);
        eprintln!("{family}: half checkpoints move the gradient by {error:.1e}");
        assert!(error > 0.0 && error < 2e-3, "{family}: {error}");
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let options = || EngineOptions { n_threads: 2, ..EngineOptions::default() };
    let mut scene = Scene::new(&RandomModel::small("qwen3vl"), options(), 4, &Target::ALL, &[20, 3, 33]);
    let first = scene.gradient();
    let mut other = Scene::new(&RandomModel::small("qwen3vl"), options(), 4, &Target::ALL, &[4]);
    other.gradient();
    scene.completions.truncate(1);
    scene.gradient();
    let mut again = Scene::new(&RandomModel::small("qwen3vl"), options(), 4, &Target::ALL, &[20, 3, 33]);
    assert_eq!(first, again.gradient());
}

#[test]
fn a_fresh_adapter_scores_as_the_base_and_moves_only_b() {
    let mut scene = Scene::new(&RandomModel::small("qwen3"), options(), 5, &Target::ALL, &[6, 9]);
    scene.lora.modules.iter_mut().for_each(|module| module.b.fill(0.0));
    let (scores, gradients) = scene.gradient();
    let completions: Vec<_> = scene.completions.iter().map(Vec::as_slice).collect();
    let group = GroupInput { prompt: &scene.prompt, completions: &completions };
    assert_eq!(scores, scene.engine.score(None, &group, 1.0).unwrap());
    for (module, gradients) in scene.lora.modules.iter().zip(&gradients.modules) {
        assert!(gradients.a.iter().all(|&x| x == 0.0), "{}", module.name);
        assert!(gradients.b.iter().any(|&x| x != 0.0), "{}", module.name);
    }
}

#[test]
fn gradients_accumulate_and_zero_coefficients_add_nothing() {
    let mut scene = Scene::new(&RandomModel::small("llama"), options(), 4, &Target::ALL, &[6, 9]);
    let (_, once) = scene.gradient();
    let mut twice = once.clone();
    let coefficients = scene.coefficients();
    let completions: Vec<_> = scene.completions.iter().map(Vec::as_slice).collect();
    let group = GroupInput { prompt: &scene.prompt, completions: &completions };
    for factor in [1.0, 0.0] {
        let scaled: Vec<Vec<f32>> = coefficients.iter().map(|list| list.iter().map(|c| c * factor).collect()).collect();
        scene.engine.gradient(&scene.lora, &group, 1.0, &mut |_| scaled.clone(), &mut twice).unwrap();
    }
    twice.add_scaled(&once, -2.0);
    assert!(twice.global_norm() < 1e-6 * once.global_norm());
}

#[test]
fn entropy_and_logprob_are_those_of_the_distribution() {
    let model = RandomModel::small("qwen3");
    let mut engine = Engine::from_file(&model.write(), options()).unwrap();
    let prompt = model.prompt(9);
    let all: Vec<[TokenId; 1]> = (0..model.n_vocab as TokenId).map(|token| [token]).collect();
    let completions: Vec<&[TokenId]> = all.iter().map(|tokens| tokens.as_slice()).collect();
    let group = GroupInput { prompt: &prompt, completions: &completions };
    for temperature in [0.5, 1.0, 2.0] {
        let scores = engine.score(None, &group, temperature).unwrap();
        let logprobs: Vec<f64> = scores.iter().map(|scores| f64::from(scores.logprobs[0])).collect();
        let total: f64 = logprobs.iter().map(|logprob| logprob.exp()).sum();
        assert!((total - 1.0).abs() < 1e-5, "probabilities add up to {total}");
        let entropy: f64 = logprobs.iter().map(|logprob| -logprob * logprob.exp()).sum();
        for scores in &scores {
            assert!((f64::from(scores.entropies[0]) - entropy).abs() < 1e-4, "{scores:?} for {entropy}");
        }
    }
}

/// Packed weights are used as the numbers that they stand for, forwards and backwards.
#[test]
fn packed_bases_compute_as_the_numbers_that_they_stand_for() {
    use GgmlType::{BF16, F16, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q6K, Q5K, Q4K, Q3K, Q2K] {
        let model =
            RandomModel { n_embd: 256, n_ff: 256, head_dim: 64, n_head: 4, dtype, ..RandomModel::small("qwen3") };
        let [packed, unpacked] = [false, true].map(|unpacked| {
            let model = RandomModel { unpacked, ..model.clone() };
            let mut scene = Scene::new(&model, options(), 4, &Target::ALL, &[12, 20]);
            let (scores, gradients) = scene.gradient();
            (scores, flat(&gradients))
        });
        assert!(packed == unpacked, "{dtype}: gradients differ by {}", relative_error(&packed.1, &unpacked.1));
    }
}
