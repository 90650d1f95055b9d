//! Rewards that fail, as those of a host app may: the step says where, and nothing that was computed is lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use owlet::Error;

use super::*;

/// [`Letters`], but for the calls from number `from` on that fail, `n` of them.
struct Failing {
    kind: ErrorKind,
    from: usize,
    n: usize,
    n_calls: AtomicUsize,
}

impl Failing {
    fn new(kind: ErrorKind, from: usize, n: usize) -> Arc<Self> {
        Arc::new(Self { kind, from, n, n_calls: AtomicUsize::new(0) })
    }
}

impl Reward for Failing {
    fn name(&self) -> &str {
        Letters.name()
    }

    fn score(&self, response: &str, sample: &Sample) -> owlet::Result<RewardParts> {
        let call = self.n_calls.fetch_add(1, Ordering::Relaxed);
        if (self.from..self.from + self.n).contains(&call) {
            return Err(Error::new(self.kind, "the judge is not at home"));
        }
        Letters.score(response, sample)
    }
}

/// Two portions of two prompts each with four answers.
fn two_portions() -> TrainerOptions {
    TrainerOptions { n_steps: 2, prompts_per_step: 4, n_sequences: 8, ..options() }
}

fn n_sampled(trainer: &mut Trainer) -> (owlet::Result<StepMetrics>, usize) {
    let mut tokens = Vec::new();
    let result = trainer.step(&CancelToken::new(), &mut |event| {
        if let StepEvent::Sampling(progress) = event {
            tokens.push(progress.n_tokens);
        }
    });
    (result, tokens.len())
}

#[test]
fn a_reward_that_fails_ends_the_step_at_its_sample_and_the_next_one_scores_the_same_answers() {
    let bench = Bench::new();
    let mut whole = bench.trainer(two_portions());
    let (first, n_whole) = n_sampled(&mut whole);
    let expected = [timeless(first.expect("nothing fails")), timeless(step(&mut whole))];

    // The second and third answer of the second portion; a host's reward may give any kind, that of a cancel too.
    for kind in [ErrorKind::Network, ErrorKind::Cancelled] {
        let reward = Failing::new(kind, 9, 2);
        let data = dataset(bench.folder.path());
        let mut trainer = Trainer::new(&bench.model, data, reward.clone(), two_portions()).expect("good options");
        let (failed, mut n_tokens) = n_sampled(&mut trainer);
        let error = failed.expect_err("it failed");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().starts_with("the judge is not at home: "), "{error}");
        assert!(error.to_string().contains("data.jsonl:"), "{error}");
        assert_eq!(trainer.n_steps_done(), 0);
        let (failed, n_more) = n_sampled(&mut trainer);
        n_tokens += n_more;
        assert_eq!(failed.expect_err("once more").kind(), kind);
        let (done, n_more) = n_sampled(&mut trainer);
        assert_eq!(timeless(done.expect("the judge came home")), expected[0]);
        assert_eq!(n_tokens + n_more, n_whole, "answers that had ended were sampled again");
        // Eight of the first portion; two of the second, then one, then all four and four.
        assert_eq!(reward.n_calls.load(Ordering::Relaxed), 8 + 2 + 1 + 8);
        assert_eq!(timeless(step(&mut trainer)), expected[1]);
        assert_eq!(bench.adapter(&trainer), bench.adapter(&whole));
    }
}

#[test]
fn a_run_whose_reward_failed_is_resumed_to_the_same_bits() {
    let bench = Bench::new();
    let mut whole = bench.trainer(two_portions());
    let expected = [timeless(step(&mut whole)), timeless(step(&mut whole))];

    let store = CheckpointStore::open(&bench.folder.path().join("checkpoints"), 2).expect("a writable folder");
    let data = dataset(bench.folder.path());
    let reward = Failing::new(ErrorKind::Io, 12, usize::MAX - 12);
    let mut first = Trainer::new(&bench.model, data, reward, two_portions()).expect("good options");
    let (failed, _) = n_sampled(&mut first);
    assert_eq!(failed.expect_err("it failed").kind(), ErrorKind::Io);
    assert_eq!(first.n_parts_done(), 2, "the groups of the first portion");
    first.checkpoint(&store, 3).expect("a writable folder");

    let mut second = bench.trainer(two_portions());
    assert_eq!(second.resume(&store).expect("the same run").metrics_bytes, Some(3));
    assert_eq!(second.n_parts_done(), 2);
    assert_eq!([timeless(step(&mut second)), timeless(step(&mut second))], expected);
    assert_eq!(bench.adapter(&second), bench.adapter(&whole));
}

#[test]
fn an_evaluation_ends_with_the_error_of_its_reward() {
    let bench = Bench::new();
    let data = dataset(bench.folder.path());
    let reward = Failing::new(ErrorKind::NotFound, 1, 1);
    let mut trainer = Trainer::new(&bench.model, data.clone(), reward, options()).expect("good options");
    let mut ask = || trainer.evaluate(&data, &CancelToken::new(), &mut |_| {});
    let error = ask().expect_err("it failed");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("data.jsonl:2"), "{error}");
    assert_eq!(ask().expect("the judge came home").answers.len(), 3);
}
