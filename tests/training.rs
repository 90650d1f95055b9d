//! The training loop through the public API: what a step changes, and that nothing is lost when it is stopped.

use std::{fs, ops::ControlFlow, path::Path, sync::Arc};

use owlet::{
    Adapter, AdapterFile, AnswerOptions, CancelToken, CheckpointStore, Dataset, EntropyBand, ErrorKind, Estimator,
    GenerateRequest, Image, KlPenalty, LoraConfig, LoraMode, LossOptions, Model, Precision, PrefixCacheOptions, Prompt,
    Reward, RngKey, Sample, Schedule, Session, SessionOptions, StepEvent, StepMetrics, Trainer, TrainerOptions,
    generate, reward::RewardParts,
};
use owlet_adapters::engine::{Engine, EngineOptions, GroupInput};
use owlet_runtime::{FlashAttention, KvType};
use tempfile::TempDir;

#[expect(dead_code, unreachable_pub, reason = "the runtime's own tests use the rest")]
#[path = "../runtime/tests/common/tiny.rs"]
mod tiny;

#[path = "training/gate.rs"]
mod gate;
#[path = "training/reuse.rs"]
mod reuse;
#[path = "training/rewards.rs"]
mod rewards;
#[path = "training/run.rs"]
mod run;
#[path = "training/slices.rs"]
mod slices;

/// Likes lower-case letters: a reward that random weights earn sometimes, so that every group has something to learn.
struct Letters;

impl Reward for Letters {
    fn name(&self) -> &str {
        "letters"
    }

    fn score(&self, response: &str, _sample: &Sample) -> owlet::Result<RewardParts> {
        let n_letters = response.chars().filter(char::is_ascii_lowercase).count();
        Ok(RewardParts {
            accuracy: n_letters as f64 / response.chars().count().max(1) as f64,
            ..RewardParts::default()
        })
    }
}

/// Nobody is ever right.
struct Never;

impl Reward for Never {
    fn name(&self) -> &str {
        "never"
    }

    fn score(&self, _response: &str, _sample: &Sample) -> owlet::Result<RewardParts> {
        Ok(RewardParts::default())
    }
}

const QUESTIONS: &str = r#"{"problem":"one?","answer":"1","problem_type":"numerical","task_type":"math_reasoning","data_type":"image"}
{"problem":"and two?","answer":"2","problem_type":"numerical","task_type":"math_reasoning","data_type":"image"}
{"problem":"read: owl","answer":"owl","problem_type":"ocr","task_type":"ocr","data_type":"image"}
"#;

fn dataset(folder: &Path) -> Dataset {
    let path = folder.join("data.jsonl");
    fs::write(&path, QUESTIONS).expect("a writable folder");
    Dataset::open(&path).expect("good rows")
}

fn options() -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        n_steps: 4,
        prompts_per_step: 2,
        group_size: 4,
        max_new_tokens: 8,
        max_prompt_tokens: 96,
        n_sequences: 8,
        suffix: "Answer.".to_owned(),
        filter: None,
        lora: LoraConfig { rank: 2, ..LoraConfig::default() },
        schedule: Schedule { learning_rate: 1e-2, ..Schedule::default() },
        n_threads: 1,
        ..TrainerOptions::default()
    }
}

struct Bench {
    model: Model,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let (model, folder) = tiny::load();
        Self { model, folder }
    }

    fn trainer(&self, options: TrainerOptions) -> Trainer {
        Trainer::new(&self.model, dataset(self.folder.path()), Arc::new(Letters), options).expect("good options")
    }

    fn adapter(&self, trainer: &Trainer) -> Vec<u8> {
        let path = self.folder.path().join("adapter.gguf");
        trainer.write_adapter(&path, Precision::F32).expect("a writable folder");
        fs::read(path).expect("it was written")
    }
}

fn step(trainer: &mut Trainer) -> StepMetrics {
    trainer.step(&CancelToken::new(), &mut |_| {}).expect("nothing stops it")
}

/// The numbers of a step that do not depend on the clock.
fn timeless(metrics: StepMetrics) -> StepMetrics {
    StepMetrics { seconds: 0.0, tokens_per_second: 0.0, ..metrics }
}

fn largest_b(trainer: &Trainer) -> f32 {
    let modules = trainer.adapter().expect("the model can be read").weights.modules;
    modules.iter().flat_map(|module| &module.b).fold(0.0, |largest, value| largest.max(value.abs()))
}

