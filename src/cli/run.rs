//! `owlet run`: asks a model, streams its answer to stdout and its thinking to stderr.

use std::{
    fmt,
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use owlet::{
    EncodedPrompt, GenerateRequest, IMAGE_MARK, Image, InferencePlan, Model, RngKey, Session, SessionOptions,
    Speculation, StopReason, ThinkEvent, Timings, ToolCalls, generate, peak_memory_bytes, reward::parse_box,
};
use serde::Serialize;

use super::{
    answer::{AnswerArgs, explain_tools, say_outcome},
    draw::draw_box,
    failure::{Failure, Result},
    interrupt, memory,
    model::{ModelArgs, SamplingArgs},
    output::{self, Output},
    plan::parse_bytes,
    question::QuestionArgs,
    speaker::Speaker,
    speculate::{self, SpeculationArgs},
    tokens::TokenRow,
    votes::{VoteReport, VotingArgs},
};

/// Ask a model about pictures or text; the answer goes to stdout, the thinking to stderr
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    question: QuestionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    voting: VotingArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
    /// Stop after this many tokens
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_tokens: usize,
    /// Most tokens of prompt and answer together [default: as many as they need and the model was trained for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Stop after this many seconds, loading included, with exit code 130
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    time_limit: Option<Duration>,
    /// Use no more anonymous memory than this, such as 1GiB: batch, precision, pictures and context are reduced to fit
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_budget: Option<usize>,
    /// Write the first picture with the answer's box drawn on it
    #[arg(long, value_name = "PNG")]
    draw: Option<PathBuf>,
    /// Print one JSON document with answer, thinking and timings, when all is done
    #[arg(long)]
    json: bool,
    /// With `--json`: tell the answer's tokens and their log-probabilities, for each this many of the most probable ones as well
    #[arg(long, requires = "json", value_name = "N")]
    top_logprobs: Option<usize>,
    /// The question
    prompt: String,
}

/// What the template may write around instructions, in tokens.
const MARKS: usize = 16;
/// What is left of a picture, in tokens, where memory is short.
const LEAST_IMAGE_TOKENS: usize = 256;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    answer: String,
    thinking: String,
    /// The answer's box, `[x1, y1, x2, y2]` in pixels of the first picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    box_pixels: Option<[f64; 4]>,
    /// What stderr was told, such as pictures too small for boxes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    stop: &'static str,
    /// With `--tools`: the calls in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<ToolCalls>,
    /// Places of the tokens that closed the thinking at its budget: the first, and the one behind the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    forced_tokens: Option<[usize; 2]>,
    /// With `--json-schema` or `--grammar`: whether the answer is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    meets_constraint: Option<bool>,
    /// With `--top-logprobs`: the tokens of thinking and answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<TokenRow>>,
    /// With `--samples`: how they voted.
    #[serde(skip_serializing_if = "Option::is_none")]
    vote: Option<VoteReport>,
    timings: TimingsReport,
}

/// Times in milliseconds, rates in tokens per second.
#[derive(Debug, Serialize)]
struct TimingsReport {
    load_ms: f64,
    /// Reading and decoding picture files.
    image_decode_ms: f64,
    image_encode_ms: f64,
    /// From the loaded model and decoded pictures to the first token.
    first_token_ms: f64,
    prefill_ms: f64,
    n_prompt_tokens: u64,
    prefill_tokens_per_s: f64,
    decode_ms: f64,
    n_decoded: u64,
    decode_tokens_per_s: f64,
    /// With `--speculate`: tokens that were guessed ahead, and those that were right and spared a call.
    n_guessed: u64,
    n_accepted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
}

