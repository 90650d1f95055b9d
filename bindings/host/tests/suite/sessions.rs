//! Conversations behind threads.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use owlet_host::{CLOSING_TIME, CancelToken, Listener, Session};
use owlet_runtime::{Error, ErrorKind, StopReason, ThinkEvent};
use tempfile::TempDir;

use crate::tiny::{conversation_options, model, question, session_options};

fn silent() -> Listener {
    Box::new(|_| Ok(ControlFlow::Continue(())))
}

fn open(max_new_tokens: usize) -> Session {
    let conversation = conversation_options(max_new_tokens);
    let opened = Session::open(model(), session_options(), None, conversation, Vec::new(), &CancelToken::new());
    opened.wait().expect("a session of the embedded model")
}

#[test]
fn an_answer_is_streamed_from_the_sessions_thread_and_kept() {
    let (session, no_cancel) = (open(24), CancelToken::new());
    let heard = Arc::new(Mutex::new(String::new()));
    let listener: Listener = {
        let (heard, caller) = (Arc::clone(&heard), thread::current().id());
        Box::new(move |event| {
            assert_ne!(thread::current().id(), caller);
            let (ThinkEvent::Thinking(text) | ThinkEvent::Answer(text)) = event;
            heard.lock().expect("no panic").push_str(&text);
            Ok(ControlFlow::Continue(()))
        })
    };
    let turn = session.ask(question("What is it?"), &no_cancel, listener).wait().expect("an answer");
    assert_eq!(*heard.lock().expect("no panic"), turn.answer.thinking + &turn.answer.text);
    assert_eq!(session.messages().len(), 2);
    assert!(session.n_tokens() >= turn.report.n_prompt_tokens);
}

#[test]
fn a_listener_ends_the_answer_or_fails_the_turn() {
    let (session, no_cancel) = (open(24), CancelToken::new());
    let stop: Listener = Box::new(|_| Ok(ControlFlow::Break(())));
    let turn = session.ask(question("What is it?"), &no_cancel, stop).wait().expect("an answer that was ended");
    assert_eq!((turn.answer.stop, session.messages().len()), (StopReason::Caller, 2));
    let fail: Listener = Box::new(|_| Err(Error::new(ErrorKind::Callback, "no ear")));
    let error = session.ask(question("And now?"), &no_cancel, fail).wait().expect_err("nobody hears it");
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Callback, "no ear".to_owned()));
    assert_eq!(session.messages().len(), 2, "the turn that failed is none");
    // A panic of the host is the end of the session, and of nothing else.
    let panic: Listener = Box::new(|_| panic!("an ear falls off"));
    for listener in [panic, silent()] {
        let error = session.ask(question("And now?"), &no_cancel, listener).wait().expect_err("it is broken");
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    open(4).ask(question("What is it?"), &no_cancel, silent()).wait().expect("another session");
}

#[test]
fn a_session_is_dropped_in_the_midst_of_an_answer() {
    let session = open(400);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let listener: Listener = Box::new(move |_| {
        // Nobody listens any more once the first piece came.
        let _ = begun.send(());
        Ok(ControlFlow::Continue(()))
    });
    let call = session.ask(question("Describe it at length."), &CancelToken::new(), listener);
    has_begun.recv_timeout(Duration::from_secs(60)).expect("the answer begins");
    let start = Instant::now();
    drop(session);
    assert!(start.elapsed() < CLOSING_TIME, "{:?}", start.elapsed());
    // Where the answer was short, it may have come to its end.
    if let Err(error) = call.wait() {
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}

#[test]
fn sessions_on_many_threads_answer_alike() {
    let answers: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let session = open(12);
                    let turn = session.ask(question("What is it?"), &CancelToken::new(), silent());
                    turn.wait().expect("an answer").answer.tokens
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[test]
fn forks_and_restored_sessions_go_on_alike() {
    let (session, no_cancel) = (open(12), CancelToken::new());
    session.ask(question("What is it?"), &no_cancel, silent()).wait().expect("an answer");
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("talk");
    session.save(path.clone(), &no_cancel).wait().expect("saved");
    let fork = session.fork(&no_cancel).wait().expect("the second of two");
    assert_eq!(session.fork(&no_cancel).wait().expect_err("the third of two").kind(), ErrorKind::Limit);
    let restored = Session::restore(model(), path, session_options(), None, Vec::new(), &no_cancel);
    let restored = restored.wait().expect("restored");
    assert_eq!((restored.messages(), restored.n_tokens()), (session.messages(), session.n_tokens()));
    let ask = |session: &Session| session.ask(question("And now?"), &no_cancel, silent());
    // At the same time: forks take turns at what they share.
    let calls = [ask(&session), ask(&fork), ask(&restored)];
    let answers = calls.map(|call| call.wait().expect("an answer").answer.tokens);
    assert!(answers[0] == answers[1] && answers[1] == answers[2], "{answers:?}");
}
