//! Every family of decoders in every type of weights: the training engine computes the model that llama.cpp samples from,
//! and its gradient is the slope of its own loss. The models are synthetic, of two layers.
#![expect(clippy::print_stderr, reason = "tests tell what they measured")]

use std::{fs, ops::ControlFlow, path::Path, sync::Arc};

use owlet::{
    Adapter, AdapterFile, AnswerOptions, CancelToken, EncodedPrompt, GenerateRequest, LoraConfig, LoraWeights, Model,
    ModelOptions, Precision, QuantType, RngKey, Session, SessionOptions, TokenId, generate,
    gguf::GgufFile,
    quant::synth::{Family, SynthModel, SynthOptions, synthesize},
};
use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput, TokenScores},
    lora::LoraGrads,
};
use owlet_runtime::{
    FlashAttention, KvType,
    quantize::{QuantizeOptions, quantize_file},
    rng::Rng,
};

/// What quantizers write, F32 first: plain, old and new blocks, mixtures.
const TYPES: [QuantType; 14] = [
    QuantType::F32,
    QuantType::F16,
    QuantType::BF16,
    QuantType::Q8_0,
    QuantType::Q4_0,
    QuantType::Q4_1,
    QuantType::Q5_0,
    QuantType::Q5_1,
    QuantType::Q6K,
    QuantType::Q5KS,
    QuantType::Q4KS,
    QuantType::Q3KS,
    QuantType::Q4KM,
    QuantType::Q3KL,
];

/// Largest difference of a log-probability between the engine over a packed file and llama.cpp over a file of the same numbers
/// in F32, both with F32 keys and values and without fused attention: the engine computes exactly with what packed weights
/// stand for. Log-probabilities reach -15.
const EXACT: f32 = 2e-5;

/// Mean difference from llama.cpp over the packed file itself, whose kernels round activations to the precision of the
/// weights.
fn rounding_bound(dtype: QuantType) -> f32 {
    match dtype {
        QuantType::F32 => EXACT,
        QuantType::F16 => 2e-3,
        QuantType::BF16 => 0.02,
        _ => 0.1,
    }
}

/// A step along the gradient, and the largest relative difference between the gradient's norm and the slope over that step.
const SLOPE: (f64, f64) = (0.03, 5e-3);

/// The file at `path` as llama.cpp reads it: the pinned version does not read `layer_norm_rms_epsilon` of qwen2vl, and
/// computes with 0. The engine takes the number that the file has.
fn as_llama_cpp_reads(path: &Path, family: Family) -> Arc<GgufFile> {
    let mut bytes = fs::read(path).expect("just written");
    if family == Family::Qwen2Vl {
        let key = b"layer_norm_rms_epsilon";
        let start = bytes.windows(key.len()).position(|window| window == key).expect("every file has it") + key.len();
        // Behind the name stand the type of the value, four bytes, and the value.
        bytes[start + 4..start + 8].copy_from_slice(&0f32.to_le_bytes());
    }
    Arc::new(GgufFile::from_bytes(bytes).expect("still valid"))
}

/// A model file with an adapter over it, and a group.
struct Scene {
    model: Model,
    /// The same numbers in F32.
    unpacked: Model,
    engine: Engine,
    lora: LoraWeights,
    prompt: EncodedPrompt,
    completions: [Vec<TokenId>; 2],
}

impl Scene {
    fn new(folder: &Path, family: Family, dtype: QuantType) -> Self {
        // Stretched rotations where a family has them, which without a factor are covered by the goldens; untied and without biases where the other families are, so that each of these occurs in each position scheme.
        let tied = matches!(family, Family::Llama | Family::Qwen2 | Family::Qwen3Vl);
        let biased = matches!(family, Family::Llama | Family::Qwen2 | Family::Qwen2Vl);
        let rope_factors = family == Family::Llama;
        let description = SynthModel { tied, biased, rope_factors, ..SynthModel::tiny(family) };
        let path = folder.join(format!("{family}-{dtype}.gguf"));
        let options = SynthOptions { dtype, threads: 1, ..SynthOptions::default() };
        synthesize(&description, &path, &options, &mut |_| ()).expect("a model of this shape");
        let unpacked = folder.join(format!("{family}-{dtype}-unpacked.gguf"));
        let unpack = QuantizeOptions { threads: 1, allow_requantize: true, ..QuantizeOptions::new(QuantType::F32) };
        let (file, _) =
            quantize_file(&path, &unpacked, &unpack, &mut |_, _| ControlFlow::Continue(())).expect("unpacks");
        file.commit().expect("a writable folder");
        let load =
            |path: &Path| Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
        let (model, unpacked) = (load(&path), load(&unpacked));
        let file = as_llama_cpp_reads(&path, family);
        let engine = Engine::from_file(&file, EngineOptions { n_threads: 1, ..EngineOptions::default() });
        let engine = engine.expect("opens");
        let config = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
        let mut lora = LoraWeights::init(&config, &engine.lora_targets(), 5).expect("targets");
        let mut rng = Rng::keyed(&[23]);
        lora.modules.iter_mut().flat_map(|module| &mut module.b).for_each(|b| *b = (rng.uniform() * 0.1 - 0.05) as f32);
        let mut tokens = |n: usize| -> Vec<TokenId> { (0..n).map(|_| rng.below(320) as TokenId).collect() };
        let prompt = EncodedPrompt::from_tokens(tokens(12));
        Self { model, unpacked, engine, lora, prompt, completions: [tokens(5), tokens(9)] }
    }