pub(crate) fn run(args: &RunArgs, output: Output) -> Result<()> {
    args.voting.check(&args.sampling)?;
    args.answer.check(false)?;
    let cancel = interrupt::cancel_on_signal()?;
    let cancel = args.time_limit.map_or(cancel.clone(), |limit| cancel.or_after(limit));
    let mut options = args.answer.options(&args.sampling, args.max_tokens)?;
    options.top_logprobs = args.top_logprobs.unwrap_or(0);
    let tools = args.answer.tools()?;
    let start = Instant::now();
    let images = args.question.open_images(&cancel)?;
    let image_decode_ms = start.elapsed().as_secs_f64() * 1e3;
    let first_picture = images.first().cloned();
    if let Some(path) = &args.draw {
        if first_picture.is_none() {
            return Err(Failure::argument("nothing to draw on", "`--draw` without `--image`", "a picture"));
        }
        let adapters = args.question.adapters.iter().map(|adapter| &*adapter.path);
        output::ensure_distinct(
            path,
            args.question.images.iter().map(|image| &**image).chain(args.model.files()).chain(adapters),
        )?;
        output::ensure_writable(path)?;
    }
    let model = args.model.load(&cancel, output)?;
    let speculation = args.speculation.load(args.model.threads, &cancel)?;
    let longest = speculate::with_room(args.session(&model), speculation.as_ref());
    let fit = |budget| args.fit(&model, longest, speculation.as_ref(), &images, budget);
    let fitted = args.memory_budget.map(fit).transpose()?;
    let most = fitted.as_ref().map(|fitted| fitted.image_tokens);
    let plan = args.question.pictures.plan(&model, &images, most, args.draw.is_some(), output)?;
    let warnings = plan.iter().flat_map(|plan| &plan.warnings).map(ToString::to_string).collect();
    let mut question = args.question.prompt(&args.prompt, images)?;
    let has_tools = tools.is_some();
    question.tools = tools.unwrap_or_default();
    question.thinking = args.answer.thinking();
    let start = Instant::now();
    let encoded = model.encode_until(&question, plan.as_ref().map(|plan| plan.budget), &cancel);
    let prompt = explain_tools(encoded, has_tools)?;
    let room = fitted.as_ref().map_or(longest, |fitted| fitted.session);
    // For the prompt and the longest answer, or as much as there is room for.
    let n_ctx = prompt.n_tokens().saturating_add(args.max_tokens).min(room.n_ctx);
    let mut session = Session::new(&model, &SessionOptions { n_ctx, ..room })?;
    session.set_speculation(speculation.as_ref())?;
    session.set_adapters(&args.question.load_adapters(&model)?)?;

    let before_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut speaker = Speaker::new(output, args.json);
    let mut heard = Ok(());
    let n = args.voting.n_samples();
    let request =
        GenerateRequest { prompt: &prompt, n, rng_key: RngKey { seed: args.sampling.seed, ..RngKey::default() } };
    let answers = generate(&mut session, &[request], &options, &cancel, &mut |event| {
        // Nobody knows the winner before the vote.
        if n == 1 {
            heard = event.said.iter().try_for_each(|event| speaker.hear(event));
        }
        if heard.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let mut answers = answers?.remove(0);
    let vote = if n > 1 { Some(args.voting.decide(&model, &answers)?) } else { None };
    let answer = answers.swap_remove(vote.as_ref().map_or(0, |vote| vote.winner));
    if n > 1 {
        let said = [ThinkEvent::Thinking(answer.thinking.clone()), ThinkEvent::Answer(answer.text.clone())];
        heard = said.iter().try_for_each(|event| speaker.hear(event));
    }
    heard.and(speaker.finish())?;
    let calls = if has_tools { model.tool_calls(&answer.text) } else { ToolCalls::default() };
    say_outcome(&answer, &calls, output);

    let found = match (parse_box(&answer.text), &first_picture, &plan) {
        (Some(corners), Some(picture), Some(plan)) => Some(model.box_map(picture, plan.budget)?.to_pixels(corners)),
        _ => None,
    };
    if let (Some(path), Some(picture)) = (&args.draw, &first_picture) {
        match found {
            Some(corners) => draw_box(picture, corners, path)?,
            None => output.say("the answer holds no box to draw"),
        }
    }
    let timings = TimingsReport {
        image_decode_ms,
        first_token_ms: before_ms + session.timings().first_token_ms,
        ..TimingsReport::new(&model, &prompt, session.timings())
    };
    if args.json {
        let stop = stop_name(answer.stop);
        let tokens = args.top_logprobs.map(|_| TokenRow::of(&model, &answer));
        return output.json(&Report {
            answer: answer.text,
            thinking: answer.thinking,
            box_pixels: found,
            warnings,
            stop,
            tool_calls: has_tools.then_some(calls),
            forced_tokens: (!answer.forced.is_empty()).then_some([answer.forced.start, answer.forced.end]),
            meets_constraint: answer.meets_constraint,
            tokens,
            vote,
            timings,
        });
    }
    vote.iter().for_each(|vote| output.say(vote));
    output.say(timings);
    Ok(())
}

/// A number of seconds: `10`, `0.5`.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// As programs read it.
pub(super) fn stop_name(stop: StopReason) -> &'static str {
    match stop {
        StopReason::EndOfAnswer => "end_of_answer",
        StopReason::StopString(_) => "stop_string",
        StopReason::MaxTokens => "max_tokens",
        StopReason::ContextFull => "context_full",
        StopReason::DeadEnd => "dead_end",
        StopReason::Caller => "caller",
    }
}

impl TimingsReport {
    fn new(model: &Model, prompt: &EncodedPrompt, timings: &Timings) -> Self {
        Self {
            load_ms: model.load_ms(),
            image_decode_ms: 0.0,
            first_token_ms: timings.first_token_ms,
            image_encode_ms: prompt.image_encode_ms(),
            prefill_ms: timings.prefill_ms,
            n_prompt_tokens: timings.n_prompt_tokens,
            prefill_tokens_per_s: timings.prefill_rate(),
            decode_ms: timings.decode_ms,
            n_decoded: timings.n_decoded,
            decode_tokens_per_s: timings.decode_rate(),
            n_guessed: timings.n_guessed,
            n_accepted: timings.n_accepted,
            peak_memory_bytes: peak_memory_bytes(),
        }
    }
}

impl fmt::Display for TimingsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pictures_ms = self.image_decode_ms + self.image_encode_ms;
        write!(
            f,
            "load {:.0} ms, pictures {pictures_ms:.0} ms, first token {:.0} ms, ",
            self.load_ms, self.first_token_ms
        )?;
        write!(f, "prompt {} tokens at {:.0}/s, ", self.n_prompt_tokens, self.prefill_tokens_per_s)?;
        write!(f, "answer {} tokens at {:.0}/s", self.n_decoded, self.decode_tokens_per_s)?;
        f.write_str(&speculate::told(self.n_guessed, self.n_accepted))?;
        match self.peak_memory_bytes {
            Some(peak) => write!(f, ", peak memory {}", output::bytes(peak)),
            None => Ok(()),
        }
    }
}

