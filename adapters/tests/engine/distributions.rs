//! Losses over whole distributions, entropy and distillation: finite differences, explicit sums over a vocabulary, and
//! independence of chunks and grouping.

use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput, Teacher, TokenDivergences, TokenScores, TokenSlopes},
    lora::{LoraGrads, LoraWeights, Target},
};
use owlet_runtime::{EncodedPrompt, ErrorKind, TokenId, rng::Rng};

use crate::{
    hf::relative_error,
    random::{self, RandomModel},
};

fn options() -> EngineOptions {
    EngineOptions { n_threads: 1, ..EngineOptions::default() }
}

/// A student with an adapter, a teacher of another shape over the same vocabulary, and a group.
struct School {
    student: Engine,
    teacher: Engine,
    lora: LoraWeights,
    prompt: EncodedPrompt,
    teacher_prompt: EncodedPrompt,
    completions: Vec<Vec<TokenId>>,
    temperature: f32,
}

impl School {
    fn new(family: &'static str, options: EngineOptions, targets: &[Target], lengths: &[usize]) -> Self {
        let model = RandomModel { n_layers: 2, ..RandomModel::small(family) };
        let wise = RandomModel { n_layers: 3, n_embd: 64, n_ff: 96, ..model.clone() };
        let student = Engine::from_file(&model.write(), options.clone()).unwrap();
        let teacher = Engine::from_file(&wise.write(), EngineOptions { logit_bytes: 4000, ..options }).unwrap();
        let lora = random::adapter(&student.lora_targets(), 3, targets);
        let completions = lengths.iter().zip(100..).map(|(&n, key)| model.tokens(n, key)).collect();
        let (prompt, teacher_prompt) = (model.prompt(9), wise.prompt(9));
        Self { student, teacher, lora, prompt, teacher_prompt, completions, temperature: 0.8 }
    }

    /// Random slopes of both signs.
    fn slopes(&self, key: u64) -> Vec<Vec<f32>> {
        let mut rng = Rng::keyed(&[key]);
        let lengths = self.completions.iter().map(Vec::len);
        lengths.map(|n| (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()).collect()
    }

    fn divergence(&mut self, lora: &LoraWeights) -> Vec<TokenDivergences> {
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &self.prompt, completions: &completions };
        let teacher = Teacher { engine: &mut self.teacher, prompt: &self.teacher_prompt };
        self.student.divergence(Some(lora), &group, self.temperature, teacher).unwrap()
    }

    fn distill(&mut self) -> (Vec<TokenDivergences>, LoraGrads) {
        let slopes = self.slopes(41);
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &self.prompt, completions: &completions };
        let mut gradients = LoraGrads::zeros(&self.lora);
        let teacher = Teacher { engine: &mut self.teacher, prompt: &self.teacher_prompt };
        let answer = &mut |_: &[TokenDivergences]| slopes.clone();
        let divergences =
            self.student.distill(&self.lora, &group, self.temperature, teacher, answer, &mut gradients).unwrap();
        (divergences, gradients)
    }

    fn score(&mut self, lora: &LoraWeights) -> Vec<TokenScores> {
        let completions: Vec<_> = self.completions.iter().map(Vec::as_slice).collect();
        let group = GroupInput { prompt: &self.prompt, completions: &completions };
        self.student.score(Some(lora), &group, self.temperature).unwrap()
    }
}

fn weighted(values: impl Iterator<Item = f32>, slopes: &[Vec<f32>]) -> f64 {
    values.zip(slopes.iter().flatten()).map(|(value, slope)| f64::from(value) * f64::from(*slope)).sum()
}

