//! Stop strings.

use owlet_runtime::{
    AnswerOptions, ErrorKind, StopReason,
    conversation::{ChatPart, Conversation},
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