impl RunArgs {
    /// The longest session that may be.
    fn session(&self, model: &Model) -> SessionOptions {
        let n_ctx = self.context.unwrap_or(model.info().n_ctx_train);
        let n_seq = self.voting.n_lanes();
        SessionOptions { n_ctx, n_seq, n_threads: self.model.threads, ..SessionOptions::default() }
    }

    /// The run within `budget` bytes, in at most the session `longest` beside what `speculation` takes, with `images`.
    fn fit(
        &self,
        model: &Model,
        longest: SessionOptions,
        speculation: Option<&Speculation>,
        images: &[Image],
        budget: usize,
    ) -> Result<InferencePlan> {
        let sizes: &[_] = &images.iter().map(|image| (image.width(), image.height())).collect::<Vec<_>>();
        let n_system = self
            .question
            .system
            .as_ref()
            .map_or(Ok(0), |text| model.tokenize(text, false).map(|tokens| tokens.len()))?;
        let n_prompt = model.count_tokens(&self.prompt, sizes)? + n_system + MARKS;
        let n_ctx = n_prompt.saturating_add(self.max_tokens).min(longest.n_ctx);
        let session = SessionOptions { n_ctx, ..longest };
        // Pictures can be reduced, words cannot; an answer of a few words is better than none.
        let n_words = model.count_tokens(&self.prompt.replace(IMAGE_MARK, ""), &[])? + n_system + MARKS;
        let least_ctx = n_words + LEAST_IMAGE_TOKENS * sizes.len() + self.max_tokens.min(64);
        let adapters = self.question.adapters.iter().map(|adapter| &*adapter.path);
        let guessing = speculation.map_or(Ok(0), |speculation| speculation.memory_bytes(&session))?;
        memory::fit_run(model, session, least_ctx, sizes, adapters, guessing, budget)
    }
}