/// Moves every tensor along its own gradient: the loss must change by the norm of the gradient.
fn check_differences(
    what: &str,
    school: &mut School,
    gradients: &LoraGrads,
    loss: &mut dyn FnMut(&mut School, &LoraWeights) -> f64,
) {
    let mut failures = Vec::new();
    for (index, gradient) in gradients.tensors().enumerate() {
        let norm = gradient.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let step = 1e-2;
        let mut at = |sign: f64| {
            let mut lora = school.lora.clone();
            let tensor = lora.tensors_mut().nth(index).unwrap();
            let scale = (sign * step / norm) as f32;
            tensor.iter_mut().zip(gradient).for_each(|(value, x)| *value += scale * x);
            loss(school, &lora)
        };
        let measured = (at(1.0) - at(-1.0)) / (2.0 * step);
        // A dozen f32 values, and the step's curvature.
        let error = (measured - norm).abs() / norm.max(0.05);
        if error.is_nan() || error > 1e-2 {
            failures.push(format!("{what}, tensor {index}: {measured} for {norm}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn gradients_of_divergences_are_those_of_finite_differences() {
    for (family, targets) in
        [("qwen3vl", &Target::ALL[..]), ("qwen2", &[Target::Q, Target::V]), ("llama", &Target::ALL)]
    {
        let mut school = School::new(family, options(), targets, &[1, 7, 4]);
        let (_, gradients) = school.distill();
        let slopes = school.slopes(41);
        check_differences(family, &mut school, &gradients, &mut |school, lora| {
            weighted(school.divergence(lora).into_iter().flat_map(|tokens| tokens.kl), &slopes)
        });
    }
}

#[test]
fn gradients_of_entropies_are_those_of_finite_differences() {
    check_entropies(&mut School::new("qwen3", options(), &Target::ALL, &[1, 7, 4]));
}

/// A loss of log-probabilities and entropies.
fn check_entropies(school: &mut School) {
    let (logprob_slopes, entropy_slopes) = (school.slopes(5), school.slopes(6));
    let completions: Vec<_> = school.completions.iter().map(Vec::as_slice).collect();
    let group = GroupInput { prompt: &school.prompt, completions: &completions };
    let mut gradients = LoraGrads::zeros(&school.lora);
    let answer = &mut |_: &[TokenScores]| {
        let pairs = logprob_slopes.iter().cloned().zip(entropy_slopes.iter().cloned());
        pairs.map(|(logprobs, entropies)| TokenSlopes { logprobs, entropies }).collect()
    };
    school.student.gradient(&school.lora, &group, school.temperature, answer, &mut gradients).unwrap();
    check_differences("entropies", school, &gradients, &mut |school, lora| {
        let scores = school.score(lora);
        let logprobs = scores.iter().flat_map(|scores| scores.logprobs.clone());
        let entropies = scores.iter().flat_map(|scores| scores.entropies.clone());
        weighted(logprobs, &logprob_slopes) + weighted(entropies, &entropy_slopes)
    });
}

/// Every third token that the completions do not have.
fn unused(school: &School) -> Vec<TokenId> {
    let used = school.completions.concat();
    (0..90).filter(|token| token % 3 == 0 && !used.contains(token)).collect()
}

#[test]
fn the_policy_is_the_softmax_over_what_is_sampled() {
    let lengths = [1, 7, 4];
    let mut whole = School::new("qwen3", options(), &Target::ALL, &lengths);
    let never_sampled = unused(&whole);
    assert!(never_sampled.len() > 15, "{never_sampled:?}");
    let is_left = |token: &TokenId| !never_sampled.contains(token);
    let lora = whole.lora.clone();
    for logit_bytes in [0, 4 * 20 * 7, usize::MAX] {
        let options = EngineOptions { logit_bytes, never_sampled: never_sampled.clone(), ..options() };
        let mut school = School::new("qwen3", options, &Target::ALL, &lengths);
        // All tokens that are left, as completions of one token, against the same of the whole vocabulary.
        let left: Vec<[TokenId; 1]> = (0..90).filter(is_left).map(|token| [token]).collect();
        let completions: Vec<&[TokenId]> = left.iter().map(|tokens| tokens.as_slice()).collect();
        let group = GroupInput { prompt: &school.prompt, completions: &completions };
        let all = whole.student.score(Some(&lora), &group, 0.8).unwrap();
        let scores = school.student.score(Some(&lora), &group, 0.8).unwrap();
        let share: f64 = all.iter().map(|scores| f64::from(scores.logprobs[0]).exp()).sum();
        assert!(share < 0.95, "{share}: something is left out");
        let mut entropy = 0.0;
        for (all, scores) in all.iter().zip(&scores) {
            let (got, expected) = (f64::from(scores.logprobs[0]), f64::from(all.logprobs[0]) - share.ln());
            assert!((got - expected).abs() < 1e-5, "{logit_bytes}: {got} for {expected}");
            entropy -= got * got.exp();
        }
        assert!((f64::from(scores[0].entropies[0]) - entropy).abs() < 1e-5, "{:?} for {entropy}", scores[0]);
        let error = school.student.score(None, &GroupInput { completions: &[&never_sampled[..1]], ..group }, 1.0);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
        // What a teacher says counts as a whole.
        let kl = |divergences: &[TokenDivergences]| divergences.iter().flat_map(|d| d.kl.clone()).collect::<Vec<f32>>();
        assert!(relative_error(&kl(&school.divergence(&lora)), &kl(&whole.divergence(&lora))) < 1e-5);
    }
}

#[test]
fn gradients_of_a_policy_that_leaves_tokens_out_are_those_of_finite_differences() {
    let lengths = [1, 7, 4];
    let never_sampled = unused(&School::new("qwen3", options(), &Target::ALL, &lengths));
    for logit_bytes in [4 * 20 * 7, usize::MAX] {
        let options = EngineOptions { logit_bytes, never_sampled: never_sampled.clone(), ..options() };
        check_entropies(&mut School::new("qwen3", options, &Target::ALL, &lengths));
    }
}

/// All tokens as completions of one token spell the distribution out.
#[test]
fn divergences_are_sums_over_the_vocabulary() {
    let mut school = School::new("qwen3", options(), &Target::ALL, &[1, 1]);
    let all: Vec<[TokenId; 1]> = (0..90).map(|token| [token]).collect();
    let completions: Vec<&[TokenId]> = all.iter().map(|tokens| tokens.as_slice()).collect();
    let logprobs = |engine: &mut Engine, lora: Option<&LoraWeights>, prompt| -> Vec<f64> {
        let scores = engine.score(lora, &GroupInput { prompt, completions: &completions }, 0.8).unwrap();
        scores.iter().map(|scores| f64::from(scores.logprobs[0])).collect()
    };
    let student = logprobs(&mut school.student, Some(&school.lora), &school.prompt);
    let teacher = logprobs(&mut school.teacher, None, &school.teacher_prompt);
    let expected: f64 = teacher.iter().zip(&student).map(|(t, s)| t.exp() * (t - s)).sum();
    let best = |logprobs: &[f64]| (0..90).max_by(|&a, &b| logprobs[a].total_cmp(&logprobs[b])).unwrap();
    let lora = school.lora.clone();
    for divergence in school.divergence(&lora) {
        assert!((f64::from(divergence.kl[0]) - expected).abs() < 1e-4, "{divergence:?} for {expected}");
        assert_eq!(divergence.agrees[0], best(&student) == best(&teacher));
    }
}

#[test]
fn chunks_and_groups_do_not_change_a_divergence() {
    let lengths = [6, 1, 15];
    let mut school = School::new("qwen3vl", options(), &Target::ALL, &lengths);
    let (divergences, gradients) = school.distill();
    let flat = |gradients: &LoraGrads| gradients.tensors().flatten().copied().collect::<Vec<f32>>();
    let kl = |divergences: &[TokenDivergences]| divergences.iter().flat_map(|d| d.kl.clone()).collect::<Vec<f32>>();
    for logit_bytes in [0, 4 * 20 * 7, usize::MAX] {
        let options = EngineOptions { logit_bytes, activation_bytes: 0, ..options() };
        let mut other = School::new("qwen3vl", options, &Target::ALL, &lengths);
        other.teacher = Engine::from_file(
            &RandomModel { n_layers: 3, n_embd: 64, n_ff: 96, ..RandomModel::small("qwen3vl") }.write(),
            EngineOptions { n_threads: 1, logit_bytes, ..EngineOptions::default() },
        )
        .unwrap();
        let (again, other) = other.distill();
        // f32 sums in another order.
        assert!(relative_error(&kl(&again), &kl(&divergences)) < 1e-5, "{logit_bytes}");
        let error = relative_error(&flat(&other), &flat(&gradients));
        assert!(error < 1e-5, "{logit_bytes}: {error}");
    }

    let slopes = school.slopes(41);
    let mut sum = LoraGrads::zeros(&school.lora);
    for (completion, slopes) in school.completions.iter().zip(&slopes) {
        let group = GroupInput { prompt: &school.prompt, completions: &[completion] };
        let teacher = Teacher { engine: &mut school.teacher, prompt: &school.teacher_prompt };
        let answer = &mut |_: &[TokenDivergences]| vec![slopes.clone()];
        school.student.distill(&school.lora, &group, 0.8, teacher, answer, &mut sum).unwrap();
    }
    let error = relative_error(&flat(&sum), &flat(&gradients));
    assert!(error < 1e-5, "one by one: {error}");
}

#[test]
fn who_agrees_with_the_teacher_has_nothing_to_learn() {
    let mut school = School::new("qwen3", options(), &Target::ALL, &[5, 3]);
    school.teacher =
        Engine::from_file(&RandomModel { n_layers: 2, ..RandomModel::small("qwen3") }.write(), options()).unwrap();
    school.teacher_prompt = school.prompt.clone();
    school.lora.modules.iter_mut().for_each(|module| module.b.fill(0.0));
    let (divergences, gradients) = school.distill();
    for divergence in divergences {
        assert!(divergence.kl.iter().all(|&kl| kl < 1e-6) && divergence.agrees.iter().all(|&agrees| agrees));
    }
    assert!(gradients.global_norm() < 1e-5, "{}", gradients.global_norm());
}

#[test]
fn teachers_and_slopes_that_do_not_fit_are_refused() {
    let mut school = School::new("qwen3", options(), &Target::ALL, &[5, 3]);
    let completions: Vec<_> = school.completions.iter().map(Vec::as_slice).collect();
    let group = GroupInput { prompt: &school.prompt, completions: &completions };
    let mut gradients = LoraGrads::zeros(&school.lora);
    for slopes in [vec![vec![1.0; 5]], vec![vec![1.0; 5], vec![1.0; 2]], vec![vec![1.0; 5], vec![f32::NAN; 3]]] {
        let teacher = Teacher { engine: &mut school.teacher, prompt: &school.teacher_prompt };
        let answer = &mut |_: &[TokenDivergences]| slopes.clone();
        let error = school.student.distill(&school.lora, &group, 1.0, teacher, answer, &mut gradients).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(gradients.global_norm(), 0.0);
    }
    let stranger = RandomModel { n_vocab: 91, ..RandomModel::small("qwen3") };
    let mut stranger = Engine::from_file(&stranger.write(), options()).unwrap();
    let teacher = Teacher { engine: &mut stranger, prompt: &school.teacher_prompt };
    let error = school.student.divergence(None, &group, 1.0, teacher).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
}
