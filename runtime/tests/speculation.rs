//! Guessing ahead changes no answer: the same tokens for the same seed, the same distribution, the same ends, in groups
//! and in conversations.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::Path,
};

use common::tiny;
use owlet_runtime::{
    AnswerOptions, CancelToken, EncodedPrompt, ErrorKind, FlashAttention, GenerateRequest, Generated, Image,
    InferencePlan, InferenceRequest, KvType, Message, Model, ModelOptions, Prompt, RngKey, SamplerOptions, Session,
    SessionOptions, Speculation, StopReason, TokenId,
    conversation::{Conversation, ConversationOptions},
    generate,
};

/// Kernels round differently for other numbers of tokens in a call; logits range over about +-5, in F32 throughout.
const ROUNDING: f32 = 1e-4;

fn session(model: &Model, n_seq: usize, n_ctx: usize, speculation: Option<&Speculation>) -> Session {
    let options = SessionOptions {
        n_ctx,
        n_seq,
        n_logits: 9,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        n_threads: 1,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model, &options).expect("makes a session");
    session.set_speculation(speculation).expect("fits");
    session
}

/// A model of the same shape with other weights.
fn other_model(folder: &Path) -> Model {
    let mut draft = tiny::model();
    draft.seed = 77;
    let path = draft.write(&folder.join("other.gguf"));
    let options = ModelOptions { n_threads: 1, ..ModelOptions::default() };
    Model::load(path, &options).expect("loads")
}

/// By n-grams, by a copy of the model, by another model.
fn speculations(model: &Model, folder: &Path) -> [Speculation; 3] {
    let other = other_model(folder);
    [
        Speculation::NGrams { n_draft: 8, n_match: 1 },
        Speculation::model(model.clone()),
        Speculation::Model { model: other, n_draft: 2 },
    ]
}

fn picture() -> Image {
    let rgb = (0..64 * 64 * 3).map(|i| (i * 7 % 251) as u8).collect();
    Image::from_rgb(64, 64, rgb).expect("right size")
}

fn prompts(model: &Model) -> [EncodedPrompt; 2] {
    let prompt = Prompt::user("What is this? What is this?", vec![picture()]).expect("no marks");
    [tiny::prompt(model, "abcabcabcabc"), model.encode(&prompt).expect("encodes")]
}

fn run(
    session: &mut Session,
    prompts: &[EncodedPrompt],
    n: usize,
    seed: u64,
    options: &AnswerOptions,
) -> Vec<Generated> {
    let request = |(index, prompt)| {
        let rng_key = RngKey { seed, step: 0, prompt: index as u64 };
        GenerateRequest { prompt, n, rng_key }
    };
    let requests: Vec<_> = prompts.iter().enumerate().map(request).collect();
    let answers = generate(session, &requests, options, &CancelToken::new(), &mut |_| ControlFlow::Continue(()));
    answers.expect("runs").into_iter().flatten().collect()
}

fn assert_same(got: &[Generated], expected: &[Generated], place: &str) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!((&got.tokens, got.stop, &got.text), (&expected.tokens, expected.stop, &expected.text), "{place}");
        let pairs = got.logprobs.iter().zip(&expected.logprobs);
        let difference = pairs.map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp).unwrap_or(0.0);
        assert!(difference < ROUNDING, "{place}: {difference}");
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_with_and_without_guesses() {
    let (model, folder) = tiny::load();
    let prompts = prompts(&model);
    let narrow =
        SamplerOptions { temperature: 0.3, top_k: 20, top_p: 0.9, repeat_penalty: 1.1, ..SamplerOptions::default() };
    let mut options: Vec<_> = [SamplerOptions::greedy(), SamplerOptions::default(), narrow]
        .map(|sampler| AnswerOptions { sampler, max_new_tokens: 40, ..AnswerOptions::default() })
        .into();
    #[cfg(feature = "grammar")]
    options.push(AnswerOptions {
        constraint: Some(owlet_runtime::Constraint::Lark("start: /([abc]{3} )+[0-9]{4}/".to_owned())),
        thinking_budget: Some(0),
        ..options[1].clone()
    });
    options.push(AnswerOptions { stop: vec!["a".to_owned(), "b".to_owned()], ..options[1].clone() });
    for (index, speculation) in speculations(&model, folder.path()).iter().enumerate() {
        for options in &options {
            let (mut plain, mut guessing) = (session(&model, 1, 256, None), session(&model, 1, 256, Some(speculation)));
            let expected = run(&mut plain, &prompts, 3, 5, options);
            let place = format!("speculation {index}, {options:?}");
            assert_same(&run(&mut guessing, &prompts, 3, 5, options), &expected, &place);
            let (with, without) = (guessing.timings(), plain.timings());
            assert!(with.n_guessed > 0 && with.n_accepted <= with.n_guessed, "{place}: {with:?}");
            assert_eq!((with.n_decoded, without.n_guessed), (without.n_decoded, 0), "{place}");
            assert_eq!(with.n_decode_calls + with.n_accepted, without.n_decode_calls, "{place}");
            // Its own copy guesses right, whatever the sampler draws, but knows no constraint; the end of an answer spares no
            // call.
            if index == 1 && options.constraint.is_none() {
                assert!(with.n_guessed - with.n_accepted <= expected.len() as u64, "{place}: {with:?}");
            }
        }
    }
}

