//! Prompts and answers.

use std::{ops::ControlFlow, thread};

use owlet_runtime::{
    AnswerOptions, CancelToken, ErrorKind, GenerateRequest, Generated, Message, Model, ModelOptions, RngKey,
    SamplerOptions, Session, SessionOptions,
    conversation::{Conversation, ConversationOptions},
    generate,
};
use tempfile::TempDir;

use super::{A_MOMENT, common::tiny, stops_soon};

/// Tokens of a prompt that takes a moment.
const N_PROMPT: usize = 8000;

/// The tiny model with a long context.
fn long() -> (Model, TempDir) {
    let folder = tempfile::tempdir().expect("creates");
    let mut draft = tiny::model();
    draft.set("qwen3vl.context_length", 1u32 << 15);
    let path = draft.write(&folder.path().join("long.gguf"));
    (Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads"), folder)
}

fn session(model: &Model) -> Session {
    let options = SessionOptions { n_ctx: N_PROMPT + 512, n_threads: 1, ..SessionOptions::default() };
    Session::new(model, &options).expect("makes a session")
}

fn answers(
    session: &mut Session,
    text: &str,
    max_new_tokens: usize,
    cancel: &CancelToken,
) -> owlet_runtime::Result<Generated> {
    let prompt = tiny::prompt(session.model(), text);
    let banned = session.model().tokenize("<|im_end|><|endoftext|>", true).expect("tokenizes");
    let sampler = SamplerOptions { banned, ..SamplerOptions::default() };
    let options = AnswerOptions { sampler, max_new_tokens, ..AnswerOptions::default() };
    let request = GenerateRequest { prompt: &prompt, n: 1, rng_key: RngKey::default() };
    let answers = generate(session, &[request], &options, cancel, &mut |_| ControlFlow::Continue(()))?;
    Ok(answers.into_iter().flatten().next().expect("one answer"))
}

#[test]
fn long_prompts_and_long_answers_stop_and_leave_the_session_as_good_as_new() {
    let (model, _folder) = long();
    let mut session = session(&model);
    let text = "owl ".repeat(N_PROMPT / 4);
    let fresh = stops_soon("prompt", |cancel| answers(&mut session, &text, 4, cancel));
    assert_eq!(answers(&mut session, &text, 4, &CancelToken::new()).expect("answers"), fresh);
    let fresh = stops_soon("answer", |cancel| answers(&mut session, "owl", 2000, cancel));
    assert_eq!(answers(&mut session, "owl", 2000, &CancelToken::new()).expect("answers"), fresh);
}

#[test]
fn who_waits_for_a_shared_session_can_be_stopped() {
    let (model, _folder) = tiny::load();
    let options = SessionOptions { n_seq: 2, n_threads: 1, ..SessionOptions::default() };
    let session = Session::new(&model, &options).expect("makes a session");
    let mut first = Conversation::new(session, ConversationOptions::default());
    let mut second = first.fork().expect("a free sequence");
    let question = || Message::user("Who?", Vec::new()).expect("no marks");
    let stop = CancelToken::new();
    thread::scope(|scope| {
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (first, stop, question) = (&mut first, &stop, &question);
        let first = scope.spawn(move || {
            // Answers until it is told to end.
            first.ask(question(), &CancelToken::new(), &mut |_| {
                let _ = begun.send(());
                while !stop.is_cancelled() {
                    thread::sleep(A_MOMENT);
                }
                ControlFlow::Break(())
            })
        });
        has_begun.recv().expect("begins");
        let waiting = second.ask(question(), &CancelToken::after(A_MOMENT), &mut |_| ControlFlow::Continue(()));
        assert_eq!(waiting.expect_err("cancelled").kind(), ErrorKind::Cancelled);
        stop.cancel();
        assert!(first.join().expect("no panic").is_ok());
    });
    let answer = second.ask(question(), &CancelToken::new(), &mut |_| ControlFlow::Break(()));
    assert!(answer.is_ok(), "{answer:?}");
}
