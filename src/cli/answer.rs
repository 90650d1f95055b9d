//! Arguments about answers: how they end, what they have to look like, what the model may call.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use owlet::{AnswerOptions, Constraint, Error, ErrorKind, Generated, ToolCalls, Tools};

use super::{
    failure::{Failure, Result, Teach},
    model::SamplingArgs,
    output::Output,
};

/// Stands for standard input.
const STDIN: &str = "-";

/// How answers end and what they look like.
#[derive(Args, Debug)]
pub(crate) struct AnswerArgs {
    /// Most tokens of thinking: then it is closed and the answer comes, for which tokens are kept. 0 does without thinking
    #[arg(long, value_name = "N")]
    thinking_budget: Option<usize>,
    /// Whether the model thinks before it answers, where its chat template lets one choose [default: what the template does]
    #[arg(long, value_enum, value_name = "CHOICE")]
    thinking: Option<Choice>,
    /// A text that ends the answer where it begins; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// A JSON Schema: the answer will be JSON that is valid under it (the thinking is free). `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "grammar")]
    json_schema: Option<PathBuf>,
    /// A grammar in Lark's notation, such as `start: "yes" | "no"`: the answer will be a text of it. `-` is standard input
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// Tools that the model may call: a JSON list of `{"name", "description", "parameters"}`, the parameters a JSON Schema
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    On,
    Off,
}

impl AnswerArgs {
    /// What `--thinking` chooses.
    pub(crate) fn thinking(&self) -> Option<bool> {
        self.thinking.map(|choice| matches!(choice, Choice::On))
    }

    /// Refuses a second reader of standard input, any where it `has_questions`.
    pub(crate) fn check(&self, has_questions: bool) -> Result<()> {
        let files = [("--json-schema", &self.json_schema), ("--grammar", &self.grammar), ("--tools", &self.tools)];
        let readers = files.into_iter().filter(|(_, path)| path.as_deref() == Some(Path::new(STDIN)));
        let readers: Vec<_> = readers.map(|(flag, _)| format!("`{flag} -`")).collect();
        match readers.len() {
            0 => Ok(()),
            _ if has_questions => {
                Err(Failure::argument("standard input has the questions", readers[0].as_str(), "a file"))
            }
            1 => Ok(()),
            _ => Err(Failure::argument("standard input can be read once", readers.join(" and "), "a file for one")),
        }
    }

    /// # Errors
    /// For files that cannot be read or are no JSON.
    pub(crate) fn options(&self, sampling: &SamplingArgs, max_new_tokens: usize) -> Result<AnswerOptions> {
        let constraint = match (&self.json_schema, &self.grammar) {
            (Some(path), _) => {
                let schema = serde_json::from_str(&read_text(path)?).map_err(|error| {
                    let reason = error.to_string();
                    Error::new(ErrorKind::InvalidInput, "not a JSON schema")
                        .at(path.display())
                        .got(reason)
                        .source(error)
                })?;
                Some(Constraint::JsonSchema(schema))
            }
            (None, Some(path)) => Some(Constraint::Lark(read_text(path)?)),
            (None, None) => None,
        };
        Ok(AnswerOptions {
            sampler: sampling.options(),
            max_new_tokens,
            thinking_budget: self.thinking_budget,
            stop: self.stop.clone(),
            constraint,
            ..AnswerOptions::default()
        })
    }

    /// The tools of `--tools`.
    pub(crate) fn tools(&self) -> Result<Option<Tools>> {
        let Some(path) = &self.tools else { return Ok(None) };
        Ok(Some(Tools::from_json(&read_text(path)?).map_err(|error| error.at(path.display()))?))
    }
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path == Path::new(STDIN) {
        true => io::stdin().lock().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|source| Failure::from(Error::io("cannot read", path, source)))?;
    Ok(text)
}

/// Teaches what to do about a prompt with tools that is refused.
pub(crate) fn explain_tools<T>(encoded: owlet::Result<T>, has_tools: bool) -> Result<T> {
    match has_tools {
        true => {
            encoded.hint(ErrorKind::Unsupported, "a model that was not trained to call tools is better asked in words")
        }
        false => encoded.map_err(Failure::from),
    }
}

/// Tells what an answer's text does not show: calls, thinking that was closed, an answer that was cut off.
pub(crate) fn say_outcome(answer: &Generated, calls: &ToolCalls, output: Output) {
    for call in &calls.calls {
        output.say(format_args!("calls {} with {}", call.name, call.arguments));
    }
    for call in &calls.malformed {
        output.say(format_args!("warning: a call that cannot be read ({}): {}", call.problem, call.text));
    }
    if !answer.forced.is_empty() {
        output.say(format_args!("thinking was closed after {} tokens", answer.forced.start));
    }
    if answer.meets_constraint == Some(false) {
        output.say("warning: the answer is not complete: it was cut off before it met its schema or grammar");
    }
}
