//! Turns, one after the other, and turns that fail.

use std::{
    ops::ControlFlow,
    panic::{self, AssertUnwindSafe},
    thread,
    time::Duration,
};

use owlet_runtime::{
    CancelToken, ErrorKind, Message, Model, ModelOptions, Role, Session, SessionOptions, ThinkEvent,
    conversation::{ChatPart, Conversation, ConversationOptions, OverflowPolicy, Turn},
};

use super::{
    answered, ask, assert_same_answer, common::tiny, conversation, from_scratch, options, said, session,
    session_options, user,
};

#[test]
fn later_turns_compute_only_what_is_new_and_answer_as_if_all_were() {
    let (model, _folder) = tiny::load();
    let mut conversation = conversation(&model);
    let questions = [
        user("Look at these.", &[1, 2]),
        user("What is on the first?", &[]),
        user("And on this one?", &[3]),
        user("And again?", &[1]),
    ];
    let (mut history, mut n_held, mut n_pictures) = (Vec::new(), 0, 0);
    for (index, question) in questions.into_iter().enumerate() {
        history.push(question.clone());
        let turn = ask(&mut conversation, question);
        assert_same_answer(&turn, &from_scratch(&model, &history, index as u64, &[]));
        assert_eq!(turn.report.n_prompt_tokens - turn.report.n_computed_tokens, n_held, "turn {index}");
        // The last token of an answer is not computed.
        n_held = turn.report.n_prompt_tokens + turn.answer.tokens.len() - 1;
        assert_eq!(conversation.n_tokens(), n_held);
        history.push(answered(&turn));
        n_pictures += [2, 0, 1, 0][index];
        assert_eq!(conversation.image_cache().stats().n_encoded, n_pictures);
    }
    assert_eq!(conversation.image_cache().stats().n_found, 1);
    let roles: Vec<_> = conversation.messages().iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant].repeat(4));
    // New instructions change the beginning.
    conversation.set_options(ConversationOptions { system: Some("You are a cat.".to_owned()), ..options() });
    let turn = ask(&mut conversation, user("Still there?", &[]));
    assert!(turn.report.n_prompt_tokens - turn.report.n_computed_tokens < 40, "{:?}", turn.report);
}

