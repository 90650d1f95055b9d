//! How soon work ends that is cancelled, phase by phase: `cancel MODEL.gguf [SIDE [TOKENS [THREADS]]]`, with the projector
//! beside the model, a picture of SIDE x SIDE pixels and a prompt of TOKENS. Every phase is cancelled at ten places, evenly
//! spaced over the time that it takes undisturbed. docs/cancellation.md has results.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench")]

use std::{
    io::Cursor,
    ops::ControlFlow,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use image::{ImageFormat, RgbImage};
use owlet_runtime::{
    AnswerOptions, CancelToken, DecodeOptions, EncodedPrompt, GenerateRequest, Image, ImageBudget, Model, ModelOptions,
    Prompt, Result, RngKey, Session, SessionOptions, generate, rng::Rng,
};

const PLACES: u32 = 10;

/// Prints the time of `work` undisturbed and from a cancel to its end, median and largest of [`PLACES`].
fn measure(what: &str, mut work: impl FnMut(&CancelToken) -> Result<()>) {
    let start = Instant::now();
    work(&CancelToken::new()).unwrap();
    let undisturbed = start.elapsed();
    let mut late: Vec<_> = (0..PLACES)
        .filter_map(|place| {
            let cancel = CancelToken::new();
            let at = undisturbed * (2 * place + 1) / (2 * PLACES);
            thread::scope(|scope| {
                let canceller = scope.spawn(|| {
                    thread::sleep(at);
                    cancel.cancel();
                    Instant::now()
                });
                let is_cancelled = work(&cancel).is_err();
                let end = Instant::now();
                let asked = canceller.join().unwrap();
                is_cancelled.then(|| end.saturating_duration_since(asked))
            })
        })
        .collect();
    late.sort_unstable();
    let milliseconds = |duration: Option<&Duration>| {
        duration.map_or("never in time".to_owned(), |duration| format!("{:.1} ms", 1e3 * duration.as_secs_f64()))
    };
    println!(
        "{what}: {:.0} ms undisturbed; cancelled {} times, ended after {}, at most {}",
        1e3 * undisturbed.as_secs_f64(),
        late.len(),
        milliseconds(late.get(late.len() / 2)),
        milliseconds(late.last()),
    );
}

fn noise(side: u32) -> Image {
    let mut rng = Rng::keyed(&[1]);
    let rgb = (0..side * side * 3).map(|_| rng.next_u64() as u8).collect();
    Image::from_rgb(side, side, rgb).unwrap()
}

fn decode(format: ImageFormat, picture: &Image) {
    let pixels = RgbImage::from_raw(picture.width(), picture.height(), picture.rgb().to_vec()).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, format).unwrap();
    measure(&format!("decode {format:?}, {} pixels", picture.width() * picture.height()), |cancel| {
        Image::from_encoded_until(bytes.get_ref(), &DecodeOptions::default(), cancel).map(drop)
    });
}

fn answer(session: &mut Session, prompt: &EncodedPrompt, n: usize, cancel: &CancelToken) -> Result<()> {
    let request = GenerateRequest { prompt, n: 1, rng_key: RngKey::default() };
    let options = AnswerOptions { max_new_tokens: n, ..AnswerOptions::default() };
    generate(session, &[request], &options, cancel, &mut |_| ControlFlow::Continue(())).map(drop)
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let Some(path) = args.next() else {
        println!("needs a model: cancel MODEL.gguf [SIDE [TOKENS [THREADS]]]");
        return;
    };
    let mut number = |default| args.next().map_or(default, |text| text.parse::<usize>().unwrap());
    let (side, n_tokens, n_threads) = (number(1024) as u32, number(2048), number(2));
    let options = ModelOptions { n_threads, ..ModelOptions::default() };
    measure("load", |cancel| {
        Model::load_watched(Path::new(&path), &options, cancel, &mut |_| ControlFlow::Continue(())).map(drop)
    });
    let model = Model::load(&path, &options).unwrap();
    let photo = noise(3464);
    for format in [ImageFormat::Jpeg, ImageFormat::Png] {
        decode(format, &photo);
    }
    if let Some(budget) = model.image_budget() {
        let pixels = u64::from(side).pow(2);
        let budget = ImageBudget { min_pixels: pixels, max_pixels: pixels, ..budget };
        measure("resize", |cancel| photo.resize_until(&budget, cancel).map(drop));
        let prompt = Prompt::user("What?", vec![noise(side)]).unwrap();
        measure(&format!("encode a picture of {side}x{side}"), |cancel| {
            model.encode_until(&prompt, Some(budget), cancel).map(drop)
        });
    }
    let n_ctx = (n_tokens + 512).min(model.info().n_ctx_train);
    let mut session = Session::new(&model, &SessionOptions { n_ctx, n_threads, ..SessionOptions::default() }).unwrap();
    let long = EncodedPrompt::from_tokens(model.tokenize(&"owl ".repeat(n_tokens / 4), true).unwrap());
    measure(&format!("prompt of {} tokens", long.n_tokens()), |cancel| answer(&mut session, &long, 1, cancel));
    let short = EncodedPrompt::from_tokens(model.tokenize("owl", true).unwrap());
    measure("answer of 64 tokens", |cancel| answer(&mut session, &short, 64, cancel));
    session.clear_all();
    session.prefill(0, &long).unwrap();
    let start = Instant::now();
    let state = session.save(0, &long).unwrap();
    let saved = start.elapsed();
    session.restore(0, &state, &long).unwrap();
    let (saved, restored) = (1e3 * saved.as_secs_f64(), 1e3 * (start.elapsed().as_secs_f64() - saved.as_secs_f64()));
    println!(
        "state of {} bytes: saved in {saved:.1} ms, restored in {restored:.1} ms, not interrupted",
        state.n_bytes()
    );
}