    fn score(&mut self, lora: &LoraWeights) -> Vec<TokenScores> {
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &self.prompt, completions: &completions };
        self.engine.score(Some(lora), &group, 1.0).expect("scores")
    }

    /// A session of `model` with the adapter.
    fn session(&self, model: &Model, options: SessionOptions) -> Session {
        let mut session = Session::new(model, &options).expect("a session");
        let architecture = model.info().architecture.clone();
        let file = AdapterFile { architecture, weights: self.lora.clone(), provenance: None };
        let adapter = Adapter::from_bytes(model, &file.to_bytes(Precision::F32).expect("an adapter file"));
        session.set_adapters(&[(Arc::new(adapter.expect("fits the model")), 1.0)]).expect("fits the model");
        session
    }

    /// Log-probabilities of the completions by llama.cpp over `model`, a token at a time.
    fn decoded(&self, model: &Model) -> Vec<Vec<f32>> {
        let mut session = self.session(
            model,
            SessionOptions {
                n_ctx: 64,
                n_threads: 1,
                kv_type: KvType::F32,
                flash_attention: FlashAttention::Off,
                ..SessionOptions::default()
            },
        );
        let decode = |completion: &Vec<TokenId>| {
            session.clear_all();
            session.prefill(0, &self.prompt).expect("fits");
            let mut logprobs = Vec::new();
            for (index, &token) in completion.iter().enumerate() {
                let logits = session.logits(0).expect("just computed");
                let log_sum = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
                logprobs.push((f64::from(logits[token as usize]) - log_sum) as f32);
                if index + 1 < completion.len() {
                    session.decode(&[(0, token)]).expect("fits");
                }
            }
            logprobs
        };
        self.completions.iter().map(decode).collect()
    }

    /// How far the engine's log-probabilities are from llama.cpp's: at most over the same numbers, and in the mean over the same
    /// file.
    fn differences(&mut self) -> (f32, f32) {
        let scores = self.score(&self.lora.clone());
        let engine: Vec<f32> = scores.into_iter().flat_map(|scores| scores.logprobs).collect();
        let differences = |model: &Model| -> Vec<f32> {
            let decoded = self.decoded(model).into_iter().flatten();
            engine.iter().zip(decoded).map(|(engine, decoded)| (engine - decoded).abs()).collect()
        };
        let (exact, rounded) = (differences(&self.unpacked), differences(&self.model));
        // NaN, if there is any.
        let largest = exact.iter().copied().max_by(f32::total_cmp).unwrap_or(0.0);
        (largest, rounded.iter().sum::<f32>() / rounded.len() as f32)
    }

    /// Relative difference between the norm of the gradient and the slope of the loss along the gradient.
    fn slope_error(&mut self, step: f64) -> f64 {
        let mut rng = Rng::keyed(&[41]);
        let coefficients: Vec<Vec<f32>> = self
            .completions
            .iter()
            .map(|tokens| tokens.iter().map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect())
            .collect();
        let mut gradients = LoraGrads::zeros(&self.lora);
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &self.prompt, completions: &completions };
        let answer = &mut |_: &[TokenScores]| coefficients.clone();
        self.engine.gradient(&self.lora, &group, 1.0, answer, &mut gradients).expect("differentiates");
        let norm = gradients.global_norm();
        let mut loss_at = |step: f64| {
            let mut lora = self.lora.clone();
            for (tensor, gradient) in lora.tensors_mut().zip(gradients.tensors()) {
                tensor.iter_mut().zip(gradient).for_each(|(x, g)| *x += (step / norm) as f32 * g);
            }
            let scores = self.score(&lora);
            let logprobs = scores.iter().flat_map(|scores| &scores.logprobs);
            let terms = logprobs.zip(coefficients.iter().flatten());
            terms.map(|(&logprob, &coefficient)| f64::from(logprob) * f64::from(coefficient)).sum::<f64>()
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        (slope - norm).abs() / norm
    }
}