#[test]
fn events_are_the_answer_and_the_caller_may_end_it() {
    let (model, _folder) = tiny::load();
    let mut conversation = conversation(&model);
    let (mut text, mut n_events) = (String::new(), 0);
    let turn = conversation.ask(user("Hello?", &[]), &CancelToken::new(), &mut |event| {
        let (ThinkEvent::Thinking(piece) | ThinkEvent::Answer(piece)) = event;
        text += &piece;
        n_events += 1;
        if n_events == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let turn = turn.expect("answers");
    assert_eq!((turn.answer.stop, n_events, turn.answer.tokens.len()), (owlet_runtime::StopReason::Caller, 3, 3));
    assert_eq!(text, turn.answer.text);
    let history = [user("Hello?", &[]), answered(&turn), user("What?", &[])];
    assert_same_answer(&ask(&mut conversation, user("What?", &[])), &from_scratch(&model, &history, 1, &[]));
}

/// A template as Qwen3's: it opens answers with thinking and leaves out that of earlier turns.
const THINKING: &str = "{%- for m in messages -%}\
    {%- set text = m.content -%}\
    {%- if m.role == 'assistant' and '</think>' in text -%}{%- set text = text.split('</think>')[-1] -%}{%- endif -%}\
    {{- '<|im_start|>' ~ m.role ~ '\n' ~ text ~ '<|im_end|>\n' -}}\
    {%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}";

#[test]
fn the_template_decides_what_becomes_of_earlier_thinking() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = tiny::model().set("tokenizer.chat_template", THINKING).write(&folder.path().join("model.gguf"));
    let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    let mut with_thinking = Conversation::new(session(&model), options());
    let mut without = Conversation::new(session(&model), options());
    for (conversation, text) in [(&mut with_thinking, "<think>\nHm, hm.</think>Yes."), (&mut without, "Yes.")] {
        conversation.push(user("Do you think?", &[])).expect("no pictures");
        conversation.push(Message::text(Role::Assistant, text)).expect("no pictures");
        assert_eq!(
            conversation.push(Message::text(Role::System, "x")).expect_err("refused").kind(),
            ErrorKind::InvalidInput
        );
    }
    let turns = [&mut with_thinking, &mut without].map(|conversation| ask(conversation, user("And now?", &[])));
    assert_eq!(said(&turns[0]), said(&turns[1]));
    assert_eq!((turns[0].report.n_prompt_tokens, turns[0].answer.text.as_str()), (turns[1].report.n_prompt_tokens, ""));
    assert!(!turns[0].answer.thinking.is_empty());
    let last = with_thinking.messages().last().expect("an answer");
    let ChatPart::Text(text) = &last.parts[0] else { panic!("a text") };
    assert_eq!(*text, format!("<think>\n{}", model.detokenize(&turns[0].answer.tokens)));
}

#[test]
fn cancelled_turns_leave_the_conversation_as_it_was() {
    let (model, _folder) = tiny::load();
    let (mut calm, mut disturbed) = (conversation(&model), conversation(&model));
    let first = user("What is this?", &[1]);
    assert_eq!(said(&ask(&mut calm, first.clone())), said(&ask(&mut disturbed, first)));
    let kind = |result: owlet_runtime::Result<Turn>| result.expect_err("cancelled").kind();

    // Before it begins, somewhere in a long prompt or its answer, and between two tokens.
    let cancelled = CancelToken::new();
    cancelled.cancel();
    let long = user(&"Why? ".repeat(100), &[2]);
    let ignore = &mut |_| ControlFlow::Continue(());
    assert_eq!(kind(disturbed.ask(long.clone(), &cancelled, ignore)), ErrorKind::Cancelled);
    for delay_ms in [1, 10] {
        let cancel = CancelToken::new();
        let canceller = thread::spawn({
            let cancel = cancel.clone();
            move || {
                thread::sleep(Duration::from_millis(delay_ms));
                cancel.cancel();
            }
        });
        let mut endless = options();
        endless
            .answer
            .sampler
            .banned
            .extend((256..256 + tiny::SPECIAL.len() as i32).filter(|&token| model.is_eog(token)));
        endless.answer.max_new_tokens = 200;
        disturbed.set_options(endless);
        // The answer takes longer than any delay.
        let slowly = &mut |_| {
            thread::sleep(Duration::from_millis(1));
            ControlFlow::Continue(())
        };
        let result = disturbed.ask(user(&"Why? ".repeat(60), &[2]), &cancel, slowly);
        canceller.join().expect("no panic");
        match result {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            Ok(turn) => panic!("was faster: {} tokens", turn.answer.tokens.len()),
        }
    }
    disturbed.set_options(options());
    let cancel = CancelToken::new();
    let mut n_events = 0;
    let result = disturbed.ask(user("And this?", &[2]), &cancel, &mut |_| {
        n_events += 1;
        if n_events == 2 {
            cancel.cancel();
        }
        ControlFlow::Continue(())
    });
    assert_eq!((kind(result), n_events), (ErrorKind::Cancelled, 2));

    // As logs show them: the pictures took different times.
    let state = |conversation: &Conversation| format!("{:?} {}", conversation.messages(), conversation.n_tokens());
    assert_eq!(state(&disturbed), state(&calm));
    let [calm, disturbed] = [calm, disturbed].map(|mut conversation| ask(&mut conversation, user("And this?", &[2])));
    assert_eq!(said(&calm), said(&disturbed));
    assert_eq!(calm.report.n_computed_tokens, disturbed.report.n_computed_tokens);
}

#[test]
fn a_full_context_is_refused_or_forgets_the_oldest_turns() {
    let (model, _folder) = tiny::load();
    let short = SessionOptions { n_ctx: 200, ..session_options() };
    let new = |overflow| {
        let session = Session::new(&model, &short).expect("makes a session");
        Conversation::new(session, ConversationOptions { overflow, ..options() })
    };
    let ignore = &mut |_| ControlFlow::Continue(());
    let mut strict = new(OverflowPolicy::Refuse);
    let n_turns = 1
        + (1..)
            .find(|_| strict.ask(user("How many owls?", &[1]), &CancelToken::new(), ignore).is_err())
            .expect("finds");
    let before = (strict.messages().to_vec(), strict.n_tokens());
    let error = strict.ask(user("How many owls?", &[1]), &CancelToken::new(), ignore).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::ContextOverflow);
    assert!(error.to_string().contains("and 12 for the answer, needed at most 200"), "{error}");
    assert_eq!((strict.messages(), strict.n_tokens()), (&before.0[..], before.1));

    let mut forgetful = new(OverflowPolicy::DropOldestTurns);
    let mut history = Vec::new();
    let mut n_dropped = 0;
    for index in 0..n_turns + 3 {
        history.push(user("How many owls?", &[index as u64]));
        let turn = ask(&mut forgetful, user("How many owls?", &[index as u64]));
        history.drain(..turn.report.n_dropped_messages);
        n_dropped += turn.report.n_dropped_messages;
        assert_same_answer(&turn, &from_scratch(&model, &history, index as u64, &[]));
        history.push(answered(&turn));
        assert_eq!(forgetful.messages().len(), history.len());
    }
    assert!(n_dropped >= 4 && n_dropped.is_multiple_of(2), "{n_dropped}");
    // What does not fit alone is refused, and nothing is forgotten for it.
    let error = forgetful.ask(user(&"x".repeat(200), &[]), &CancelToken::new(), ignore).expect_err("too long");
    assert_eq!((error.kind(), forgetful.messages().len()), (ErrorKind::ContextOverflow, history.len()));
}

