//! Thinking budgets: the thinking ends in time and an answer comes.

use owlet_runtime::{
    AnswerOptions, ErrorKind, Generated, Model, ModelOptions, SamplerOptions, StopReason, ThinkEvent,
    conversation::ChatPart,
};
use tempfile::TempDir;

use super::{answers, ask, common::tiny, conversation, load, options, streamed};

/// A template that opens answers with thinking.
pub(super) const OPENED: &str = "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' -}}{%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}";
/// The same, and it writes thinking as Qwen3's does.
const AS_QWEN: &str = "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' -}}{%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}\
    {%- else -%}{{- '<think>\\n' ~ 'thoughts' ~ '\\n</think>\\n\\n' -}}{%- endif -%}";
const OPENING: i32 = tiny::N_VOCAB as i32;
const END: i32 = 258;

/// The tiny model with two more tokens, the control tokens `<think>` and `</think>`.
fn load_with_tags() -> (Model, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = tiny::with_tokens(&["<think>", "</think>"]).write(&folder.path().join("model.gguf"));
    (Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads"), folder)
}

/// Without `<`, which every tag begins with.
fn tagless(thinking_budget: Option<usize>) -> AnswerOptions {
    let mut options = AnswerOptions { thinking_budget, ..options() };
    options.sampler.banned.push(i32::from(b'<'));
    options
}

/// The first answer, in a group and in a conversation.
fn both(model: &Model, options: &AnswerOptions) -> (Generated, String) {
    let (answer, said) = answers(model, 1, options).expect("runs").remove(0);
    let (thinking, text) = streamed(&said);
    assert_eq!((&thinking, &text), (&answer.thinking, &answer.text));
    let mut chat = conversation(model, options.clone());
    let turn = ask(&mut chat, "Hello?", &mut Vec::<ThinkEvent>::new()).expect("answers");
    assert_eq!(turn.answer, answer);
    let history = match chat.messages().last().map(|message| message.parts.as_slice()) {
        Some([ChatPart::Text(text)]) => text.clone(),
        other => panic!("not a text: {other:?}"),
    };
    (answer, history)
}

#[test]
fn a_budget_changes_nothing_for_a_model_that_never_thinks() {
    let (model, _folder) = tiny::load();
    let free = both(&model, &tagless(None));
    assert!(free.0.forced.is_empty() && free.0.thinking.is_empty());
    for budget in [0, 3, 1000] {
        assert_eq!(both(&model, &tagless(Some(budget))), free);
        // However short: it has no tags that would need room.
        let short = |thinking_budget| AnswerOptions { max_new_tokens: 2, ..tagless(thinking_budget) };
        assert_eq!(both(&model, &short(Some(budget))), both(&model, &short(None)));
    }
}

#[test]
fn thinking_that_never_ends_is_closed_and_the_answer_comes() {
    struct Case {
        name: &'static str,
        template: &'static str,
        options: AnswerOptions,
        /// Tokens of thinking, and what closes it.
        n_thought: usize,
        closing: &'static str,
    }
    let short = |n| AnswerOptions { max_new_tokens: n, ..tagless(Some(1000)) };
    let cases = [
        Case { name: "5", template: OPENED, options: tagless(Some(5)), n_thought: 5, closing: "</think>" },
        Case { name: "none", template: OPENED, options: tagless(Some(0)), n_thought: 0, closing: "</think>" },
        // Half of 60 tokens are kept for the answer.
        Case { name: "large", template: OPENED, options: tagless(Some(1000)), n_thought: 22, closing: "</think>" },
        Case { name: "short", template: OPENED, options: short(30), n_thought: 7, closing: "</think>" },
        // The prompt has 33 tokens of 400, which leaves room for 368.
        Case { name: "long", template: OPENED, options: short(1000), n_thought: 176, closing: "</think>" },
        Case { name: "qwen", template: AS_QWEN, options: tagless(Some(5)), n_thought: 5, closing: "\n</think>\n\n" },
        Case {
            name: "qwen none",
            template: AS_QWEN,
            options: tagless(Some(0)),
            n_thought: 0,
            closing: "\n</think>\n\n",
        },
    ];
    for Case { name, template, options, n_thought, closing } in cases {
        let (model, _folder) = load(Some(template));
        let (answer, history) = both(&model, &options);
        assert_eq!(answer.forced, n_thought..n_thought + closing.len(), "{name}");
        assert_eq!(model.detokenize(&answer.tokens[answer.forced.clone()]), closing, "{name}");
        assert_eq!(answer.thinking.trim_end(), model.detokenize(&answer.tokens[..n_thought]).trim(), "{name}");
        assert!(answer.text.len() > 10 && !answer.text.contains("think"), "{name}: {answer:?}");
        assert!(answer.logprobs[answer.forced.clone()].iter().all(|logprob| logprob.is_finite() && *logprob < 0.0));
        assert_eq!(history, format!("<think>\n{}", model.detokenize(&answer.tokens)), "{name}");
        let is_full = answer.stop == StopReason::ContextFull;
        assert_eq!(is_full, name == "long", "{name}");
    }
}

#[test]
fn a_model_that_thinks_by_itself_is_closed_too() {
    let (model, _folder) = load_with_tags();
    assert!(!model.never_sampled().contains(&OPENING) && model.token_bytes(OPENING) == b"<think>");
    // It begins with thinking, and does so once.
    let thinks = |thinking_budget| {
        let mut options = AnswerOptions { thinking_budget, ..options() };
        options.sampler.banned.retain(|&token| token < OPENING);
        options.sampler.banned.extend([OPENING + 1, i32::from(b'<')]);
        options.sampler.logit_bias = vec![(OPENING, 50.0)];
        options.sampler.presence_penalty = 100.0;
        options
    };
    let (free, _) = both(&model, &thinks(None));
    assert_eq!((free.tokens[0], free.text.as_str()), (OPENING, ""));
    for budget in [0, 1, 9] {
        let (answer, _) = both(&model, &thinks(Some(budget)));
        assert_eq!((answer.tokens[0], answer.forced.clone()), (OPENING, budget + 1..budget + 2), "{budget}");
        assert_eq!(answer.tokens[budget + 1], OPENING + 1, "the token of the tag");
        assert_eq!(answer.tokens[..=budget], free.tokens[..=budget], "the same thoughts");
        assert_eq!(answer.tokens.len(), 60);
        assert!(answer.text.len() > 10, "{answer:?}");
    }
}

#[test]
fn the_model_cannot_leave_without_an_answer_nor_think_again() {
    let (model, _folder) = load_with_tags();
    let biased = |bias: Vec<(i32, f32)>, thinking_budget| {
        let sampler = SamplerOptions { logit_bias: bias, ..SamplerOptions::greedy() };
        AnswerOptions { sampler, max_new_tokens: 40, thinking_budget, ..AnswerOptions::default() }
    };
    // It opens its thoughts and ends the answer.
    let mut leaves = biased(vec![(OPENING, 200.0), (END, 100.0)], None);
    leaves.sampler.presence_penalty = 100.0;
    leaves.sampler.repeat_penalty = 100.0;
    let (free, _) = both(&model, &leaves);
    assert_eq!((free.tokens.as_slice(), free.text.as_str()), ([OPENING, END].as_slice(), ""));
    leaves.thinking_budget = Some(20);
    let (answer, _) = both(&model, &leaves);
    assert_eq!(
        (answer.tokens[..2].to_vec(), answer.forced.clone(), answer.stop),
        (vec![OPENING, OPENING + 1], 1..2, StopReason::EndOfAnswer)
    );
    assert!(!answer.text.is_empty());
    // It opens thoughts all the time.
    let (answer, _) = both(&model, &biased(vec![(OPENING, 100.0)], Some(0)));
    assert_eq!((answer.tokens.len(), answer.forced.clone()), (40, 1..2));
}

#[test]
fn a_room_without_place_for_thinking_and_an_answer_is_refused() {
    let (model, _folder) = load(Some(OPENED));
    let tight = AnswerOptions { max_new_tokens: 10, ..tagless(Some(5)) };
    let error = answers(&model, 1, &tight).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // Twice an opening token and the 8 of `</think>`: the template knows no `</thinking>`.
    assert!(error.to_string().contains("max_new_tokens: got 10 tokens, needed at least 18"), "{error}");
    let enough = AnswerOptions { max_new_tokens: 18, ..tagless(Some(5)) };
    assert!(!both(&model, &enough).0.text.is_empty());
    let error = ask(&mut conversation(&model, tight), "Hello?", &mut Vec::new()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let long = "x".repeat(362);
    let mut chat = conversation(&model, AnswerOptions { max_new_tokens: 300, ..tagless(Some(5)) });
    let mut roomless = chat.options().clone();
    roomless.answer_room = 1;
    chat.set_options(roomless);
    let error = ask(&mut chat, &long, &mut Vec::new()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ContextOverflow, "{error}");
}

#[test]
fn forced_tokens_have_their_probability_even_if_they_are_banned() {
    let (model, _folder) = load(Some(OPENED));
    let (banned, _) = both(&model, &tagless(Some(0)));
    let (free, _) = both(&model, &AnswerOptions { thinking_budget: Some(0), ..options() });
    assert_eq!((banned.tokens[0], banned.forced.clone()), (i32::from(b'<'), free.forced.clone()));
    assert!((banned.logprobs[0] - free.logprobs[0]).abs() < 1e-5, "{} {}", banned.logprobs[0], free.logprobs[0]);
}
