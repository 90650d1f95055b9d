//! Constraints: JSON of a schema, texts of a grammar.

use owlet_runtime::{AnswerOptions, Constraint, ErrorKind, Generated, Model, ModelOptions, SamplerOptions, StopReason};
use serde_json::{Value, json};

use super::{answers, ask, budget::OPENED, common::tiny, conversation, streamed, valid::is_valid};

fn constrained(constraint: Constraint) -> AnswerOptions {
    let sampler = SamplerOptions { temperature: 3.0, ..SamplerOptions::default() };
    AnswerOptions { sampler, max_new_tokens: 240, constraint: Some(constraint), ..AnswerOptions::default() }
}

/// Without `<`, so without tags.
fn lark(text: &str) -> AnswerOptions {
    let mut options = constrained(Constraint::Lark(text.to_owned()));
    options.sampler.banned = vec![i32::from(b'<')];
    options
}

fn run(model: &Model, n: usize, options: &AnswerOptions) -> Vec<Generated> {
    let answers = answers(model, n, options).expect("runs");
    for (answer, said) in &answers {
        assert_eq!(streamed(said), (answer.thinking.clone(), answer.text.clone()));
    }
    answers.into_iter().map(|(answer, _)| answer).collect()
}

fn schemas() -> Vec<Value> {
    let short = json!({ "type": "string", "maxLength": 4 });
    vec![
        json!({ "type": "object", "properties": { "a": { "type": "integer", "minimum": -5, "maximum": 99 }, "b": short },
            "required": ["a", "b"], "additionalProperties": false }),
        json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 2, "maxItems": 5 }),
        json!({ "enum": ["owl", "cat", 3, null, { "x": [1] }] }),
        json!({ "anyOf": [{ "type": "null" }, { "type": "array", "items": short, "maxItems": 2 }] }),
        json!({ "type": "object", "properties": { "boxes": { "type": "array", "minItems": 4, "maxItems": 4,
            "items": { "type": "integer", "minimum": 0, "maximum": 1000 } } }, "required": ["boxes"],
            "additionalProperties": false }),
        json!({ "$ref": "#/$defs/tree", "$defs": { "tree": { "type": "object", "properties": {
            "name": { "const": "n" }, "left": { "anyOf": [{ "$ref": "#/$defs/tree" }, { "type": "null" }] } },
            "required": ["name", "left"], "additionalProperties": false } } }),
        json!({ "type": "string", "pattern": "^[a-c]{2,6}$" }),
        json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 }),
    ]
}

#[test]
fn every_complete_answer_of_a_random_model_is_valid() {
    let (model, _folder) = tiny::load();
    let (mut n_complete, mut n_cut) = (0, 0);
    for schema in schemas() {
        let answers = run(&model, 8, &constrained(Constraint::JsonSchema(schema.clone())));
        let mut is_any_complete = false;
        for answer in answers {
            let parsed = serde_json::from_str::<Value>(&answer.text);
            match answer.meets_constraint {
                Some(true) => {
                    let value = parsed.unwrap_or_else(|error| panic!("{}: {error}", answer.text));
                    assert!(is_valid(&value, &schema, &schema), "{value} under {schema}");
                    (n_complete, is_any_complete) = (n_complete + 1, true);
                }
                Some(false) => {
                    assert_eq!(answer.stop, StopReason::MaxTokens, "{answer:?}");
                    n_cut += 1;
                }
                None => panic!("there was a constraint"),
            }
            assert_eq!(
                answer.stop == StopReason::EndOfAnswer,
                answer.tokens.last().is_some_and(|&token| model.is_eog(token))
            );
        }
        assert!(is_any_complete, "{schema}");
    }
    assert!(n_complete >= 40, "{n_complete} complete, {n_cut} cut");
}

