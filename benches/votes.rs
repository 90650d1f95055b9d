//! What votes gain: eight sampled answers made into one, against one, on held-out questions of the embedded model.
//!
//! `cargo bench --profile dev --bench votes -- [--questions 100] [--samples 8] [--temperature 1] [--seed 1] [--threads 1]
//! [--model GGUF --mmproj GGUF]` prints a table in Markdown: mean accuracies in percent by task and kind of vote, and the gain of
//! the task's own vote over one sample and over the greedy answer, by pairs, with 95 % intervals. *Best possible* is the
//! best of the samples by the truth, which no vote knows.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{fs, ops::ControlFlow};

use owlet::{
    AnswerOptions, CancelToken, Dataset, EncodedPrompt, GenerateRequest, Model, ModelOptions, Prompt, RngKey, Sample,
    SamplerOptions, Session, SessionOptions, generate, reward,
    vote::{Candidate, Poll, VoteRule},
};
use owlet_adapters::statistics::paired_difference;
use owlet_models::{DatasetOptions, MMPROJ_GGUF, MODEL_GGUF, PROMPT_SUFFIX, Split, TaskKind, write_dataset};

/// Longest answer; the longest careful reply has 47 tokens in the mean.
const MAX_TOKENS: usize = 96;
/// Confidence of the intervals.
const CONFIDENCE: f64 = 0.95;

/// Accuracies of one question.
struct Row {
    greedy: f64,
    /// Mean over the samples: what one of them is worth.
    one: f64,
    majority: f64,
    minimum_risk: f64,
    most_probable: f64,
    /// By the rule that suits the task.
    suited: f64,
    best_possible: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let text = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let number = |name: &str, default: usize| text(name).map_or(default, |value| value.parse().unwrap());
    let (n_questions, n_samples) = (number("--questions", 100), number("--samples", 8));
    let (seed, n_threads) = (number("--seed", 1) as u64, number("--threads", 1));
    let temperature = text("--temperature").map_or(1.0, |value| value.parse().unwrap());

    let folder = tempfile::tempdir().unwrap();
    let embedded = ["model.gguf", "mmproj.gguf"].map(|name| folder.path().join(name));
    for (path, bytes) in embedded.iter().zip([MODEL_GGUF, MMPROJ_GGUF]) {
        fs::write(path, bytes).unwrap();
    }
    let [model, mmproj] = embedded;
    let (model, mmproj) = (text("--model").map_or(model, Into::into), text("--mmproj").map_or(mmproj, Into::into));
    let model =
        Model::load(model, &ModelOptions { mmproj: Some(mmproj), n_threads, ..ModelOptions::default() }).unwrap();
    let options = SessionOptions { n_ctx: 512, n_seq: n_samples, n_threads, ..SessionOptions::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let sampler = SamplerOptions { temperature, ..SamplerOptions::default() };
    let sampled = AnswerOptions { sampler, max_new_tokens: MAX_TOKENS, ..AnswerOptions::default() };

    println!(
        "| task | greedy | one sample | majority | minimum risk | most probable | suited | best possible | \
        suited over one | over greedy |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for (index, task) in TaskKind::ALL.into_iter().enumerate() {
        let options = DatasetOptions {
            count: n_questions as u64,
            seed,
            split: Split::HeldOut,
            tasks: vec![task],
            ..DatasetOptions::default()
        };
        let path = write_dataset(&folder.path().join(index.to_string()), &options).unwrap();
        let dataset = Dataset::open(&path).unwrap();
        let rows: Vec<_> = dataset
            .samples()
            .iter()
            .enumerate()
            .map(|(question, sample)| {
                let rng_key = RngKey { seed, prompt: question as u64, ..RngKey::default() };
                let prompt = prompt(&model, sample);
                let samples = answers(&mut session, &prompt, n_samples, rng_key, &sampled);
                let greedy = answers(&mut session, &prompt, 1, rng_key, &AnswerOptions::greedy(MAX_TOKENS));
                row(sample, &samples, &greedy[0])
            })
            .collect();
        print(dataset.samples()[0].task_type.name(), &rows);
        all.extend(rows);
    }
    print("all", &all);
}

fn prompt(model: &Model, sample: &Sample) -> EncodedPrompt {
    let images = sample.images.iter().map(|picture| picture.open().unwrap()).collect();
    model.encode(&Prompt::user(&sample.prompt_text(PROMPT_SUFFIX), images).unwrap()).unwrap()
}

fn answers(
    session: &mut Session,
    prompt: &EncodedPrompt,
    n: usize,
    rng_key: RngKey,
    options: &AnswerOptions,
) -> Vec<Candidate> {
    let request = GenerateRequest { prompt, n, rng_key };
    let go_on = &mut |_: owlet::TokenEvent| ControlFlow::Continue(());
    let answers = generate(session, &[request], options, &CancelToken::new(), go_on).unwrap().remove(0);
    let model = session.model();
    answers.iter().map(|answer| Candidate::new(model.detokenize(&answer.tokens), answer)).collect()
}

fn row(sample: &Sample, samples: &[Candidate], greedy: &Candidate) -> Row {
    let accuracy = |candidate: &Candidate| {
        reward::accuracy(sample.problem_type, &candidate.answer, &sample.answer, &sample.options)
    };
    let accuracies: Vec<_> = samples.iter().map(accuracy).collect();
    let poll = Poll::new(sample.problem_type, &sample.options, samples).unwrap();
    let by = |rule| accuracies[poll.by(rule).winner];
    Row {
        greedy: accuracy(greedy),
        one: accuracies.iter().sum::<f64>() / accuracies.len() as f64,
        majority: by(VoteRule::Majority),
        minimum_risk: by(VoteRule::MinimumRisk),
        most_probable: by(VoteRule::Best),
        suited: by(VoteRule::suited_to(sample.problem_type)),
        best_possible: accuracies.iter().copied().fold(0.0, f64::max),
    }
}

fn print(name: &str, rows: &[Row]) {
    let column = |value: fn(&Row) -> f64| rows.iter().map(value).collect::<Vec<_>>();
    let columns: [fn(&Row) -> f64; 7] = [
        |row| row.greedy,
        |row| row.one,
        |row| row.majority,
        |row| row.minimum_risk,
        |row| row.most_probable,
        |row| row.suited,
        |row| row.best_possible,
    ];
    let mean =
        |value: &fn(&Row) -> f64| format!("{:.1}", 100.0 * column(*value).iter().sum::<f64>() / rows.len() as f64);
    let means: Vec<_> = columns.iter().map(mean).collect();
    let gain = |before: fn(&Row) -> f64| {
        let gain = paired_difference(&column(before), &column(|row| row.suited), CONFIDENCE);
        format!("{:+.1} ({:+.1} to {:+.1})", 100.0 * gain.mean, 100.0 * gain.low, 100.0 * gain.high)
    };
    println!("| {name} | {} | {} | {} |", means.join(" | "), gain(|row| row.one), gain(|row| row.greedy));
}
