//! What guessing ahead gains: the same answers with and without, turn by turn.
//!
//! `cargo bench --profile dev --bench speculation -- [--model GGUF] [--draft GGUF] [--repeating TEXT] [--other TEXT] [--tokens 96]
//! [--threads 2] [--rounds 5] [--temperature 0]` prints one line of JSON for each text and way to guess. Without a model it takes
//! the embedded one in F16, without a draft the model itself in Q4_0: a draft of the same depth, which costs less only by
//! the weights that it reads, and so a pair that no one would choose; smaller models of a family are what drafts are made of.
//!
//! Nothing ends an answer before its last token. Rounds are taken in turn and medians compared; `same` is the share of tokens
//! before the first difference, which only rounding makes.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{fs, ops::ControlFlow, path::PathBuf, time::Instant};

use owlet::{
    AnswerOptions, CancelToken, EncodedPrompt, GenerateRequest, Model, ModelOptions, Prompt, QuantType, RngKey,
    SamplerOptions, Session, SessionOptions, Speculation, Timings, TokenId, generate,
    quant::{QuantizeRequest, quantize},
};
use owlet_models::MODEL_GGUF;

/// Texts of which one is to be copied.
const REPEATING: &str = "Repeat this list word for word: red circle, blue star, green square, red star, blue circle, \
    green star, red square, blue square, green circle.";
const OTHER: &str = "Tell a short story about an owl that could not sleep.";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let text = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let number = |name: &str, default: usize| text(name).map_or(default, |value| value.parse().unwrap());
    let (n_tokens, n_rounds, n_threads) = (number("--tokens", 96), number("--rounds", 5), number("--threads", 2));
    let temperature = text("--temperature").map_or(0.0, |value| value.parse().unwrap());

    let folder = tempfile::tempdir().unwrap();
    let embedded = folder.path().join("model.gguf");
    fs::write(&embedded, MODEL_GGUF).unwrap();
    let path: PathBuf = text("--model").map_or(embedded, Into::into);
    let draft = text("--draft").map_or_else(
        || {
            let smaller = folder.path().join("draft.gguf");
            let request =
                QuantizeRequest { allow_requantize: true, ..QuantizeRequest::new(&path, &smaller, QuantType::Q4_0) };
            quantize(&request, &mut |_| {}).unwrap();
            smaller
        },
        Into::into,
    );
    let load =
        |path| Model::load(path, &ModelOptions { text_only: true, n_threads, ..ModelOptions::default() }).unwrap();
    let (model, draft) = (load(path), load(draft));

    let banned = (0..model.info().n_vocab as TokenId).filter(|&token| model.is_eog(token)).collect();
    let sampler = SamplerOptions { temperature, banned, ..SamplerOptions::default() };
    let options = AnswerOptions { sampler, max_new_tokens: n_tokens, ..AnswerOptions::default() };
    let ways = [("n-grams", Speculation::n_grams()), ("model", Speculation::model(draft.clone()))];
    for (name, question) in [
        ("repeating", text("--repeating").unwrap_or(REPEATING.to_owned())),
        ("other", text("--other").unwrap_or(OTHER.to_owned())),
    ] {
        let prompt = model.encode(&Prompt::user(&question, vec![]).unwrap()).unwrap();
        for (way, speculation) in &ways {
            let (mut plain, mut guessing) = (Vec::new(), Vec::new());
            let (mut same, mut last) = (0.0, Timings::default());
            for round in 0..=n_rounds {
                let (seconds, expected, _) = answer(&model, &prompt, None, &options, n_threads, round);
                let (fewer, tokens, timings) = answer(&model, &prompt, Some(speculation), &options, n_threads, round);
                // The first round warms up.
                if round > 0 {
                    plain.push(seconds);
                    guessing.push(fewer);
                    let n_same = tokens.iter().zip(&expected).take_while(|(a, b)| a == b).count();
                    same += n_same as f64 / (n_tokens * n_rounds) as f64;
                    last = timings;
                }
            }
            let (plain, guessing) = (median(plain), median(guessing));
            let line = serde_json::json!({
                "model": model.info().name, "type": model.info().quantization, "draft": draft.info().quantization,
                "text": name, "guesses": way, "tokens": n_tokens, "threads": n_threads, "temperature": temperature,
                "plain_seconds": plain, "seconds": guessing, "gain": plain / guessing, "guessed": last.n_guessed,
                "accepted": last.n_accepted, "calls": last.n_decode_calls, "same": same,
            });
            println!("{line}");
        }
    }
}

/// Seconds of one answer behind its prompt, its tokens, and what was counted.
fn answer(
    model: &Model,
    prompt: &EncodedPrompt,
    speculation: Option<&Speculation>,
    options: &AnswerOptions,
    n_threads: usize,
    round: usize,
) -> (f64, Vec<TokenId>, Timings) {
    let n_ctx = prompt.n_tokens() + options.max_new_tokens;
    let n_logits = speculation.map_or(1, Speculation::n_logits);
    let session = SessionOptions { n_ctx, n_logits, n_threads, ..SessionOptions::default() };
    let mut session = Session::new(model, &session).unwrap();
    session.set_speculation(speculation).unwrap();
    let request = GenerateRequest { prompt, n: 1, rng_key: RngKey { seed: round as u64, ..RngKey::default() } };
    let mut first = None;
    let answers = generate(&mut session, &[request], options, &CancelToken::new(), &mut |_| {
        first.get_or_insert_with(Instant::now);
        ControlFlow::Continue(())
    });
    let seconds = first.unwrap().elapsed().as_secs_f64();
    (seconds, answers.unwrap()[0].remove(0).tokens, *session.timings())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