#[test]
fn what_is_cut_off_says_so() {
    let (model, _folder) = tiny::load();
    let schema = json!({ "type": "array", "items": { "const": "an owl" }, "minItems": 3, "maxItems": 3 });
    let constraint = Some(Constraint::JsonSchema(schema));
    let options = AnswerOptions { max_new_tokens: 9, constraint, ..lark("") };
    for answer in run(&model, 3, &options) {
        assert_eq!((answer.stop, answer.meets_constraint), (StopReason::MaxTokens, Some(false)));
        assert!(answer.text.starts_with('['), "{}", answer.text);
    }
    let stopped = AnswerOptions { stop: vec!["es".to_owned()], ..lark(r#"start: "yes" | "yes!""#) };
    let answer = &run(&model, 1, &stopped)[0];
    assert_eq!(
        (answer.text.as_str(), answer.stop, answer.meets_constraint),
        ("y", StopReason::StopString(0), Some(false))
    );
}

#[test]
fn an_answer_ends_exactly_where_its_grammar_lets_it() {
    let (model, _folder) = tiny::load();
    let mut seen: Vec<String> = Vec::new();
    let mut options = lark(r#"start: ("no" | "yes" "!"?) ("." | "<think>")"#);
    (options.sampler.banned, options.thinking_budget) = (Vec::new(), Some(0));
    for answer in run(&model, 60, &options) {
        assert_eq!((answer.stop, answer.meets_constraint), (StopReason::EndOfAnswer, Some(true)), "{answer:?}");
        assert_eq!(answer.thinking, "", "tags in a text of the grammar are text");
        seen.push(answer.text);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["no.", "no<think>", "yes!.", "yes!<think>", "yes.", "yes<think>"]);
}

#[test]
fn log_probabilities_are_those_of_the_model_without_the_grammar() {
    let (model, _folder) = tiny::load();
    let only = run(&model, 1, &lark(r#"start: "fixed text""#)).remove(0);
    let free = AnswerOptions { constraint: None, ..lark("") };
    // Fed the same tokens by a bias so large that nothing else is ever picked, one at a time.
    let first = only.tokens[0];
    let mut biased = free.clone();
    biased.sampler.logit_bias = vec![(first, 500.0)];
    let expected = run(&model, 1, &biased).remove(0);
    assert_eq!((expected.tokens[0], expected.logprobs[0]), (first, only.logprobs[0]));
    assert!(only.logprobs.iter().sum::<f32>() < -20.0, "nothing forces the model's own probabilities: {only:?}");
}

#[test]
fn thinking_is_free_and_the_answer_is_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = tiny::with_tokens(&["<think>", "</think>"]).write(&folder.path().join("model.gguf"));
    let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    let (opening, closing) = (tiny::N_VOCAB as i32, tiny::N_VOCAB as i32 + 1);
    let schema = json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 1, "maxItems": 3 });
    let mut options = constrained(Constraint::JsonSchema(schema.clone()));
    // It begins with thinking and does not close it.
    options.sampler.logit_bias = vec![(opening, 60.0)];
    options.sampler.presence_penalty = 100.0;
    options.sampler.banned = vec![closing, i32::from(b'<')];
    options.thinking_budget = Some(12);
    for answer in run(&model, 6, &options) {
        assert_eq!(answer.tokens[0], opening);
        assert_eq!(answer.forced, 13..14);
        assert!(!answer.thinking.is_empty());
        assert_eq!(answer.meets_constraint, Some(true));
        assert!(is_valid(&serde_json::from_str(&answer.text).expect("JSON"), &schema, &schema));
    }
    // It closes its thoughts itself, with blank space behind.
    options.sampler.banned = vec![i32::from(b'<')];
    options.sampler.logit_bias.extend([(closing, 40.0), (i32::from(b'\n'), 20.0)]);
    options.thinking_budget = None;
    for answer in run(&model, 6, &options) {
        assert!(answer.tokens.contains(&closing) && answer.forced.is_empty(), "{answer:?}");
        assert_eq!(answer.meets_constraint, Some(true), "{answer:?}");
        assert!(is_valid(&serde_json::from_str(&answer.text).expect("JSON"), &schema, &schema), "{}", answer.text);
    }
    // Turns of a conversation do the same.
    let mut chat = conversation(&model, options.clone());
    let turn = ask(&mut chat, "Hello?", &mut Vec::new()).expect("answers");
    assert_eq!(turn.answer, run(&model, 1, &options)[0]);
}

#[test]
fn a_token_that_ends_thoughts_and_begins_the_answer_is_of_the_grammar() {
    let lists = json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 1, "maxItems": 3 });
    let quoted = Constraint::Lark(r#"start: "\"<b" /[a-z]/ "\"""#.to_owned());
    for (token, constraint, stop, beginning) in [
        // Held back because a stop string may begin with it.
        ("</think>[", Constraint::JsonSchema(lists), "[[", "["),
        // Said, and held back because a tag may begin with it.
        ("</think>\"<", quoted, "~", "\"<b"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut draft = tiny::with_words(&[token]);
        let path = draft.set("tokenizer.chat_template", OPENED).write(&folder.path().join("model.gguf"));
        let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
        let mut options = AnswerOptions { stop: vec![stop.to_owned()], ..constrained(constraint) };
        options.sampler.logit_bias = vec![(tiny::N_VOCAB as i32, 90.0)];
        options.sampler.presence_penalty = 100.0;
        options.sampler.frequency_penalty = 100.0;
        for answer in run(&model, 4, &options) {
            assert_eq!(answer.tokens[0], tiny::N_VOCAB as i32, "{answer:?}");
            assert_eq!((answer.stop, answer.meets_constraint), (StopReason::EndOfAnswer, Some(true)), "{answer:?}");
            assert!(answer.text.starts_with(beginning) && !answer.text.contains("[["), "{answer:?}");
        }
    }
}

#[test]
fn a_grammar_that_becomes_too_complex_ends_that_answer_alone() {
    let (model, _folder) = tiny::load();
    // More ways to read every further letter than the engine follows.
    let readings: String = (10..90).map(|n| format!(" | s s \"A{n}\"")).collect();
    let mut options = lark(&format!("start: \"no\" | s \"A\"\ns: \"x\" | s s{readings}"));
    options.sampler.banned.push(i32::from(b'A'));
    let answers = run(&model, 6, &options);
    let (complete, ended): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.meets_constraint == Some(true));
    assert!(!complete.is_empty() && complete.iter().all(|answer| answer.text == "no"), "{complete:?}");
    assert!(!ended.is_empty());
    for answer in ended {
        assert_eq!((answer.stop, answer.meets_constraint), (StopReason::DeadEnd, Some(false)), "{answer:?}");
    }
}

#[test]
fn dead_ends_are_told() {
    let (model, _folder) = tiny::load();
    let mut options = lark(r#"start: "ab""#);
    options.sampler.banned.push(i32::from(b'b'));
    let answer = &run(&model, 1, &options)[0];
    assert_eq!((answer.text.as_str(), answer.stop, answer.meets_constraint), ("a", StopReason::DeadEnd, Some(false)));
    // Complete, but its end is banned.
    options.sampler.banned = (0..tiny::N_VOCAB as i32).filter(|&token| model.is_eog(token)).collect();
    let answer = &run(&model, 1, &options)[0];
    assert_eq!((answer.text.as_str(), answer.stop, answer.meets_constraint), ("ab", StopReason::DeadEnd, Some(true)));
    options.sampler.banned = vec![i32::from(b'a'), i32::from(b'<')];
    assert_eq!(answers(&model, 1, &options).expect_err("no first token").kind(), ErrorKind::InvalidInput);
}

#[test]
fn bad_schemas_and_grammars_are_refused_with_what_is_wrong() {
    let (model, _folder) = tiny::load();
    let schema = Constraint::JsonSchema;
    let grammar = |text: &str| Constraint::Lark(text.to_owned());
    let deep = (0..200).fold(json!({}), |inner, _| json!({ "not": inner }));
    let large = json!({ "enum": (0..40_000).map(|n| format!("value {n}")).collect::<Vec<_>>() });
    let mut wrong = Vec::new();
    for (constraint, kind, reason) in [
        (schema(json!({ "type": "strin" })), ErrorKind::InvalidInput, "strin"),
        (schema(json!({ "oneOf": [{ "type": "null" }, {}] })), ErrorKind::InvalidInput, "oneOf"),
        (schema(json!({ "type": "array", "uniqueItems": true })), ErrorKind::InvalidInput, "uniqueItems"),
        (schema(json!({ "$ref": "https://example.com/schema" })), ErrorKind::InvalidInput, "example.com"),
        (schema(json!({ "$ref": "#/nowhere" })), ErrorKind::InvalidInput, "nowhere"),
        (schema(json!({ "type": "integer", "minimum": 5, "maximum": 4 })), ErrorKind::InvalidInput, "minimum"),
        (schema(json!(false)), ErrorKind::InvalidInput, "false"),
        (schema(json!([1])), ErrorKind::InvalidInput, "schema"),
        (schema(deep), ErrorKind::Limit, "64"),
        (schema(large), ErrorKind::Limit, "262144"),
        (grammar(""), ErrorKind::InvalidInput, ""),
        (grammar("start: other"), ErrorKind::InvalidInput, "other"),
        (grammar("start: \"unclosed"), ErrorKind::InvalidInput, ""),
        (grammar(&format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000))), ErrorKind::Limit, "64"),
        (grammar("start: "), ErrorKind::Unsupported, "no token"),
    ] {
        let name = format!("{constraint:?}").chars().take(90).collect::<String>();
        match answers(&model, 1, &constrained(constraint)) {
            Err(error) if error.kind() == kind && error.to_string().contains(reason) => {}
            Err(error) => wrong.push(format!("{name}: {:?} {error}", error.kind())),
            Ok(_) => wrong.push(format!("{name}: accepted")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_small_and_grows_ends_in_an_answer_or_a_limit() {
    let (model, _folder) = tiny::load();
    let wide = (0..300).map(|n| (format!("p{n}"), json!({ "type": "string" }))).collect::<serde_json::Map<_, _>>();
    let crossed = (0..12).fold(json!({ "type": "null" }), |inner, _| json!({ "anyOf": [inner, { "items": inner }] }));
    for constraint in [
        Constraint::JsonSchema(json!({ "type": "array", "minItems": 1_000_000_000 })),
        Constraint::JsonSchema(json!({ "type": "object", "properties": wide })),
        Constraint::JsonSchema(crossed),
        Constraint::Lark("start: /(((a{1,999}){1,999}){1,999}){1,999}/".to_owned()),
        Constraint::Lark("start: /[a-z]*a[a-z]{400}/".to_owned()),
        Constraint::Lark(
            "start: a a a a\na: b b b b\nb: c c c c\nc: d* d* d*\nd: \"x\" | \"y\" | \"xy\" | a".to_owned(),
        ),
        Constraint::Lark("start: (start start start | \"a\")+".to_owned()),
    ] {
        let name = format!("{constraint:?}").chars().take(90).collect::<String>();
        let mut options = constrained(constraint);
        options.sampler.banned = vec![i32::from(b'<')];
        match answers(&model, 1, &options) {
            Ok(answers) => assert!(answers[0].0.meets_constraint.is_some(), "{name}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Limit, "{name}: {error}"),
        }
    }
}
