//! Stop strings.

use owlet_runtime::{
    AnswerOptions, ErrorKind, Model, ModelOptions, StopReason,
    conversation::{ChatPart, Conversation, ConversationOptions},
};

use super::{answers, ask, common::tiny, conversation, options, streamed};

fn last_message(conversation: &Conversation) -> &str {
    match conversation.messages().last().map(|message| message.parts.as_slice()) {
        Some([ChatPart::Text(text)]) => text,
        other => panic!("not a text: {other:?}"),
    }
}

#[test]
fn answers_end_where_the_first_stop_string_begins() {
    let (model, _folder) = tiny::load();
    let (free, _) = answers(&model, 1, &options()).expect("runs").remove(0);
    assert!(free.text.len() > 40, "{}", free.text);
    // A token is a byte, so all but the first span tokens.
    for (range, decoys) in
        [(20..21, vec![]), (20..25, vec!["\u{e9}"]), (37..40, vec!["~~~~", "nowhere"]), (0..3, vec![])]
    {
        let found = &free.text[range.clone()];
        let kept = &free.text[..free.text.find(found).expect("is part of it")];
        let mut stop: Vec<_> = decoys.iter().map(|&decoy| decoy.to_owned()).collect();
        stop.push(found.to_owned());
        let index = stop.len() - 1;
        let stopped = AnswerOptions { stop, ..options() };

        let (answer, said) = answers(&model, 1, &stopped).expect("runs").remove(0);
        assert_eq!((answer.text.as_str(), answer.stop), (kept, StopReason::StopString(index)), "{found:?}");
        assert_eq!(streamed(&said).1, kept);
        assert_eq!(answer.tokens.len(), kept.len() + found.len());
        assert_eq!(answer.tokens, free.tokens[..answer.tokens.len()], "nothing else changes");

        let mut chat = conversation(&model, stopped);
        let mut said = Vec::new();
        let turn = ask(&mut chat, "Hello?", &mut said).expect("answers");
        assert_eq!((&turn.answer.text, turn.answer.stop), (&answer.text, answer.stop));
        assert_eq!((streamed(&said).1.as_str(), last_message(&chat)), (kept, kept));
    }
}

#[test]
fn a_stop_string_in_what_looked_like_a_tag_is_left_out_of_history() {
    let (model, _folder) = tiny::load();
    let mut free = options();
    free.sampler.logit_bias = vec![(i32::from(b'<'), 3.0), (i32::from(b'/'), 3.0)];
    // `</` is held back as the beginning of a tag until the next token.
    let is_held_back = |text: &str| {
        let rest = text.split_once('<').and_then(|(_, rest)| rest.strip_prefix('/'));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['t', 'a', '<']))
    };
    let answer = |options: &AnswerOptions, seed| {
        let mut chat = conversation(&model, options.clone());
        chat.set_options(ConversationOptions { seed, ..chat.options().clone() });
        let turn = ask(&mut chat, "Hello?", &mut Vec::new()).expect("answers");
        (turn.answer.text, last_message(&chat).to_owned())
    };
    let held_back = (0..100).find(|&seed| is_held_back(&answer(&free, seed).0)).expect("some answer");
    let (text, _) = answer(&free, held_back);
    let kept = &text[..text.find('<').expect("has one")];
    let stopped = AnswerOptions { stop: vec!["<".to_owned()], ..free };
    assert_eq!(answer(&stopped, held_back), (kept.to_owned(), kept.to_owned()));
}

#[test]
fn a_stop_string_around_a_tag_is_left_out_of_history_with_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = tiny::with_words(&["four</answer>\u{120}teen"]).write(&folder.path().join("model.gguf"));
    let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    // Blank space behind a tag is not of the answer.
    for (stop, answer, history) in
        [("rtee", "fou", "fou"), ("teen", "four", "four</answer> "), ("een", "fourt", "four</answer> t")]
    {
        let mut stopped = AnswerOptions { stop: vec![stop.to_owned()], ..options() };
        stopped.sampler.banned.retain(|&token| token < tiny::N_VOCAB as i32);
        stopped.sampler.logit_bias = vec![(tiny::N_VOCAB as i32, 90.0)];
        let mut chat = conversation(&model, stopped);
        let turn = ask(&mut chat, "Hello?", &mut Vec::new()).expect("answers");
        assert_eq!((turn.answer.text.as_str(), last_message(&chat)), (answer, history), "{stop}");
    }
}

#[test]
fn what_looked_like_the_beginning_of_a_stop_string_is_told_in_the_end() {
    let (model, _folder) = tiny::load();
    let (free, _) = answers(&model, 1, &options()).expect("runs").remove(0);
    let stop = vec![free.text[free.text.len() - 5..].to_owned() + "\u{e9}"];
    let (answer, said) = answers(&model, 1, &AnswerOptions { stop, ..options() }).expect("runs").remove(0);
    assert_eq!(answer, free);
    assert_eq!(streamed(&said).1, free.text);
}

#[test]
fn bad_stop_strings_are_refused_before_any_work() {
    let (model, _folder) = tiny::load();
    let stopped = AnswerOptions { stop: vec![String::new()], ..options() };
    assert_eq!(answers(&model, 1, &stopped).expect_err("refused").kind(), ErrorKind::InvalidInput);
    let error = ask(&mut conversation(&model, stopped), "Hello?", &mut Vec::new()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
