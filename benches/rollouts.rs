//! A group of answers to a question with a picture against as many generations of one answer each.
//!
//! `cargo bench --profile dev --bench rollouts -- [--model GGUF [--mmproj GGUF | --grid 14]] [--group 8] [--tokens 64]
//! [--threads 2] [--rounds 5]` prints one line of JSON. Without a model it takes the embedded one.
//!
//! A generation encodes the picture, computes the prompt and decodes one answer, in a session of one sequence. A group
//! encodes the picture once, computes the prompt once, forks it and decodes all answers side by side. Nothing ends an answer
//! before its last token, so both pick the same number of tokens. They take turns; medians are compared.
//!
//! A model without a projector, such as `owlet synth --preset qwen3-vl-2b` writes it, gets random numbers for a picture of
//! `grid` x `grid` tokens. Nothing is encoded then on either side.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{fs, ops::ControlFlow, time::Instant};

use owlet::{
    AnswerOptions, CancelToken, EncodedPrompt, GenerateRequest, Image, Model, ModelOptions, Prompt, RngKey,
    SamplerOptions, Session, SessionOptions, TokenId, generate,
};
use owlet_models::{MMPROJ_GGUF, MODEL_GGUF, Split, TaskKind, sample};
use owlet_runtime::{ImageEmbedding, Segment, rng::Rng};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let text = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let number = |name: &str, default: usize| text(name).map_or(default, |value| value.parse().unwrap());
    let (n_answers, n_tokens) = (number("--group", 8), number("--tokens", 64));
    let (n_threads, n_rounds) = (number("--threads", 2), number("--rounds", 5));

    let folder = tempfile::tempdir().unwrap();
    let embedded = ["model.gguf", "mmproj.gguf"].map(|name| folder.path().join(name));
    for (path, bytes) in embedded.iter().zip([MODEL_GGUF, MMPROJ_GGUF]) {
        fs::write(path, bytes).unwrap();
    }
    let [model, mmproj] = embedded;
    let (model, mmproj) = match text("--model") {
        Some(model) => (model.into(), text("--mmproj").map(Into::into)),
        None => (model, Some(mmproj)),
    };
    let model = Model::load(model, &ModelOptions { mmproj, n_threads, ..ModelOptions::default() }).unwrap();
    let question = question(&model, number("--grid", 14));
    let n_prompt = question().n_tokens();

    let session = |n_seq| {
        let options = SessionOptions { n_ctx: n_prompt + n_tokens, n_seq, n_threads, ..SessionOptions::default() };
        Session::new(&model, &options).unwrap()
    };
    let (mut one, mut many) = (session(1), session(n_answers));
    let banned: Vec<_> = (0..model.info().n_vocab as TokenId).filter(|&token| model.is_eog(token)).collect();
    let sampler = SamplerOptions { banned, ..SamplerOptions::default() };
    let options = AnswerOptions { sampler, max_new_tokens: n_tokens, ..AnswerOptions::default() };
    let answer = |session: &mut Session, n: usize, seed: u64| {
        let prompt = question();
        let request = GenerateRequest { prompt: &prompt, n, rng_key: RngKey { seed, ..RngKey::default() } };
        let answers = generate(session, &[request], &options, &CancelToken::new(), &mut |_| ControlFlow::Continue(()));
        let answers = answers.unwrap();
        assert!(answers[0].iter().all(|answer| answer.tokens.len() == n_tokens));
    };

    let (mut group_seconds, mut separate_seconds) = (Vec::new(), Vec::new());
    for round in 0..=n_rounds {
        let start = Instant::now();
        answer(&mut many, n_answers, round as u64);
        let group = start.elapsed().as_secs_f64();
        (0..n_answers).for_each(|index| answer(&mut one, 1, (round * n_answers + index) as u64));
        // The first round warms up.
        if round > 0 {
            group_seconds.push(group);
            separate_seconds.push(start.elapsed().as_secs_f64() - group);
        }
    }
    let (group, separate) = (median(group_seconds), median(separate_seconds));
    let line = serde_json::json!({
        "model": model.info().name, "type": model.info().quantization, "prompt": n_prompt, "tokens": n_tokens,
        "group": n_answers, "threads": n_threads, "rounds": n_rounds, "group_seconds": group,
        "separate_seconds": separate, "ratio": separate / group,
    });
    println!("{line}");
}

/// What computes the prompt anew, its picture included.
fn question(model: &Model, grid: usize) -> Box<dyn Fn() -> EncodedPrompt + '_> {
    if model.has_vision() {
        let drawn = sample(1, Split::HeldOut, TaskKind::SpatialReasoning, 0);
        let (width, height) = drawn.image.dimensions();
        let picture = Image::from_rgb(width, height, drawn.image.clone().into_raw()).unwrap();
        let prompt = Prompt::user(&drawn.prompt(), vec![picture]).unwrap();
        return Box::new(move || model.encode(&prompt).unwrap());
    }
    let n_deepstack = model.gguf().opt_u32("qwen3vl.n_deepstack_layers").unwrap().unwrap_or(0) as usize;
    let (n_tokens, width_embd) = (grid * grid, model.info().n_embd * (1 + n_deepstack));
    let mut rng = Rng::keyed(&[1]);
    let data = (0..n_tokens * width_embd).map(|_| (rng.uniform() - 0.5) as f32).collect();
    let side = grid as u32;
    let picture = ImageEmbedding { n_tokens, grid_w: side, grid_h: side, width_embd, data, encode_ms: 0.0 };
    let words = |n: TokenId| Segment::Tokens((0..n).collect());
    let prompt = EncodedPrompt { segments: vec![words(8), Segment::Image(picture.into()), words(24)] };
    Box::new(move || prompt.clone())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
