//! Steps in slices: short ones get there, to the same bits, and checkpoints between them lose nothing that is finished.

use std::{sync::Mutex, time::Duration};

use owlet::{Deadline, Decay, LoraWeights, Slice};

use super::*;

/// Every kind of task: log-probabilities before the first of two updates, an entropy band, a reference policy; and sampling
/// in several portions, with dropped groups.
fn all_tasks() -> TrainerOptions {
    TrainerOptions {
        n_steps: 2,
        prompts_per_step: 3,
        group_size: 2,
        n_sequences: 2,
        max_new_tokens: 6,
        updates_per_step: 2,
        entropy_band: Some(EntropyBand { low: 0.1, high: 0.2, ..EntropyBand::default() }),
        loss: LossOptions { kl: Some(KlPenalty::default()), ..LossOptions::default() },
        filter: Some(owlet::GroupFilter { max_rounds: 2, ..owlet::GroupFilter::default() }),
        ..options()
    }
}

fn whole(bench: &Bench, options: TrainerOptions) -> (Vec<StepMetrics>, LoraWeights) {
    let mut trainer = bench.trainer(options);
    let n_steps = trainer.options().n_steps;
    let metrics = (0..n_steps).map(|_| timeless(step(&mut trainer))).collect();
    (metrics, trainer.adapter().expect("the model can be read").weights)
}

#[test]
fn the_shortest_slices_and_a_fresh_trainer_after_every_few_give_the_same_bits() {
    in_slices(&all_tasks());
}

/// Resumed within the first step too, before the adapter's first update.
#[test]
fn an_activated_run_in_slices_gives_the_same_bits() {
    // Fused attention takes another kernel from 64 tokens on: the opening of an answer that is computed by itself has other
    // bits than one behind a long question in the same call.
    let suffix = "Think about it for a while, then answer in one line.".to_owned();
    in_slices(&TrainerOptions { lora: activated().lora, suffix, ..all_tasks() });
}

fn in_slices(options: &TrainerOptions) {
    let bench = Bench::new();
    let expected = whole(&bench, options.clone());
    assert!(expected.0.iter().any(|metrics| metrics.n_groups > 1), "{:?}", expected.0);

    let folder = bench.folder.path().join("checkpoints");
    let mut metrics = Vec::new();
    let mut trainer = bench.trainer(options.clone());
    let (mut n_slices, mut n_within) = (0, 0);
    while metrics.len() < 2 {
        match trainer.step_slice(&Deadline::after(Duration::ZERO), &mut |_| {}).expect("nothing stops it") {
            Slice::StepDone(done) => metrics.push(timeless(*done)),
            Slice::Pending(_) => {}
        }
        n_slices += 1;
        // Often enough to meet every state, and seldom enough for a portion to end in between; once while the first step
        // samples, which takes some 20 slices at least.
        if n_slices == 13 || n_slices % 61 == 0 {
            let store = CheckpointStore::open(&folder, 2).expect("a writable folder");
            trainer.checkpoint(&store, 7).expect("a writable folder");
            n_within += usize::from(trainer.n_parts_done() > 0);
            let n_parts = trainer.n_parts_done();
            drop(trainer);
            trainer = bench.trainer(options.clone());
            let resumed = trainer.resume(&store).expect("the same run");
            assert_eq!((resumed.metrics_bytes, trainer.n_parts_done()), (Some(7), n_parts));
        }
    }
    // A unit is a decode call of up to six, or a layer of two: a step has dozens.
    assert!(n_slices > 150 && n_within > 1, "{n_slices} slices, {n_within} checkpoints within a step");
    assert_eq!((metrics, trainer.adapter().expect("the model can be read").weights), expected);
}

#[test]
fn a_step_rests_when_its_host_says_so_and_serves_others_meanwhile() {
    let bench = Bench::new();
    let expected = whole(&bench, TrainerOptions { n_steps: 1, ..options() });
    let mut trainer = bench.trainer(TrainerOptions { n_steps: 1, ..options() });
    assert!(matches!(trainer.step_while(&mut || false, &mut |_| {}), Ok(Slice::Pending(_))));
    for _ in 0..3 {
        assert!(matches!(trainer.step_slice(&Deadline::after(Duration::ZERO), &mut |_| {}), Ok(Slice::Pending(_))));
    }
    let held_out = dataset(bench.folder.path());
    let evaluation = trainer.evaluate(&held_out, &CancelToken::new(), &mut |_| {}).expect("nothing stops it");
    assert_eq!(evaluation.answers.len(), 3);
    let done = match trainer.step_while(&mut || true, &mut |_| {}).expect("nothing stops it") {
        Slice::StepDone(metrics) => timeless(*metrics),
        Slice::Pending(event) => panic!("nobody asked to rest at {event:?}"),
    };
    assert_eq!((vec![done], trainer.adapter().expect("the model can be read").weights), expected);
}

