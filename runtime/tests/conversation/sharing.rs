//! Conversations that share a session, and the adapters of each.

use std::{ops::ControlFlow, sync::Arc};

use owlet_runtime::{Adapter, CancelToken, ErrorKind, Model, gguf::GgmlType};

use super::{answered, ask, assert_same_answer, common::tiny, conversation, from_scratch, said, user};

#[test]
fn forks_go_on_apart_from_each_other() {
    let (model, _folder) = tiny::load();
    let mut first = conversation(&model);
    ask(&mut first, user("What is this?", &[1]));
    let mut second = first.fork().expect("a second sequence");
    assert_eq!(first.fork().expect_err("two sequences").kind(), ErrorKind::Limit);
    for question in ["Is it an owl?", "Or a cat?"] {
        let turns = [&mut first, &mut second].map(|conversation| ask(conversation, user(question, &[])));
        assert_eq!(said(&turns[0]), said(&turns[1]), "the same question, seed and turn");
        assert!(turns[1].report.n_computed_tokens < 70, "{:?}", turns[1].report);
    }
    drop(first);
    // The freed sequence serves the next fork.
    let mut third = second.fork().expect("free again");
    let turns = [("Why?", &mut second), ("Where?", &mut third)]
        .map(|(question, conversation)| (question, ask(conversation, user(question, &[]))));
    let histories: Vec<_> = [&second, &third].iter().map(|conversation| conversation.messages().len()).collect();
    assert_eq!(histories, [8, 8]);
    assert_ne!(turns[0].1.report.n_prompt_tokens, turns[1].1.report.n_prompt_tokens);
}

pub(crate) fn adapter(model: &Model, seed: u64, invocation: Option<Vec<u32>>) -> Arc<Adapter> {
    let mut draft = tiny::adapter();
    draft.seed = seed;
    if let Some(invocation) = invocation {
        draft.set("adapter.alora.invocation_tokens", invocation);
    }
    Arc::new(Adapter::from_bytes(model, &draft.bytes()).expect("loads"))
}

#[test]
fn adapters_may_be_swapped_between_turns_and_differ_between_forks() {
    let (model, _folder) = tiny::load();
    let opening: Vec<u32> = model.generation_prompt().expect("ChatML").iter().map(|&token| token as u32).collect();
    let (a, b) = (adapter(&model, 1, None), adapter(&model, 2, None));
    let (x, y) = (adapter(&model, 3, Some(opening.clone())), adapter(&model, 4, Some(opening)));
    // Sets of adapters, and whether what the set before computed of the history is still good: not at all, up to the last
    // question, or as a whole.
    let sets = [
        (vec![], "whole"),
        (vec![(a.clone(), 1.0)], "none"),
        (vec![(b.clone(), 0.5), (a.clone(), 1.0)], "none"),
        (vec![(a.clone(), 1.0), (b.clone(), 0.5)], "whole"),
        (vec![(x.clone(), 1.0)], "none"),
        (vec![(y.clone(), 1.0)], "question"),
        (vec![], "question"),
        (vec![(y, 0.5)], "whole"),
    ];
    let mut conversation = conversation(&model);
    let mut aside = conversation.fork().expect("a second sequence");
    let (mut history, mut n_prompt) = (Vec::new(), 0);
    for (index, (adapters, kept)) in sets.iter().enumerate() {
        let n_before = conversation.n_tokens();
        conversation.set_adapters(adapters).expect("sets");
        let n_kept = conversation.n_tokens();
        match *kept {
            "none" => assert_eq!(n_kept, 0, "set {index}"),
            "whole" => assert_eq!(n_kept, n_before, "set {index}"),
            _ => assert!((1..n_prompt).contains(&n_kept), "set {index}: {n_kept} of {n_prompt}"),
        }
        // The other conversation of the session keeps its own.
        aside.set_adapters(&[(b.clone(), -1.0)]).expect("sets");
        ask(&mut aside, user("?", &[]));
        let question = user("What is it?", &[index as u64]);
        history.push(question.clone());
        let turn = ask(&mut conversation, question);
        assert_same_answer(&turn, &from_scratch(&model, &history, index as u64, adapters));
        n_prompt = turn.report.n_prompt_tokens;
        history.push(answered(&turn));
    }
}

#[test]
fn adapters_that_do_nothing_are_told_from_those_that_do() {
    let (model, _folder) = tiny::load();
    let opening: Vec<u32> = model.generation_prompt().expect("ChatML").iter().map(|&token| token as u32).collect();
    let kinds = [None, Some(opening), Some(vec![65, 66, 67])].map(|invocation| adapter(&model, 1, invocation));
    for adapter in &kinds {
        let [half, whole] = [0.5, 1.0].map(|scale| adapter.check_effect(scale, 1).expect("has an effect"));
        assert!(half > 0.01 && whole > half, "{half} {whole}");
        let error = adapter.check_effect(0.0, 1).expect_err("no effect");
        assert_eq!(error.kind(), ErrorKind::NoEffect);
        assert_eq!(adapter.check_effect(f32::NAN, 1).expect_err("no number").kind(), ErrorKind::InvalidInput);
        assert_eq!(adapter.check_effect(1e38, 1).expect_err("no probabilities").kind(), ErrorKind::InvalidFile);
    }
    // As training starts: B is zero.
    let mut untrained = tiny::adapter();
    untrained.tensors.iter_mut().filter(|(name, ..)| name.ends_with(".lora_b")).for_each(|(.., dtype)| {
        *dtype = GgmlType::F16;
    });
    let untrained = Arc::new(Adapter::from_bytes(&model, &untrained.bytes()).expect("loads"));
    assert_eq!(untrained.check_effect(1.0, 1).expect_err("no effect").kind(), ErrorKind::NoEffect);
}

#[test]
fn a_conversation_may_be_dropped_in_the_middle_of_anothers_answer() {
    let (model, _folder) = tiny::load();
    let mut first = conversation(&model);
    ask(&mut first, user("What is this?", &[1]));
    let mut second = Some(first.fork().expect("a second sequence"));
    let question = user("Is it an owl?", &[]);
    let turn = first.ask(question, &CancelToken::new(), &mut |_| {
        drop(second.take());
        ControlFlow::Continue(())
    });
    turn.expect("answers");
    let third = first.fork().expect("the place is free again");
    assert_eq!(third.n_tokens(), first.n_tokens());
}
