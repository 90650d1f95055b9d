//! Budgets, schemas and stop strings from outside, over the embedded model, which thinks before it answers.

#[path = "common/piped.rs"]
mod piped;

use std::{fs, path::Path, process::Output};

use owlet_models::{Split, TaskKind, compose_prompt, sample};
use serde_json::Value;
use tempfile::TempDir;

/// The embedded model, a picture, and a question of `kind` about it.
fn workshop(kind: TaskKind) -> (TempDir, String) {
    let folder = piped::workshop();
    let sample = sample(1, Split::HeldOut, kind, 0);
    sample.image.save(folder.path().join("a.png")).expect("a writable folder");
    (folder, compose_prompt(&sample.problem, &sample.options))
}

fn run(folder: &Path, question: &str, arguments: &[&str], input: &str) -> Output {
    piped::owlet("run", folder, &[&["-i", "a.png"], arguments, &[question]].concat(), input)
}

fn report(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("stdout is JSON")
}

fn text<'a>(report: &'a Value, key: &str) -> &'a str {
    report[key].as_str().unwrap_or_else(|| panic!("no {key}: {report}"))
}

#[test]
fn thinking_is_free_until_its_budget_and_the_answer_is_of_its_schema() {
    let (folder, question) = workshop(TaskKind::SpatialReasoning);
    let free = report(&run(folder.path(), &question, &["--json"], ""));
    assert!(!text(&free, "thinking").is_empty() && !text(&free, "answer").is_empty(), "{free}");
    assert!(free["forced_tokens"].is_null() && free["meets_constraint"].is_null(), "{free}");

    let output = run(folder.path(), &question, &["--json", "--thinking-budget", "2"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("thinking was closed"), "{output:?}");
    let closed = report(&output);
    assert!(text(&closed, "thinking").len() < text(&free, "thinking").len(), "{closed}");
    assert!(text(&free, "thinking").starts_with(text(&closed, "thinking")), "{closed}");
    assert!(!text(&closed, "answer").is_empty() && closed["forced_tokens"].is_array(), "{closed}");

    let schema = r#"{ "type": "object", "properties": { "answer": { "enum": ["A", "B", "C", "D"] } },
        "required": ["answer"], "additionalProperties": false }"#;
    let shaped = report(&run(folder.path(), &question, &["--json", "--json-schema", "-"], schema));
    assert_eq!(shaped["meets_constraint"], Value::Bool(true), "{shaped}");
    assert_eq!(shaped["thinking"], free["thinking"], "a schema is of the answer");
    let answer: Value = serde_json::from_str(text(&shaped, "answer")).expect("JSON");
    assert!(["A", "B", "C", "D"].contains(&answer["answer"].as_str().expect("a letter")), "{answer}");

    let stop = &text(&free, "answer")[..1];
    let stopped = report(&run(folder.path(), &question, &["--json", "--stop", stop], ""));
    assert_eq!((text(&stopped, "answer"), text(&stopped, "stop")), ("", "stop_string"));
    assert_eq!(stopped["thinking"], free["thinking"], "stop strings are of the answer");
}

#[test]
fn votes_are_over_what_is_printed() {
    let (folder, question) = workshop(TaskKind::SpatialGrounding);
    let vote = |arguments: &[&str], input: &str| {
        let arguments = [&["--json", "--samples", "6", "--temperature", "0.7"], arguments].concat();
        let report = report(&run(folder.path(), &question, &arguments, input));
        let samples = report["vote"]["samples"].as_array().cloned().expect("a list");
        let winner = report["vote"]["winner"].as_u64().expect("an index") as usize;
        assert_eq!(text(&samples[winner], "answer"), text(&report, "answer").trim(), "{report}");
        samples
    };
    // The tag before the number, which nothing closes, is not of the answer.
    let schema = r#"{ "type": "integer", "minimum": 0, "maximum": 9 }"#;
    for sample in vote(&["--json-schema", "-", "--expect", "number"], schema) {
        assert!(sample["is_well_formed"] == true && text(&sample, "answer").parse::<u8>().is_ok(), "{sample}");
    }
    // Nor is the stop string.
    for sample in vote(&["--stop", "]", "--expect", "text"], "") {
        assert_eq!(text(&sample, "stop"), "stop_string", "{sample}");
        assert!(sample["is_well_formed"] == true && text(&sample, "answer").starts_with("{\"boxes\":["), "{sample}");
        assert!(!text(&sample, "answer").contains(']'), "{sample}");
    }
}

#[test]
fn bad_constraints_and_tools_are_refused_with_what_is_wrong() {
    let (folder, _) = workshop(TaskKind::SpatialReasoning);
    fs::write(folder.path().join("tools.json"), r#"[{ "name": "look" }]"#).expect("a writable folder");
    for (arguments, input, told) in [
        (&["--json-schema", "gone.json"][..], "", "gone.json"),
        (&["--json-schema", "-"], "{", "not a JSON schema"),
        (&["--json-schema", "-"], r#"{ "type": "strin" }"#, "strin"),
        (&["--grammar", "-"], "start: other", "other"),
        (&["--grammar", "-", "--json-schema", "-"], "", "cannot be used with"),
        (&["--tools", "-"], "{}", "not a list of tools"),
        (&["--tools", "-", "--json-schema", "-"], "[]", "standard input can be read once"),
        (&["--thinking", "off"], "", "does not switch thinking"),
        (&["--tools", "tools.json"], "", "knows no tools"),
        (&["--stop", ""], "", "empty stop string"),
        (&["--typical-p", "0"], "", "typical_p"),
    ] {
        let output = run(folder.path(), "What is this?", arguments, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
    }
}