/// Rewards so large that the gradient leaves the range of F32.
struct Huge;

impl Reward for Huge {
    fn name(&self) -> &str {
        "huge"
    }

    fn score(&self, response: &str, _sample: &Sample) -> owlet::Result<RewardParts> {
        Ok(RewardParts { accuracy: 1e300 * response.len() as f64, ..RewardParts::default() })
    }
}

#[test]
fn gradients_that_are_not_finite_are_skipped_counted_and_end_the_run_in_time() {
    let bench = Bench::new();
    let options = TrainerOptions { estimator: Estimator::DrGrpo, max_skipped_updates: 3, ..options() };
    let mut trainer =
        Trainer::new(&bench.model, dataset(bench.folder.path()), Arc::new(Huge), options).expect("good options");
    for _ in 0..2 {
        let metrics = step(&mut trainer);
        assert_eq!((metrics.skipped_updates, metrics.applied, metrics.grad_norm), (1, false, None));
        assert_eq!(largest_b(&trainer), 0.0);
    }
    for _ in 0..2 {
        let error = trainer.step(&CancelToken::new(), &mut |_| {}).expect_err("three in a row");
        assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
        assert_eq!(trainer.n_steps_done(), 2);
    }
}

/// Remembers whose answers it saw.
struct Witness(Mutex<Vec<String>>);

impl Reward for Witness {
    fn name(&self) -> &str {
        "witness"
    }

    fn score(&self, _response: &str, sample: &Sample) -> owlet::Result<RewardParts> {
        self.0.lock().expect("no panic").push(sample.problem.clone());
        Ok(RewardParts::default())
    }
}

#[test]
fn the_longest_prompt_comes_first_and_one_too_long_is_refused_before_any_work() {
    let bench = Bench::new();
    for (seed, longest) in [(1, "one?"), (2, "and two?"), (3, "read: owl")] {
        let problem = format!("{longest}{}", " please".repeat(3));
        let path = bench.folder.path().join("longest.jsonl");
        fs::write(&path, QUESTIONS.replace(longest, &problem)).expect("a writable folder");
        let data = || Dataset::open(&path).expect("good rows");
        let witness = Arc::new(Witness(Mutex::default()));
        let options = TrainerOptions { seed, prompts_per_step: 1, ..options() };
        let reward: Arc<dyn Reward> = witness.clone();
        let mut trainer = Trainer::new(&bench.model, data(), reward, options.clone()).expect("good options");
        step(&mut trainer);
        assert_eq!(*witness.0.lock().expect("no panic"), vec![problem; 4]);

        // The prompt of the longest question is the only one beyond.
        let data_set = data();
        let length = |sample: &Sample| bench.model.count_tokens(&sample.prompt_text("Answer."), &[]).expect("text");
        let n_tokens = data_set.samples().iter().map(length).max().expect("three samples");
        let options = TrainerOptions { max_prompt_tokens: n_tokens - 1, ..options };
        let error = Trainer::new(&bench.model, data(), Arc::new(Letters), options).err().expect("too long");
        let line = 1 + QUESTIONS.lines().position(|line| line.contains(longest)).expect("one of them");
        assert_eq!(error.kind(), ErrorKind::ContextOverflow);
        assert!(error.to_string().contains(&format!("longest.jsonl:{line}")), "{error}");
    }
}

#[test]
fn what_changes_no_bits_may_change_where_a_run_goes_on() {
    let bench = Bench::new();
    let store = CheckpointStore::open(&bench.folder.path().join("checkpoints"), 2).expect("a writable folder");
    let mut first = bench.trainer(TrainerOptions { n_steps: 1, ..options() });
    step(&mut first);
    first.checkpoint(&store, 0).expect("a writable folder");
    // Sequences of one block of cells become ones of three.
    let other = TrainerOptions { n_steps: 2, max_prompt_tokens: 700, max_skipped_updates: 5, ..options() };
    let mut second = bench.trainer(other.clone());
    second.resume(&store).expect("the same run");
    step(&mut second);
    let (_, expected) = whole(&bench, TrainerOptions { n_steps: 2, ..options() });
    assert_eq!(second.adapter().expect("the model can be read").weights, expected);

    let decaying = Schedule { decay: Decay::Linear, ..options().schedule };
    for options in [
        TrainerOptions { schedule: decaying, ..other.clone() },
        TrainerOptions { n_sequences: 4, ..other.clone() },
        TrainerOptions { largest_first: false, ..other },
    ] {
        let error = bench.trainer(options).resume(&store).expect_err("another run");
        assert_eq!(error.kind(), ErrorKind::Mismatch);
    }
}