#[test]
fn what_a_tool_found_is_not_asked_without_the_turn_that_called_it() {
    let (model, _folder) = tiny::load();
    let session = || {
        let options = SessionOptions { n_ctx: 200, ..session_options() };
        Session::new(&model, &options).expect("makes a session")
    };
    let options = ConversationOptions { overflow: OverflowPolicy::DropOldestTurns, ..options() };
    let mut chat = Conversation::new(session(), options);
    let found = |n: usize| Message::text(Role::Tool, "x".repeat(n));
    let ignore = &mut |_| ControlFlow::Continue(());
    ask(&mut chat, user("Hello?", &[]));
    ask(&mut chat, user("How many owls?", &[]));
    // The first turn can be forgotten, the second one has the call.
    let before = (chat.messages().to_vec(), chat.n_tokens());
    let error = chat.ask(found(120), &CancelToken::new(), ignore).expect_err("does not fit with its turn");
    assert_eq!(error.kind(), ErrorKind::ContextOverflow);
    assert_eq!((chat.messages(), chat.n_tokens()), (&before.0[..], before.1));
    let turn = ask(&mut chat, found(60));
    assert_eq!(turn.report.n_dropped_messages, 2);
    let roles: Vec<_> = chat.messages().iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
    // A person's question needs none of them.
    assert_eq!(ask(&mut chat, user(&"x".repeat(80), &[])).report.n_dropped_messages, 4);
}

#[test]
fn a_panic_of_the_caller_leaves_the_conversation_as_it_was() {
    let (model, folder) = tiny::load();
    let (mut calm, mut disturbed) = (conversation(&model), conversation(&model));
    let [first, second] = [user("What is this?", &[1]), user("And this?", &[])];
    assert_eq!(said(&ask(&mut calm, first.clone())), said(&ask(&mut disturbed, first)));
    let n_messages = disturbed.messages().len();
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        // Another beginning, so that what is held is cut back.
        disturbed.set_options(ConversationOptions { system: Some("You are a cat.".to_owned()), ..options() });
        let _ = disturbed.ask(second.clone(), &CancelToken::new(), &mut |_| panic!("of the caller"));
    }));
    assert!(panicked.is_err() && disturbed.messages().len() == n_messages);
    disturbed.set_options(options());
    disturbed.save(folder.path().join("saved.owlet")).expect("what is held is what it says");
    assert_same_answer(&ask(&mut disturbed, second.clone()), &ask(&mut calm, second).answer);
}
