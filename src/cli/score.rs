//! `owlet score`: how probable given answers are; the ranked table goes to stdout.

use clap::Args;
use owlet::{Model, ScoreOptions, Scored, Session, SessionOptions, Timings, TokenId, score_many};
use serde::Serialize;

use super::{
    failure::Result,
    interrupt,
    model::ModelArgs,
    output::{self, Output},
    question::QuestionArgs,
    tokens::TokenRow,
};

/// Tokens of a completion that are computed at once.
const N_LOGITS: usize = 32;

/// Tell how probable given answers to a question are, the most probable first
#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    question: QuestionArgs,
    /// Divides the logits
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    temperature: f32,
    /// Count the token that ends an answer too: "yes" is then an answer and not the beginning of one
    #[arg(long)]
    end: bool,
    /// Rank by the mean over tokens, which does not prefer short answers
    #[arg(long)]
    by_mean: bool,
    /// Print one JSON document with the log-probability of every token
    #[arg(long)]
    json: bool,
    /// The question
    prompt: String,
    /// The answers
    #[arg(required = true, value_name = "ANSWER")]
    answers: Vec<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The most probable first.
    answers: Vec<Row<'a>>,
    n_prompt_tokens: usize,
    image_encode_ms: f64,
    timings: Timings,
}

/// An answer.
#[derive(Debug, Serialize)]
struct Row<'a> {
    answer: &'a str,
    logprob: f64,
    mean_logprob: f64,
    /// Of the probability that the given answers have together.
    share: f64,
    tokens: Vec<TokenRow>,
}

pub(crate) fn run(args: &ScoreArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    let images = args.question.open_images(&cancel)?;
    let model = args.model.load(&cancel, output)?;
    let plan = args.question.pictures.plan(&model, &images, None, false, output)?;
    let question = args.question.prompt(&args.prompt, images)?;
    let prompt = model.encode_until(&question, plan.map(|plan| plan.budget), &cancel)?;
    let tokenized = args.answers.iter().map(|answer| model.completion(answer, args.end));
    let tokenized = tokenized.collect::<owlet::Result<Vec<_>>>()?;
    let completions: Vec<&[TokenId]> = tokenized.iter().map(|tokens| &**tokens).collect();

    let longest = completions.iter().map(|completion| completion.len()).max().unwrap_or(0);
    let n_ctx = (prompt.n_tokens() + longest).min(model.info().n_ctx_train);
    let options =
        SessionOptions { n_ctx, n_logits: N_LOGITS, n_threads: args.model.threads, ..SessionOptions::default() };
    let mut session = Session::new(&model, &options)?;
    session.set_adapters(&args.question.load_adapters(&model)?)?;
    let options = ScoreOptions { temperature: args.temperature, ..ScoreOptions::default() };
    let scores = score_many(&mut session, &prompt, &completions, &options, &cancel)?;

    let shares = shares(&scores);
    let rows = args.answers.iter().zip(&completions).zip(scores.iter().zip(shares));
    let mut rows: Vec<_> =
        rows.map(|((answer, tokens), (scored, share))| Row::new(&model, answer, tokens, scored, share)).collect();
    let rank = |row: &Row| if args.by_mean { row.mean_logprob } else { row.logprob };
    rows.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    if args.json {
        return output.json(&Report {
            answers: rows,
            n_prompt_tokens: prompt.n_tokens(),
            image_encode_ms: prompt.image_encode_ms(),
            timings: *session.timings(),
        });
    }
    output.data(table(&rows))
}

/// Of the probability that all have together, that of each.
fn shares(scores: &[Scored]) -> Vec<f64> {
    let largest = scores.iter().map(Scored::sum).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<_> = scores.iter().map(|scored| (scored.sum() - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

fn table(rows: &[Row]) -> String {
    let heading = ["answer", "logprob", "per token", "tokens", "share"].map(str::to_owned).to_vec();
    let cells = |row: &Row| {
        // A row is a line.
        let answer = row.answer.replace('\n', "\\n");
        let numbers = [row.logprob, row.mean_logprob].map(|number| format!("{number:.3}"));
        let [logprob, mean] = numbers;
        vec![answer, logprob, mean, row.tokens.len().to_string(), format!("{:.1} %", 100.0 * row.share)]
    };
    output::table(&std::iter::once(heading).chain(rows.iter().map(cells)).collect::<Vec<_>>())
}

impl<'a> Row<'a> {
    fn new(model: &Model, answer: &'a str, tokens: &[TokenId], scored: &Scored, share: f64) -> Self {
        let rows = tokens.iter().zip(&scored.logprobs).map(|(&id, &logprob)| TokenRow::new(model, id, logprob));
        let tokens = rows.collect();
        Self { answer, logprob: scored.sum(), mean_logprob: scored.mean(), share, tokens }
    }
}
