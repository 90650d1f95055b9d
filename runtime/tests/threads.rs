//! One model, many sessions, from several threads at once.

mod common;

use std::{ops::ControlFlow, sync::Barrier, thread};

use common::tiny;
use owlet_runtime::{
    AnswerOptions, CancelToken, ErrorKind, GenerateRequest, Image, Model, Prompt, Result, RngKey, SamplerOptions,
    TokenId, generate, rng::Rng,
};

const N_THREADS: usize = 6;
const ROUNDS: usize = 3;
const N_TOKENS: usize = 24;

fn picture(seed: u64) -> Image {
    let mut rng = Rng::keyed(&[seed]);
    let rgb = (0..96 * 64 * 3).map(|_| rng.next_u64() as u8).collect();
    Image::from_rgb(96, 64, rgb).expect("right size")
}

/// What thread `index` asks: every other one about a picture of its own.
fn ask(model: &Model, index: usize, n_tokens: usize, cancel: &CancelToken) -> Result<Vec<TokenId>> {
    let pictures = if index.is_multiple_of(2) { vec![picture(index as u64)] } else { Vec::new() };
    let prompt = Prompt::user(&format!("Question {index}: who?"), pictures).expect("no marks");
    let prompt = model.encode_until(&prompt, None, cancel)?;
    let n_ctx = (prompt.n_tokens() + n_tokens).min(4000);
    let mut session = tiny::session(model, 1, n_ctx);
    let request =
        GenerateRequest { prompt: &prompt, n: 1, rng_key: RngKey { seed: index as u64, ..RngKey::default() } };
    let banned = model.tokenize("<|im_end|><|endoftext|>", true).expect("tokenizes");
    let sampler = SamplerOptions { temperature: 1.0, banned, ..SamplerOptions::default() };
    let options = AnswerOptions { sampler, max_new_tokens: n_tokens, ..AnswerOptions::default() };
    let answers = generate(&mut session, &[request], &options, cancel, &mut |_| ControlFlow::Continue(()))?;
    Ok(answers.into_iter().flatten().next().expect("one answer").tokens)
}

#[test]
fn threads_that_share_a_model_get_the_answers_that_they_get_alone() {
    let (model, _folder) = tiny::load();
    let never = CancelToken::new();
    let alone: Vec<_> = (0..N_THREADS).map(|index| ask(&model, index, N_TOKENS, &never).expect("answers")).collect();
    assert!(alone.iter().all(|tokens| tokens.len() == N_TOKENS));
    let (start, stop) = (Barrier::new(N_THREADS + 1), CancelToken::new());
    thread::scope(|scope| {
        // Another one begins the longest of answers again and again, and is cancelled in its midst.
        let cancelled = scope.spawn(|| {
            start.wait();
            let mut kinds = Vec::new();
            while !stop.is_cancelled() {
                let cancel = stop.or_after(std::time::Duration::from_millis(5));
                kinds.push(ask(&model, 2, 4000, &cancel).map(drop).map_err(|error| error.kind()));
            }
            kinds
        });
        let workers: Vec<_> = (0..N_THREADS)
            .map(|index| {
                let (model, start, never) = (model.clone(), &start, &never);
                scope.spawn(move || {
                    start.wait();
                    let round = |_| ask(&model, index, N_TOKENS, never).expect("answers");
                    (0..ROUNDS).map(round).collect::<Vec<_>>()
                })
            })
            .collect();
        for (index, worker) in workers.into_iter().enumerate() {
            let answers = worker.join().expect("no panic");
            assert!(answers.iter().all(|tokens| *tokens == alone[index]), "thread {index} answers otherwise");
        }
        stop.cancel();
        let kinds = cancelled.join().expect("no panic");
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == Err(ErrorKind::Cancelled)), "{kinds:?}");
    });
}