#[test]
fn the_distribution_of_answers_is_that_of_the_model() {
    let (model, folder) = tiny::load();
    let prompt = &prompts(&model)[..1];
    // Four of three tokens, so every answer is seen often.
    let banned = (0..tiny::N_VOCAB as TokenId).filter(|token| !(97..100).contains(token)).collect();
    let sampler = SamplerOptions { temperature: 3.0, banned, ..SamplerOptions::default() };
    let options = AnswerOptions { sampler, max_new_tokens: 4, ..AnswerOptions::default() };
    const N: usize = 1000;
    let counts = |speculation: Option<&Speculation>, seed: u64| {
        let mut session = session(&model, 1, 64, speculation);
        let mut counts = BTreeMap::<_, f64>::new();
        for answer in run(&mut session, prompt, N, seed, &options) {
            *counts.entry(answer.tokens).or_default() += 1.0;
        }
        (counts, session.timings().n_accepted)
    };
    let (plain, _) = counts(None, 1);
    for (index, speculation) in speculations(&model, folder.path()).iter().enumerate() {
        let (guessed, n_accepted) = counts(Some(speculation), 2 + index as u64);
        let keys: BTreeSet<_> = plain.keys().chain(guessed.keys()).collect();
        // Pearson's statistic of two samples of the same size, and its degrees of freedom.
        let get = |counts: &BTreeMap<Vec<TokenId>, f64>, key: &[TokenId]| counts.get(key).copied().unwrap_or(0.0);
        let term = |key: &[TokenId]| {
            let (a, b) = (get(&plain, key), get(&guessed, key));
            (a - b).powi(2) / (a + b)
        };
        let statistic: f64 = keys.iter().map(|key| term(key)).sum();
        let freedom = (keys.len() - 1) as f64;
        // Five standard deviations above the mean of a chi-square distribution.
        let limit = freedom + 5.0 * (2.0 * freedom).sqrt();
        assert!(statistic < limit, "speculation {index}: {statistic} of {freedom}");
        assert!(freedom > 8.0 && n_accepted > 100, "the test sees something: {freedom}, {n_accepted}");
    }
}