#[test]
fn a_step_learns_and_reports() {
    let bench = Bench::new();
    let mut trainer = bench.trainer(options());
    assert_eq!(largest_b(&trainer), 0.0);
    let (mut sampled, mut learned) = (0, 0);
    let metrics = trainer
        .step(&CancelToken::new(), &mut |event| match event {
            StepEvent::Sampling(progress) => sampled = progress.n_tokens,
            StepEvent::Learning { n_done, .. } => learned = n_done,
        })
        .expect("nothing stops it");
    assert!(metrics.applied && metrics.grad_norm.is_some_and(|norm| norm > 0.0), "{metrics:?}");
    assert!(largest_b(&trainer) > 0.0);
    assert_eq!((learned, metrics.n_groups, trainer.n_steps_done()), (2, 2, 1));
    assert_eq!(sampled as f64, metrics.length * 8.0);
    // The first update is on-policy: the ratio is 1 and nothing is clipped.
    assert_eq!((metrics.old_kl, metrics.clipped, metrics.dual_clipped), (0.0, 0.0, 0.0));
    // F16 K/V and other kernels on one side, F32 on the other, over the same weights.
    assert!(metrics.logprob_gap.is_some_and(|gap| gap < 0.01), "{metrics:?}");
}

#[test]
fn reward_rises_where_it_can() {
    let bench = Bench::new();
    let n_steps = 40;
    let mut trainer = bench.trainer(TrainerOptions { n_steps, ..options() });
    let rewards: Vec<f64> = (0..n_steps).map(|_| step(&mut trainer).accuracy).collect();
    let mean = |rewards: &[f64]| rewards.iter().sum::<f64>() / rewards.len() as f64;
    let (first, last) = (mean(&rewards[..5]), mean(&rewards[35..]));
    assert!(last > first + 0.3, "from {first} to {last}: {rewards:?}");
}

