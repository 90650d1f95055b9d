//! `owlet bench`: what answers cost on this machine, beside llama.cpp's bare loop.

use std::{fs, ops::ControlFlow, path::PathBuf};

use clap::Args;
use owlet::{CancelToken, DecodeOptions, Error, ErrorKind, Image, Model, ModelOptions, peak_memory_bytes};
use owlet_models::{MMPROJ_GGUF, MODEL_GGUF};
use serde::Serialize;
use tempfile::TempDir;

use super::{
    failure::{Result, Teach},
    interrupt,
    output::{self, Output, table},
};

mod measure;
mod spread;

use measure::Bench;
use spread::Spread;

/// Side of the picture that is drawn when none is given: 1,024 tokens of Qwen3-VL.
const SIDE: u32 = 1024;

/// Measure load, pictures, prompts and answers on this machine, and our loop beside llama.cpp's bare one
///
/// Without arguments it measures the embedded model. Every number is the median of --repeats, with the least and the most;
/// our loop and the bare one take turns over the same tokens. An idle machine is needed for numbers to mean anything.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// The model: a GGUF file [default: the embedded one]
    #[arg(long, short, value_name = "GGUF")]
    model: Option<PathBuf>,
    /// Its image projector [default: the `mmproj*.gguf` beside the model]
    #[arg(long, value_name = "GGUF", requires = "model")]
    mmproj: Option<PathBuf>,
    /// A picture [default: noise of 1024 x 1024 pixels, where the model sees pictures]
    #[arg(long, short, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Most pixels that the model sees of the picture [default: 1048576]
    #[arg(long, default_value_t = u64::from(SIDE) * u64::from(SIDE), value_name = "N")]
    max_pixels: u64,
    /// Tokens of every answer
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=4096))]
    tokens: u16,
    /// Answers side by side that are compared with the bare loop
    #[arg(long, default_values_t = [1, 4, 8], value_delimiter = ',', value_name = "N,N", value_parser = clap::value_parser!(u16).range(1..=64))]
    samples: Vec<u16>,
    /// Measurements of everything
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// Threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Times in milliseconds, rates in tokens per second.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    quantization: String,
    threads: usize,
    repeats: u16,
    tokens: u16,
    load_ms: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<Picture>,
    text: Answers,
    decode: Vec<Decode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
}

/// A question about the picture, and a second one.
#[derive(Debug, Serialize)]
struct Picture {
    width: u32,
    height: u32,
    encode_ms: Spread,
    answers: Answers,
    first_question_ms: Spread,
    second_question_ms: Spread,
    /// First over second, of each conversation.
    times_sooner: Spread,
}

/// Answers one at a time.
#[derive(Debug, Serialize)]
struct Answers {
    n_prompt_tokens: usize,
    prefill_ms: Spread,
    prefill_rate: Spread,
    first_token_ms: Spread,
    decode_rate: Spread,
}

/// Our loop beside the bare one.
#[derive(Debug, Serialize)]
struct Decode {
    samples: u16,
    our_rate: Spread,
    bare_rate: Spread,
    /// How much longer ours takes, of each round; 0.01 is one percent.
    overhead: Spread,
    /// What picking tokens takes of ours.
    pick_share: Spread,
}

pub(crate) fn run(args: &BenchArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    let embedded = args.model.is_none().then(embedded).transpose()?;
    let open = |path| Image::open_until(path, &DecodeOptions::default(), &cancel);
    let image = args.image.as_ref().map(open).transpose()?;
    let model_path = match (&args.model, &embedded) {
        (Some(path), _) => path.clone(),
        (None, Some(folder)) => folder.path().join("model.gguf"),
        (None, None) => return Err(Error::new(ErrorKind::Internal, "no model to measure").into()),
    };
    let options = ModelOptions {
        mmproj: args.mmproj.clone(),
        n_threads: args.threads,
        max_pixels: Some(args.max_pixels),
        ..ModelOptions::default()
    };
    output.say("loading");
    let mut load_ms = Vec::new();
    let mut loaded = None;
    for _ in 0..args.repeats {
        cancel.check()?;
        drop(loaded.take());
        let model = Model::load_watched(&model_path, &options, &cancel, &mut |_| ControlFlow::Continue(()))?;
        load_ms.push(model.load_ms());
        loaded = Some(model);
    }
    let model = loaded.ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was loaded"))?;
    if image.is_some() && !model.has_vision() {
        let error = Error::new(ErrorKind::Unsupported, "model sees no pictures").got("no image projector");
        return Err(error).hint(ErrorKind::Unsupported, "name the projector by `--mmproj`");
    }
    let image = match image {
        None if model.has_vision() => Some(noise()?),
        image => image,
    };
    let report = args.measure(&model, image.as_ref(), &load_ms, &cancel, output)?;
    if args.json { output.json(&report) } else { output.data(report.to_table()) }
}

impl BenchArgs {
    fn measure(
        &self,
        model: &Model,
        image: Option<&Image>,
        load_ms: &[f64],
        cancel: &CancelToken,
        output: Output,
    ) -> Result<Report> {
        let bench = Bench { model, n_threads: self.threads, n_tokens: self.tokens.into(), cancel };
        output.say("answering a question in text");
        let text = self.answers(&bench, None)?.0;
        let picture = match image {
            Some(image) => {
                output.say("answering questions about a picture");
                Some(self.picture(&bench, image)?)
            }
            None => None,
        };
        let mut decode = Vec::new();
        for &samples in &self.samples {
            output.say(format_args!("decoding {samples} at once, beside the bare loop"));
            let rounds = bench.compare(samples.into(), self.repeats.into())?;
            decode.push(Decode {
                samples,
                our_rate: spread(&rounds, |round| round.our_rate)?,
                bare_rate: spread(&rounds, |round| round.bare_rate)?,
                overhead: spread(&rounds, |round| round.bare_rate / round.our_rate - 1.0)?,
                pick_share: spread(&rounds, |round| round.pick_share)?,
            });
        }
        Ok(Report {
            model: model.info().name.clone(),
            quantization: model.info().quantization.clone(),
            threads: self.threads,
            repeats: self.repeats,
            tokens: self.tokens,
            load_ms: spread(load_ms, |&ms| ms)?,
            picture,
            text,
            decode,
            peak_memory_bytes: peak_memory_bytes(),
        })
    }