#[test]
fn answers_end_where_they_would_without_guesses() {
    let (model, folder) = tiny::load();
    let prompts = &prompts(&model)[..1];
    let n_prompt = prompts[0].n_tokens();
    // Every n-gram guess is right in a text that goes on repeating.
    for speculation in &speculations(&model, folder.path())[..2] {
        for (n_ctx, max_new_tokens, stop) in [
            (256, 1, StopReason::MaxTokens),
            (256, 23, StopReason::MaxTokens),
            (n_prompt + 17, 60, StopReason::ContextFull),
        ] {
            let sampler = SamplerOptions { banned: vec![256, 258], ..SamplerOptions::greedy() };
            let options = AnswerOptions { sampler, max_new_tokens, ..AnswerOptions::default() };
            let expected = run(&mut session(&model, 1, n_ctx, None), prompts, 1, 1, &options);
            assert_eq!(expected[0].stop, stop);
            let mut guessing = session(&model, 1, n_ctx, Some(speculation));
            assert_same(&run(&mut guessing, prompts, 1, 1, &options), &expected, &format!("{n_ctx}, {max_new_tokens}"));
        }
        // The caller ends it within a run.
        let mut session = session(&model, 1, 256, Some(speculation));
        let request = GenerateRequest { prompt: &prompts[0], n: 1, rng_key: RngKey::default() };
        let answers =
            generate(&mut session, &[request], &AnswerOptions::greedy(60), &CancelToken::new(), &mut |event| {
                if event.position == 12 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        let answers = answers.expect("runs");
        assert_eq!((answers[0][0].tokens.len(), answers[0][0].stop), (13, StopReason::Caller));
    }
}

#[test]
fn side_by_side_nothing_is_guessed_and_the_last_one_alone_is() {
    let (model, folder) = tiny::load();
    let prompts = prompts(&model);
    let sampler = SamplerOptions { temperature: 1.5, ..SamplerOptions::default() };
    let options = AnswerOptions { sampler, max_new_tokens: 30, ..AnswerOptions::default() };
    let speculation = &speculations(&model, folder.path())[1];
    let expected = run(&mut session(&model, 3, 256, None), &prompts, 3, 9, &options);
    let mut guessing = session(&model, 3, 256, Some(speculation));
    assert_same(&run(&mut guessing, &prompts, 3, 9, &options), &expected, "three lanes");
    let timings = *guessing.timings();
    assert!(timings.n_guessed < timings.n_decoded / 2, "{timings:?}");
    guessing.set_speculation(None).expect("off");
    assert_same(&run(&mut guessing, &prompts, 3, 9, &options), &expected, "off again");
    assert_eq!(guessing.timings().n_guessed, timings.n_guessed);
}

#[test]
fn conversations_go_on_as_without_guesses() {
    let (model, folder) = tiny::load();
    let options = ConversationOptions {
        answer: AnswerOptions { max_new_tokens: 20, ..AnswerOptions::default() },
        ..ConversationOptions::default()
    };
    let talk = |speculation: Option<&Speculation>| {
        let mut conversation = Conversation::new(session(&model, 2, 512, speculation), options.clone());
        let ask = |conversation: &mut Conversation, text: &str, images: Vec<Image>| {
            let question = Message::user(text, images).expect("no marks");
            let turn = conversation.ask(question, &CancelToken::new(), &mut |_| ControlFlow::Continue(()));
            let turn = turn.expect("answers");
            (turn.answer, turn.report.n_computed_tokens, conversation.n_tokens())
        };
        let mut turns = vec![ask(&mut conversation, "What is this?", vec![picture()])];
        turns.push(ask(&mut conversation, "And what is this?", vec![]));
        let mut fork = conversation.fork().expect("has a free sequence");
        turns.push(ask(&mut fork, "Or this?", vec![]));
        turns.push(ask(&mut conversation, "Again?", vec![]));
        turns
    };
    let expected = talk(None);
    for (index, speculation) in speculations(&model, folder.path()).iter().enumerate() {
        for (got, expected) in talk(Some(speculation)).iter().zip(&expected) {
            assert_same(std::slice::from_ref(&got.0), std::slice::from_ref(&expected.0), &format!("{index}"));
            assert_eq!((got.1, got.2), (expected.1, expected.2), "the same is held, speculation {index}");
        }
    }
}

#[test]
fn what_cannot_speculate_is_refused_and_a_cancelled_answer_leaves_all_usable() {
    let (model, folder) = tiny::load();
    let mut session = session(&model, 1, 128, None);
    let short = folder.path().join("short.gguf");
    let mut draft = tiny::model();
    let tokens: Vec<_> = (0..tiny::N_VOCAB).map(|token| format!("t{token}")).collect();
    draft.set("tokenizer.ggml.tokens", tokens);
    let stranger = Model::load(draft.write(&short), &ModelOptions { n_threads: 1, ..ModelOptions::default() });
    for (speculation, kind, says) in [
        (Speculation::NGrams { n_draft: 9, n_match: 2 }, ErrorKind::InvalidInput, "got 9, needed at least 10"),
        (Speculation::NGrams { n_draft: 0, n_match: 2 }, ErrorKind::InvalidInput, "bad speculation"),
        (Speculation::NGrams { n_draft: 1, n_match: 0 }, ErrorKind::InvalidInput, "bad speculation"),
        (Speculation::model(stranger.expect("loads")), ErrorKind::Mismatch, "another vocabulary"),
    ] {
        let error = session.set_speculation(Some(&speculation)).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    session.set_speculation(Some(&Speculation::model(model.clone()))).expect("fits");
    let prompts = &prompts(&model)[..1];
    let options = AnswerOptions::greedy(30);
    let expected = run(&mut session, prompts, 1, 1, &options);
    let cancel = CancelToken::new();
    let request = GenerateRequest { prompt: &prompts[0], n: 1, rng_key: RngKey::default() };
    let error = generate(&mut session, &[request], &options, &cancel, &mut |_| {
        cancel.cancel();
        ControlFlow::Continue(())
    });
    assert_eq!(error.expect_err("cancelled").kind(), ErrorKind::Cancelled);
    assert_same(&run(&mut session, prompts, 1, 1, &options), &expected, "after the cancelled one");
}

#[test]
fn a_draft_model_counts_in_the_memory_budget() {
    let (model, folder) = tiny::load();
    let options = SessionOptions { n_ctx: 1024, n_logits: 9, n_threads: 1, ..SessionOptions::default() };
    let request = InferenceRequest { session: options, ..InferenceRequest::default() };
    let alone = InferencePlan::of_model(&model, &request).expect("a plan").peak_bytes();
    let draft = Speculation::model(other_model(folder.path()));
    let more = draft.memory_bytes(&options).expect("a plan");
    assert!(more > 1 << 20 && Speculation::n_grams().memory_bytes(&options).is_ok_and(|bytes| bytes == 0));
    for (budget, fits) in [(alone + more, true), (alone + more - 1, false)] {
        let session = Session::new(&model, &SessionOptions { memory_budget: Some(budget), ..options });
        let mut session = session.expect("fits");
        assert_eq!(session.options().n_ctx, 1024);
        session.set_speculation(Some(&Speculation::n_grams())).expect("takes nothing");
        let result = session.set_speculation(Some(&draft)).map_err(|error| error.kind());
        assert_eq!(result, if fits { Ok(()) } else { Err(ErrorKind::Limit) });
    }
}