#[test]
fn a_run_that_was_cancelled_and_resumed_ends_with_the_same_bits() {
    let bench = Bench::new();
    let mut whole = bench.trainer(options());
    let expected: Vec<_> = (0..4).map(|_| timeless(step(&mut whole))).collect();

    let store = CheckpointStore::open(&bench.folder.path().join("checkpoints"), 2).expect("a writable folder");
    let mut first = bench.trainer(options());
    assert_eq!(timeless(step(&mut first)), expected[0]);
    assert_eq!(timeless(step(&mut first)), expected[1]);
    for stop_while_learning in [false, true] {
        let cancel = CancelToken::new();
        let mut stop = |event| {
            if matches!(event, StepEvent::Learning { .. }) == stop_while_learning {
                cancel.cancel();
            }
        };
        let error = first.step(&cancel, &mut stop).expect_err("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
    first.checkpoint(&store, 42).expect("a writable folder");

    let mut second = bench.trainer(options());
    assert_eq!(second.resume(&store).expect("the same run").metrics_bytes, Some(42));
    assert_eq!(timeless(step(&mut second)), expected[2]);
    assert_eq!(timeless(step(&mut second)), expected[3]);
    assert!(largest_b(&whole) > 0.0);
    assert_eq!(bench.adapter(&second), bench.adapter(&whole));

    let mut other = bench.trainer(TrainerOptions { estimator: Estimator::Grpo, ..options() });
    assert_eq!(other.resume(&store).expect_err("another run").kind(), ErrorKind::Mismatch);
}

/// Options of an activated adapter, invoked as the model's template opens answers; the sampler computes as exactly as the
/// learner.
fn activated() -> TrainerOptions {
    let lora = LoraConfig { mode: LoraMode::Activated { invocation: Vec::new() }, ..options().lora };
    TrainerOptions { lora, precise_kv: true, ..options() }
}

#[test]
fn sampler_and_learner_are_one_activated_model() {
    let bench = Bench::new();
    let mut trainer = bench.trainer(activated());
    for _ in 0..3 {
        let metrics = step(&mut trainer);
        // Measured are 1e-6.
        assert!(metrics.applied && metrics.logprob_gap.is_some_and(|gap| gap < 1e-5), "{metrics:?}");
    }
    let mut file = trainer.adapter().expect("the model can be read");
    let opening = bench.model.generation_prompt().expect("ChatML");
    assert_eq!(file.weights.config.mode.invocation(), Some(&opening[..]));

    // The same with a larger update and a picture before the invocation, and what it would be as a plain adapter.
    let mut rng = owlet_runtime::rng::Rng::keyed(&[5]);
    file.weights.modules.iter_mut().flat_map(|module| &mut module.b).for_each(|b| *b = rng.normal() as f32 * 0.1);
    let bytes = file.to_bytes(Precision::F32).expect("in memory");
    let adapter = Arc::new(Adapter::from_bytes(&bench.model, &bytes).expect("loads"));
    assert_eq!(adapter.invocation(), Some(&opening[..]));
    let precise = SessionOptions {
        n_ctx: 128,
        n_seq: 3,
        n_threads: 1,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        ..SessionOptions::default()
    };
    let mut session = Session::new(&bench.model, &precise).expect("makes a session");
    session.set_adapters(&[(adapter, 1.0)]).expect("sets");
    let rgb = (0..64 * 96 * 3).map(|_| rng.next_u64() as u8).collect();
    let picture = Image::from_rgb(96, 64, rgb).expect("right size");
    let prompt = bench.model.encode(&Prompt::user("What?", vec![picture]).expect("no marks")).expect("encodes");
    let request = GenerateRequest { prompt: &prompt, n: 5, rng_key: RngKey::default() };
    let options = AnswerOptions { max_new_tokens: 12, ..AnswerOptions::default() };
    let answers = generate(&mut session, &[request], &options, &CancelToken::new(), &mut |_| ControlFlow::Continue(()));
    let answers = answers.expect("runs").remove(0);
    let completions: Vec<_> = answers.iter().map(|answer| answer.tokens.as_slice()).collect();
    let never_sampled = bench.model.never_sampled().to_vec();
    let options = EngineOptions { n_threads: 1, never_sampled, ..Default::default() };
    let mut engine = Engine::new(bench.model.path(), options).expect("loads");
    let mut gap = |file: &AdapterFile| {
        let group = GroupInput { prompt: &prompt, completions: &completions };
        let scores = engine.score(Some(&file.weights), &group, 1.0).expect("scores");
        let pairs =
            answers.iter().zip(&scores).flat_map(|(answer, scores)| answer.logprobs.iter().zip(&scores.logprobs));
        pairs.map(|(sampler, learner)| (sampler - learner).abs()).max_by(f32::total_cmp).unwrap_or(0.0)
    };
    let activated_gap = gap(&file);
    file.weights.config.mode = LoraMode::Full;
    let full_gap = gap(&file);
    assert!(activated_gap < 1e-4 && full_gap > 0.05, "{activated_gap} activated, {full_gap} as a plain adapter");
}

#[test]
fn an_activated_run_resumes_as_what_it_is() {
    let bench = Bench::new();
    let mut whole = bench.trainer(activated());
    let expected: Vec<_> = (0..3).map(|_| timeless(step(&mut whole))).collect();
    let store = CheckpointStore::open(&bench.folder.path().join("checkpoints"), 2).expect("a writable folder");
    let mut first = bench.trainer(activated());
    step(&mut first);
    first.checkpoint(&store, 7).expect("a writable folder");

    // Where keys and values are kept is no part of the run.
    let directory = bench.folder.path().join("prefixes");
    let prefix_cache = PrefixCacheOptions { directory: Some(directory.clone()), ..PrefixCacheOptions::default() };
    let mut second = bench.trainer(TrainerOptions { prefix_cache, ..activated() });
    assert_eq!(second.resume(&store).expect("the same run").metrics_bytes, Some(7));
    let rest: Vec<_> = (0..2).map(|_| timeless(step(&mut second))).collect();
    assert_eq!(rest, expected[1..]);
    assert_eq!(bench.adapter(&second), bench.adapter(&whole));
    assert!(fs::read_dir(directory).expect("made on demand").count() > 0);

    // Token 257 is `<|im_start|>`.
    for mode in [LoraMode::Full, LoraMode::Activated { invocation: vec![257] }] {
        let lora = LoraConfig { mode, ..activated().lora };
        let mut other = bench.trainer(TrainerOptions { lora, ..activated() });
        assert_eq!(other.resume(&store).expect_err("another mode").kind(), ErrorKind::Mismatch);
    }
    let lora = LoraConfig { mode: LoraMode::Activated { invocation: vec![9999] }, ..activated().lora };
    let options = TrainerOptions { lora, ..activated() };
    let refused = Trainer::new(&bench.model, dataset(bench.folder.path()), Arc::new(Letters), options);
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Mismatch));
}