    /// Answers one at a time, and what encoding took of each.
    fn answers(&self, bench: &Bench<'_>, image: Option<&Image>) -> Result<(Answers, Spread)> {
        let question = if image.is_some() { "What is this?" } else { "Why do owls turn their heads so far? Explain." };
        let answer = |_| bench.answer(image, question);
        let rounds = (0..self.repeats).map(answer).collect::<owlet::Result<Vec<_>>>()?;
        let answers = Answers {
            n_prompt_tokens: rounds.first().map_or(0, |round| round.n_prompt_tokens),
            prefill_ms: spread(&rounds, |round| round.prefill_ms)?,
            prefill_rate: spread(&rounds, |round| round.n_prompt_tokens as f64 * 1e3 / round.prefill_ms)?,
            first_token_ms: spread(&rounds, |round| round.first_token_ms)?,
            decode_rate: spread(&rounds, |round| round.decode_rate)?,
        };
        Ok((answers, spread(&rounds, |round| round.encode_ms)?))
    }

    fn picture(&self, bench: &Bench<'_>, image: &Image) -> Result<Picture> {
        let (answers, encode_ms) = self.answers(bench, Some(image))?;
        let ask = |_| bench.ask_twice(image);
        let rounds = (0..self.repeats).map(ask).collect::<owlet::Result<Vec<_>>>()?;
        Ok(Picture {
            width: image.width(),
            height: image.height(),
            encode_ms,
            answers,
            first_question_ms: spread(&rounds, |round| round.first_ms)?,
            second_question_ms: spread(&rounds, |round| round.second_ms)?,
            times_sooner: spread(&rounds, |round| round.first_ms / round.second_ms)?,
        })
    }
}

impl Report {
    fn to_table(&self) -> String {
        let row = |name: String, spread: &Spread, digits: usize, unit: &str| {
            let number = |value: f64| format!("{value:.digits$}");
            vec![name, number(spread.median), number(spread.min), number(spread.max), unit.to_owned()]
        };
        let mut rows = vec![["", "median", "least", "most", ""].map(str::to_owned).to_vec()];
        rows.push(row("load".to_owned(), &self.load_ms, 0, "ms"));
        let mut add = |name: &str, answers: &Answers| {
            let prompt = format!("{name}, {} tokens", answers.n_prompt_tokens);
            rows.push(row(prompt.clone(), &answers.prefill_ms, 1, "ms"));
            rows.push(row(prompt, &answers.prefill_rate, 1, "tokens/s"));
            rows.push(row(format!("{name}: first token after"), &answers.first_token_ms, 1, "ms"));
            rows.push(row(format!("{name}: answer"), &answers.decode_rate, 1, "tokens/s"));
        };
        add("text", &self.text);
        if let Some(picture) = &self.picture {
            add("picture", &picture.answers);
            rows.push(row("picture: encode".to_owned(), &picture.encode_ms, 1, "ms"));
            rows.push(row("first question".to_owned(), &picture.first_question_ms, 1, "ms"));
            rows.push(row("second question".to_owned(), &picture.second_question_ms, 1, "ms"));
            rows.push(row("second question sooner".to_owned(), &picture.times_sooner, 1, "times"));
        }
        let percent =
            |share: &Spread| Spread { median: share.median * 100.0, min: share.min * 100.0, max: share.max * 100.0 };
        for Decode { samples, our_rate, bare_rate, overhead, pick_share } in &self.decode {
            rows.push(row(format!("{samples} at once: owlet"), our_rate, 1, "tokens/s"));
            rows.push(row(format!("{samples} at once: bare llama.cpp"), bare_rate, 1, "tokens/s"));
            rows.push(row(format!("{samples} at once: owlet takes longer by"), &percent(overhead), 1, "%"));
            rows.push(row(format!("{samples} at once: of owlet's, picking tokens"), &percent(pick_share), 1, "%"));
        }
        let mut text = table(&rows);
        if let Some(n_bytes) = self.peak_memory_bytes {
            text += &format!("peak memory {}\n", output::bytes(n_bytes));
        }
        text
    }
}

/// The embedded model in a folder of its own.
fn embedded() -> owlet::Result<TempDir> {
    let failed = |source| Error::new(ErrorKind::Io, "cannot write the embedded model").source(source);
    let folder = tempfile::tempdir().map_err(failed)?;
    fs::write(folder.path().join("model.gguf"), MODEL_GGUF).map_err(failed)?;
    fs::write(folder.path().join("mmproj.gguf"), MMPROJ_GGUF).map_err(failed)?;
    Ok(folder)
}

/// A picture in size only: the work does not depend on its pixels.
fn noise() -> owlet::Result<Image> {
    let mut state = 1u32;
    let pixels = (0..SIDE * SIDE * 3).map(|_| {
        // A linear congruential generator, of the constants of Numerical Recipes.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    Image::from_rgb(SIDE, SIDE, pixels.collect())
}

fn spread<T>(rounds: &[T], of: impl Fn(&T) -> f64) -> owlet::Result<Spread> {
    let values: Vec<f64> = rounds.iter().map(of).collect();
    Spread::of(&values).ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was measured"))
}
