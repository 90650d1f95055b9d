//! `owlet bench` from outside: that it measures what it says, not how fast anything is.

use std::{
    path::Path,
    process::{Command, Output},
};

/// More than a bench of a tiny model takes by far, and far less than keys and values for a million tokens.
const MODEST_BYTES: u64 = 400 << 20;

use serde_json::Value;

fn owlet(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"));
    command.args(arguments).current_dir(folder).env("NO_COLOR", "1");
    command.output().expect("cargo built the command")
}

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    owlet(folder, &[&["bench", "--threads", "1"], arguments].concat())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn without_a_model_the_embedded_one_is_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let small = ["--repeats", "2", "--tokens", "4", "--samples", "1,3", "--max-pixels", "65536"];
    let output = bench(folder.path(), &[&small[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    // 65,536 pixels are 8 x 8 tokens of 32 x 32 pixels.
    assert!(report["picture"]["answers"]["n_prompt_tokens"].as_u64().expect("a number") > 64, "{report}");
    assert!(report["peak_memory_bytes"].as_u64().is_none_or(|n| n > 1 << 20), "{report}");
    let spreads = [
        "/load_ms",
        "/text/prefill_ms",
        "/text/first_token_ms",
        "/text/decode_rate",
        "/picture/encode_ms",
        "/picture/answers/prefill_rate",
        "/picture/first_question_ms",
        "/picture/second_question_ms",
        "/picture/times_sooner",
        "/decode/1/our_rate",
        "/decode/1/bare_rate",
    ];
    for place in spreads {
        let spread = report.pointer(place).unwrap_or_else(|| panic!("{place} in {report}"));
        let [median, min, max] = ["median", "min", "max"].map(|name| spread[name].as_f64().expect("a number"));
        assert!(0.0 < min && min <= median && median <= max, "{place}: {spread}");
    }
    let of = |place: &str| report.pointer(place).and_then(Value::as_f64).expect("a number");
    assert!(of("/picture/encode_ms/median") < of("/picture/answers/first_token_ms/median"), "{report}");
    assert_eq!([0, 1].map(|index| report["decode"][index]["samples"].as_u64()), [Some(1), Some(3)]);

    let table = bench(folder.path(), &small);
    for words in ["load ", "picture: encode", "second question sooner", "3 at once: bare llama.cpp", "peak memory"] {
        assert!(text(&table.stdout).contains(words), "{words} in {}", text(&table.stdout));
    }
}

#[test]
fn a_model_of_a_long_context_takes_no_memory_for_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shape = ["--family", "qwen3vl", "--type", "F16", "--context", "1000000"];
    let files = ["--out", "model.gguf", "--mmproj-out", "mmproj-model.gguf"];
    let made = owlet(folder.path(), &[&["synth"], &shape[..], &files].concat());
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let small = ["--repeats", "1", "--tokens", "2", "--samples", "1", "--max-pixels", "65536", "--json"];
    let output = bench(folder.path(), &[&["-m", "model.gguf"], &small[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert!(report["picture"]["second_question_ms"]["median"].as_f64().is_some_and(|ms| ms > 0.0), "{report}");
    assert!(report["peak_memory_bytes"].as_u64().is_none_or(|n| n < MODEST_BYTES), "{report}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("text.gguf"), owlet_models::MODEL_GGUF).expect("a writable folder");
    owlet_models::sample(1, owlet_models::Split::HeldOut, owlet_models::TaskKind::SpatialReasoning, 0)
        .image
        .save(folder.path().join("a.png"))
        .expect("a writable folder");
    let cases: [(&[&str], &str); 5] = [
        (&["-m", "missing.gguf"], "missing.gguf"),
        (&["-m", "text.gguf", "--image", "a.png"], "--mmproj"),
        (&["--image", "missing.png"], "missing.png"),
        (&["--tokens", "1"], "--tokens"),
        (&["--samples", "0"], "--samples"),
    ];
    for (arguments, told) in cases {
        let output = bench(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains(told) && output.stdout.is_empty(), "{}", text(&output.stderr));
    }
}