/// All types of `family`; every failure is told.
fn check(family: Family) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut failures = Vec::new();
    for dtype in TYPES {
        let mut scene = Scene::new(folder.path(), family, dtype);
        let (step, max_slope_error) = SLOPE;
        let ((exact, rounded), slope) = (scene.differences(), scene.slope_error(step));
        let told = format!("{family} {dtype}: exact {exact:.1e}, rounded {rounded:.1e}, slope {slope:.1e}");
        eprintln!("{told}");
        // Negated, so that NaN fails.
        if !(exact <= EXACT && rounded <= rounding_bound(dtype) && slope <= max_slope_error) {
            failures.push(told);
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn llama_is_computed_as_llama_cpp_does() {
    check(Family::Llama);
}

#[test]
fn qwen2_is_computed_as_llama_cpp_does() {
    check(Family::Qwen2);
}

#[test]
fn qwen2vl_is_computed_as_llama_cpp_does() {
    check(Family::Qwen2Vl);
}

#[test]
fn qwen3_is_computed_as_llama_cpp_does() {
    check(Family::Qwen3);
}

#[test]
fn qwen3vl_is_computed_as_llama_cpp_does() {
    check(Family::Qwen3Vl);
}

/// The gap that a training step reports: the log-probabilities that sampling gave its own tokens, against the engine's.
#[test]
fn rollouts_have_nearly_the_log_probabilities_that_the_learner_gives_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let precise = SessionOptions { kv_type: KvType::F32, flash_attention: FlashAttention::Off, ..Default::default() };
    for (name, dtype, options, bound) in [
        ("f32, F32 keys", QuantType::F32, precise, 2e-5),
        ("f32, F16 keys", QuantType::F32, SessionOptions::default(), 5e-3),
        // The sampler rounds activations to 8 bits before it multiplies, the learner does not; random layers amplify it.
        ("q4_k_m, F32 keys", QuantType::Q4KM, precise, 0.06),
        ("q4_k_m, F16 keys", QuantType::Q4KM, SessionOptions::default(), 0.06),
    ] {
        let scene = Scene::new(folder.path(), Family::Qwen3, dtype);
        let mut session = scene.session(&scene.model, SessionOptions { n_ctx: 64, n_seq: 4, n_threads: 1, ..options });
        let request = GenerateRequest { prompt: &scene.prompt, n: 4, rng_key: RngKey { seed: 3, ..RngKey::default() } };
        let (options, cancel) = (AnswerOptions { max_new_tokens: 24, ..AnswerOptions::default() }, CancelToken::new());
        let generated =
            generate(&mut session, &[request], &options, &cancel, &mut |_| ControlFlow::Continue(())).expect("samples");
        let rollouts = &generated[0];
        let completions: Vec<_> = rollouts.iter().map(|rollout| rollout.tokens.as_slice()).collect();
        let group = GroupInput { prompt: &scene.prompt, completions: &completions };
        // As in a run: both are policies over the tokens that are sampled.
        let never_sampled = scene.model.never_sampled().to_vec();
        assert!(!never_sampled.is_empty());
        let learner = EngineOptions { n_threads: 1, never_sampled, ..EngineOptions::default() };
        let mut engine = Engine::new(scene.model.path(), learner).expect("opens");
        let scores = engine.score(Some(&scene.lora), &group, options.sampler.temperature).expect("scores");
        let sampled = rollouts.iter().flat_map(|rollout| &rollout.logprobs);
        let learned = scores.iter().flat_map(|scores| &scores.logprobs);
        let gaps: Vec<f32> = sampled.zip(learned).map(|(sampled, learned)| (sampled - learned).abs()).collect();
        let mean = gaps.iter().sum::<f32>() / gaps.len() as f32;
        eprintln!("{name}: mean gap {mean:.1e} over {} tokens", gaps.len());
        assert!(gaps.len() > 40 && mean <= bound, "{name}: {mean} over {} tokens", gaps.len());
    }
}
