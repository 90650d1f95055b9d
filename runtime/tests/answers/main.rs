//! What options do to answers, in groups and in conversations alike.

mod budget;
#[path = "../common/mod.rs"]
mod common;
mod grammar;
mod logprobs;
mod stops;
mod thinking;
mod tools;
mod valid;

use std::ops::ControlFlow;

use common::tiny;

use owlet_runtime::{
    AnswerOptions, CancelToken, GenerateRequest, Generated, Message, Model, ModelOptions, Result, RngKey,
    SamplerOptions, Session, SessionOptions, ThinkEvent,
    conversation::{Conversation, ConversationOptions, Turn},
    generate,
};
use tempfile::TempDir;

/// The tiny model, with the chat `template` if one is given.
fn load(template: Option<&str>) -> (Model, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut draft = tiny::model();
    if let Some(template) = template {
        draft.set("tokenizer.chat_template", template);
    }
    let path = draft.write(&folder.path().join("model.gguf"));
    (Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads"), folder)
}

/// Endless answers of printable ASCII and line breaks, at a temperature at which the random model says anything.
fn options() -> AnswerOptions {
    let banned = (0..10).chain(11..32).chain(127..tiny::N_VOCAB as i32).collect();
    let sampler = SamplerOptions { temperature: 2.0, banned, ..SamplerOptions::default() };
    AnswerOptions { sampler, max_new_tokens: 60, ..AnswerOptions::default() }
}

/// `n` answers to one question, and per answer what was streamed of it.
fn answers(model: &Model, n: usize, options: &AnswerOptions) -> Result<Vec<(Generated, Vec<ThinkEvent>)>> {
    let mut session = tiny::session(model, 4, 400);
    let prompt = model.encode(&owlet_runtime::Prompt::user("Hello?", Vec::new())?)?;
    let request = GenerateRequest { prompt: &prompt, n, rng_key: RngKey { seed: 5, ..RngKey::default() } };
    let mut said = vec![Vec::new(); n];
    let answers = generate(&mut session, &[request], options, &CancelToken::new(), &mut |event| {
        said[event.sample].extend_from_slice(event.said);
        ControlFlow::Continue(())
    })?;
    Ok(answers.into_iter().flatten().zip(said).collect())
}

/// A conversation whose first answer has the random numbers of the first of [`answers`].
fn conversation(model: &Model, answer: AnswerOptions) -> Conversation {
    let options = SessionOptions { n_ctx: 400, n_threads: 1, ..SessionOptions::default() };
    let session = Session::new(model, &options).expect("makes a session");
    Conversation::new(session, ConversationOptions { answer, seed: 5, ..ConversationOptions::default() })
}

fn ask(conversation: &mut Conversation, text: &str, said: &mut Vec<ThinkEvent>) -> Result<Turn> {
    conversation.ask(Message::user(text, Vec::new())?, &CancelToken::new(), &mut |event| {
        said.push(event);
        ControlFlow::Continue(())
    })
}

/// Thinking and answer as they were streamed.
fn streamed(said: &[ThinkEvent]) -> (String, String) {
    let (mut thinking, mut answer) = (String::new(), String::new());
    for event in said {
        match event {
            ThinkEvent::Thinking(text) => thinking += text,
            ThinkEvent::Answer(text) => answer += text,
        }
    }
    (thinking, answer)
}