#[test]
fn a_run_that_begins_with_an_adapter_is_one_of_its_shape() {
    let bench = Bench::new();
    let shape = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
    let start =
        bench.trainer(TrainerOptions { lora: shape, ..options() }).adapter().expect("the model can be read").weights;
    let begin = |alpha: f32| {
        let mut weights = start.clone();
        weights.config.alpha = alpha;
        let mut trainer = bench.trainer(options());
        trainer.start_from(weights).expect("an adapter of the same model");
        trainer
    };
    let mut first = begin(6.0);
    assert_eq!(first.options().lora, start.config);
    step(&mut first);
    let config = first.adapter().expect("the model can be read").provenance.expect("our own file").config;
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!((&config["options"]["lora"]["rank"], &config["options"]["lora"]["alpha"]), (&3.into(), &6.0.into()));

    let store = CheckpointStore::open(&bench.folder.path().join("checkpoints"), 2).expect("a writable folder");
    first.checkpoint(&store, 5).expect("a writable folder");
    assert_eq!(begin(6.0).resume(&store).expect("the same run").metrics_bytes, Some(5));
    assert_eq!(begin(12.0).resume(&store).expect_err("twice as strong").kind(), ErrorKind::Mismatch);
}

#[test]
fn every_shaping_option_reaches_the_update() {
    let bench = Bench::new();
    let plain = {
        let mut trainer = bench.trainer(options());
        step(&mut trainer);
        bench.adapter(&trainer)
    };
    let cases = [
        ("grpo", TrainerOptions { estimator: Estimator::Grpo, ..options() }),
        ("dr_grpo", TrainerOptions { estimator: Estimator::DrGrpo, ..options() }),
        ("entropy band", TrainerOptions { entropy_band: Some(EntropyBand::default()), ..options() }),
        ("two updates", TrainerOptions { updates_per_step: 2, ..options() }),
    ];
    for (name, options) in cases {
        let mut trainer = bench.trainer(options);
        let metrics = step(&mut trainer);
        assert!(metrics.applied, "{name}");
        assert_ne!(bench.adapter(&trainer), plain, "{name}");
    }
}

#[test]
fn a_penalty_holds_the_policy_near_the_base() {
    let bench = Bench::new();
    let run = |kl: Option<f64>| {
        let kl = kl.map(|coefficient| KlPenalty { coefficient, ..KlPenalty::default() });
        let loss = LossOptions { kl, ..LossOptions::default() };
        let mut trainer = bench.trainer(TrainerOptions { loss, n_steps: 6, ..options() });
        let divergences: Vec<_> = (0..6).map(|_| step(&mut trainer).reference_kl).collect();
        (divergences, trainer.adapter().expect("the model can be read").weights)
    };
    let ((_, unmeasured), (free, measured), (held, _)) = (run(None), run(Some(0.0)), run(Some(100.0)));
    assert_eq!(free[0], 0.0, "the policy is its own reference until the first update");
    let sum = |divergences: &[f64]| divergences.iter().sum::<f64>();
    assert!(sum(&free) > 0.0 && sum(&held) < 0.7 * sum(&free), "{held:?} with a penalty, {free:?} without");
    assert_eq!(measured, unmeasured, "a weight of 0 only measures");
}

#[test]
fn a_bonus_for_entropy_raises_it() {
    let bench = Bench::new();
    // All rewards are alike, so nothing else moves the policy.
    let run = |entropy_bonus: f64| {
        let options = TrainerOptions { entropy_bonus, prompts_per_step: 3, n_steps: 6, ..options() };
        let data = dataset(bench.folder.path());
        let mut trainer = Trainer::new(&bench.model, data, Arc::new(Never), options).expect("good options");
        let entropies: Vec<_> = (0..6).filter_map(|_| step(&mut trainer).entropy).collect();
        (entropies, largest_b(&trainer))
    };
    assert_eq!(run(0.0).1, 0.0);
    let (entropies, _) = run(1.0);
    assert!(entropies.len() == 6 && entropies[5] > entropies[0] + 0.3, "{entropies:?}");
}

#[test]
fn groups_without_a_difference_are_replaced_and_then_left_out() {
    let bench = Bench::new();
    let options = TrainerOptions { filter: Some(owlet::GroupFilter::default()), ..options() };
    let mut trainer =
        Trainer::new(&bench.model, dataset(bench.folder.path()), Arc::new(Never), options).expect("good options");
    let metrics = step(&mut trainer);
    assert_eq!((metrics.n_groups, metrics.n_filtered), (0, 6), "three rounds of two prompts");
    assert!(!metrics.applied);
    assert_eq!(largest_b(&trainer), 0.0);
}
