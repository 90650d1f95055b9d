//! A second question about the same picture: time to its first token, beside that of the first question.
//!
//! `cargo bench --profile dev --bench conversation -- [--side 1024] [--threads 1] [--rounds 5]` prints one line of JSON, over the
//! embedded model with a random picture of `side` x `side` pixels. Each round is a new conversation without a cache of pictures
//! from before; medians are told.
//!
//! - `first_ms`: encode the picture, compute picture and question, pick a token; `second_ms`: compute the second question,
//!   `second_prefill_ms` of which in llama.cpp (last round);
//! - `same_picture_ms`: the picture is shown again in a new conversation that shares the cache of pictures, so it is computed
//!   and not encoded.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{fs, ops::ControlFlow, sync::Arc};

use owlet::{
    AnswerOptions, CancelToken, Image, Message, Model, ModelOptions, Session, SessionOptions,
    conversation::{Conversation, ConversationOptions, TurnReport},
};
use owlet_models::{MMPROJ_GGUF, MODEL_GGUF};
use owlet_runtime::rng::Rng;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().unwrap())
    };
    let (side, n_threads, n_rounds) = (number("--side", 1024), number("--threads", 1), number("--rounds", 5));
    let folder = tempfile::tempdir().unwrap();
    let [path, mmproj] = ["model.gguf", "mmproj.gguf"].map(|name| folder.path().join(name));
    fs::write(&path, MODEL_GGUF).unwrap();
    fs::write(&mmproj, MMPROJ_GGUF).unwrap();
    let max_pixels = Some((side * side) as u64);
    let options = ModelOptions { mmproj: Some(mmproj), n_threads, max_pixels, ..ModelOptions::default() };
    let model = Model::load(&path, &options).unwrap();
    let mut rng = Rng::keyed(&[1]);
    let rgb = (0..side * side * 3).map(|_| rng.next_u64() as u8).collect();
    let picture = Image::from_rgb(side as u32, side as u32, rgb).unwrap();

    let conversation = || {
        let options = SessionOptions { n_ctx: model.info().n_ctx_train, n_threads, ..SessionOptions::default() };
        let session = Session::new(&model, &options).unwrap();
        let answer = AnswerOptions::greedy(8);
        Conversation::new(session, ConversationOptions { answer, ..ConversationOptions::default() })
    };
    let ask = |conversation: &mut Conversation, text: &str, pictures: &[Image]| -> TurnReport {
        let question = Message::user(text, pictures.to_vec()).unwrap();
        conversation.ask(question, &CancelToken::new(), &mut |_| ControlFlow::Continue(())).unwrap().report
    };
    let (mut first, mut second, mut same) = (Vec::new(), Vec::new(), Vec::new());
    let mut reports = Vec::new();
    for _ in 0..n_rounds {
        let mut one = conversation();
        reports =
            vec![ask(&mut one, "What is this?", std::slice::from_ref(&picture)), ask(&mut one, "Is it an owl?", &[])];
        let mut other = conversation();
        other.set_image_cache(Arc::clone(one.image_cache()));
        same.push(ask(&mut other, "What is this?", std::slice::from_ref(&picture)).first_token_ms);
        first.push(reports[0].first_token_ms);
        second.push(reports[1].first_token_ms);
    }
    let [first, second, same] = [first, second, same].map(median);
    let line = serde_json::json!({
        "model": model.info().name, "side": side, "threads": n_threads, "rounds": n_rounds,
        "first_tokens": reports[0].n_computed_tokens, "second_tokens": reports[1].n_computed_tokens,
        "first_ms": first, "second_ms": second, "second_prefill_ms": reports[1].prefill_ms, "ratio": first / second, "same_picture_ms": same,
    });
    println!("{line}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
