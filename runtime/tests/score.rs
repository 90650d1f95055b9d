//! Scores of given completions are the log-probabilities that sampling reports, however many tokens a call takes, and runs
//! of tokens leave a sequence as single tokens do.

mod common;

use std::{ops::ControlFlow, sync::Arc};

use common::tiny;
use owlet_runtime::{
    Adapter, AnswerOptions, CancelToken, EncodedPrompt, ErrorKind, FlashAttention, GenerateRequest, Generated, Image,
    KvType, Model, Prompt, RngKey, SamplerOptions, ScoreOptions, Session, SessionOptions, TokenId, generate, score,
    score_many,
};

/// Kernels round differently for other numbers of tokens in a call; logits range over about +-5, in F32 throughout.
const ROUNDING: f32 = 1e-4;

fn session(model: &Model, n_logits: usize) -> Session {
    let options = SessionOptions {
        n_ctx: 256,
        n_logits,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        n_threads: 1,
        ..SessionOptions::default()
    };
    Session::new(model, &options).expect("makes a session")
}

fn prompts(model: &Model) -> [EncodedPrompt; 2] {
    let rgb = (0..64 * 64 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let picture = Image::from_rgb(64, 64, rgb).expect("right size");
    let prompt = Prompt::user("What is this?", vec![picture]).expect("no marks");
    [tiny::prompt(model, "Hello"), model.encode(&prompt).expect("encodes")]
}

fn sample(session: &mut Session, prompt: &EncodedPrompt, temperature: f32) -> Vec<Generated> {
    let request = GenerateRequest { prompt, n: 3, rng_key: RngKey::default() };
    let sampler = SamplerOptions { temperature, ..SamplerOptions::default() };
    let options = AnswerOptions { sampler, max_new_tokens: 20, ..AnswerOptions::default() };
    let answers = generate(session, &[request], &options, &CancelToken::new(), &mut |_| ControlFlow::Continue(()));
    answers.expect("runs").into_iter().flatten().collect()
}

fn assert_near(got: &[f32], expected: &[f32], place: &str) {
    assert_eq!(got.len(), expected.len(), "{place}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() < ROUNDING, "{place}, token {index}: {got} for {expected}");
    }
}

fn adapter(model: &Model, invocation: Option<&str>) -> Arc<Adapter> {
    let mut draft = tiny::adapter();
    if let Some(invocation) = invocation {
        let tokens = model.tokenize(invocation, true).expect("tokenizes");
        let tokens: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
        draft.set("adapter.alora.invocation_tokens", tokens);
    }
    Arc::new(Adapter::from_bytes(model, &draft.bytes()).expect("loads"))
}

#[test]
fn sampled_answers_have_the_scores_that_sampling_reported() {
    let (model, _directory) = tiny::load();
    let adapters = [None, Some(adapter(&model, None)), Some(adapter(&model, Some("<|im_start|>assistant")))];
    let options = ScoreOptions::default();
    let mut sums = Vec::new();
    for (index, adapter) in adapters.into_iter().enumerate() {
        let adapters: Vec<_> = adapter.into_iter().map(|adapter| (adapter, 1.0)).collect();
        for prompt in &prompts(&model)[usize::from(index == 2)..] {
            for (n_logits, temperature) in [(1, 1.0), (3, 0.7), (32, 0.0)] {
                let mut session = session(&model, n_logits);
                session.set_adapters(&adapters).expect("sets");
                let answers = sample(&mut session, prompt, temperature);
                let completions: Vec<&[TokenId]> = answers.iter().map(|answer| &*answer.tokens).collect();
                let options = ScoreOptions { temperature, ..options };
                let scores = score_many(&mut session, prompt, &completions, &options, &CancelToken::new());
                for (scored, answer) in scores.expect("scores").iter().zip(&answers) {
                    let place = format!("adapter {index}, {n_logits} logits, temperature {temperature}");
                    assert_near(&scored.logprobs, &answer.logprobs, &place);
                }
                assert_eq!(session.n_tokens(0), 0, "left empty");
            }
        }
        // The same text under each adapter.
        let (mut session, [_, prompt]) = (session(&model, 8), prompts(&model));
        session.set_adapters(&adapters).expect("sets");
        let text = model.completion("A cat.", true).expect("has an end");
        let scored = score(&mut session, &prompt, &text, &options, &CancelToken::new()).expect("scores");
        assert_eq!(scored.mean(), scored.sum() / text.len() as f64);
        sums.push(scored.sum());
    }
    assert!(sums[0] != sums[1] && sums[1] != sums[2] && sums[0] != sums[2], "adapters change scores: {sums:?}");
}

#[test]
fn completions_do_not_depend_on_each_other() {
    let (model, _directory) = tiny::load();
    let prompt = &prompts(&model)[1];
    let texts = ["A", "A cat on a mat", "B", "A cat on a mat", "no"];
    let completions = texts.map(|text| model.completion(text, false).expect("tokenizes"));
    let slices: Vec<&[TokenId]> = completions.iter().map(|tokens| &**tokens).collect();
    let options = ScoreOptions::default();
    let mut session = session(&model, 4);
    let together = score_many(&mut session, prompt, &slices, &options, &CancelToken::new()).expect("scores");
    for (completion, expected) in slices.iter().zip(&together) {
        let alone = score(&mut session, prompt, completion, &options, &CancelToken::new()).expect("scores");
        assert_eq!(alone.logprobs, expected.logprobs);
    }
    assert_eq!(
        session.timings().n_prompt_tokens,
        6 * prompt.n_tokens() as u64,
        "one prompt for all, then one for each"
    );
}

#[test]
fn probabilities_are_of_all_tokens_or_of_those_that_may_be_sampled() {
    let (model, _directory) = tiny::load();
    let prompt = &prompts(&model)[0];
    let mut session = session(&model, 4);
    let all: Vec<TokenId> = (0..model.info().n_vocab as TokenId).collect();
    let may_be_sampled = |token: &TokenId| !model.never_sampled().contains(token);
    for whole_vocabulary in [false, true] {
        let tokens: Vec<_> = all.iter().copied().filter(|token| whole_vocabulary || may_be_sampled(token)).collect();
        let completions: Vec<_> = tokens.chunks(1).collect();
        for temperature in [1.0, 3.0] {
            let options = ScoreOptions { temperature, whole_vocabulary };
            let scores = score_many(&mut session, prompt, &completions, &options, &CancelToken::new()).expect("scores");
            let total: f64 = scores.iter().map(|scored| scored.sum().exp()).sum();
            assert!((total - 1.0).abs() < 1e-5, "{options:?}: {total}");
        }
    }
}

#[test]
fn what_cannot_be_scored_is_refused_before_any_work() {
    let (model, _directory) = tiny::load();
    let prompt = &prompts(&model)[0];
    let mut session = session(&model, 4);
    let never = model.never_sampled()[0];
    let long = vec![65; 256 - prompt.n_tokens() + 2];
    for (completion, temperature, kind, says) in [
        (&[][..], 1.0, ErrorKind::InvalidInput, "empty completion"),
        (&[65, never], 1.0, ErrorKind::InvalidInput, "never sampled"),
        (&[65, -1], 1.0, ErrorKind::InvalidInput, "not in the vocabulary"),
        (&[65], -1.0, ErrorKind::InvalidInput, "temperature"),
        (&long, 1.0, ErrorKind::ContextOverflow, "got 257 tokens, needed at most 256"),
    ] {
        let options = ScoreOptions { temperature, ..ScoreOptions::default() };
        let refused = score_many(&mut session, prompt, &[&[65], completion], &options, &CancelToken::new());
        let error = refused.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(session.timings().n_prompt_tokens, 0);
    }
    let fits = &long[1..];
    score(&mut session, prompt, fits, &ScoreOptions::default(), &CancelToken::new())
        .expect("the last one needs no place");
}

#[test]
fn a_cancelled_score_leaves_the_session_usable() {
    let (model, _directory) = tiny::load();
    let prompt = &prompts(&model)[1];
    let mut session = session(&model, 4);
    let cancelled = CancelToken::new();
    cancelled.cancel();
    let error = score(&mut session, prompt, &[65, 66], &ScoreOptions::default(), &cancelled).expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(session.n_tokens(0), 0);
    score(&mut session, prompt, &[65, 66], &ScoreOptions::default(), &CancelToken::new()).expect("usable");
}

#[test]
fn a_run_of_tokens_is_the_same_as_one_after_the_other() {
    let (model, _directory) = tiny::load();
    let tokens = [65, 66, 67, 68, 69];
    for prompt in &prompts(&model) {
        let (mut run, mut single) = (session(&model, 8), session(&model, 8));
        for session in [&mut run, &mut single] {
            session.prefill(0, prompt).expect("fits");
        }
        // A prompt is no run: its pictures could not be taken back token by token.
        assert!(run.take_back(0, 1).is_err() && run.run_logits(0, 0).is_err() && run.logits(0).is_ok());
        run.decode_run(0, &tokens).expect("fits");
        for (index, &token) in tokens.iter().enumerate() {
            single.decode(&[(0, token)]).expect("fits");
            let place = format!("after {} tokens", index + 1);
            assert_near(run.run_logits(0, index).expect("in the run"), single.logits(0).expect("decoded"), &place);
        }
        assert_eq!(run.logits(0).expect("has"), run.run_logits(0, 4).expect("has"));
        assert!(run.run_logits(0, 5).is_err(), "beyond the run");

        // What is taken back never was.
        run.take_back(0, 3).expect("part of the run");
        assert_eq!(run.n_tokens(0), prompt.n_tokens() + 2);
        assert!(run.run_logits(0, 2).is_err() && run.take_back(0, 3).is_err());
        run.decode_run(0, &tokens[2..4]).expect("fits");
        run.take_back(0, 2).expect("the whole run");
        assert!(run.logits(0).is_err());
        run.decode(&[(0, 67)]).expect("fits");
        run.decode(&[(0, 68)]).expect("fits");
        run.decode(&[(0, 69)]).expect("fits");
        assert_near(run.logits(0).expect("decoded"), single.logits(0).expect("decoded"), "in the end");
        let error = run.decode_run(0, &[65; 9]).expect_err("more than n_logits");
        assert_eq!(error.kind(), ErrorKind::Limit);
    }
}
