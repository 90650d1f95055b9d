//! `owlet adapt --gate` and `owlet gate`: what goes live, what is told of it, and the way back.

use std::{fs, path::Path, process::Command};

use owlet_models::MODEL_GGUF;
use serde_json::Value;

const ARGUMENTS: &str = "adapt -m model.gguf --data train.jsonl --gate gate --threads 1 --rank 2 --steps 1 \
    --prompts-per-step 2 --group-size 4 --sequences 8 --max-tokens 6 --max-prompt-tokens 256";

/// Exit code, stdout and stderr of the command in `folder`.
fn owlet(folder: &Path, arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"));
    let output = command.args(arguments.split_whitespace()).current_dir(folder).output().expect("cargo built it");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn adapters_go_live_by_the_command_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    fs::write(folder.join("model.gguf"), MODEL_GGUF).expect("a writable folder");
    for (name, count) in [("train", 4), ("held", 30), ("few", 6)] {
        let row = |index: usize| {
            format!(
                "{{\"problem\": \"{name}: how many is {index} and 1?\", \"answer\": \"{}\", \
                 \"problem_type\": \"numerical\", \"task_type\": \"math_reasoning\"}}\n",
                index + 1
            )
        };
        let rows: String = (0..count).map(row).collect();
        fs::write(folder.join(name).with_extension("jsonl"), rows).expect("a writable folder");
    }

    // Before any work, and without a folder of checkpoints.
    let (code, _, told) = owlet(folder, &format!("{ARGUMENTS} -o few.gguf --eval few.jsonl"));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("too few held-out samples") && !folder.join("few.checkpoints").exists(), "{told}");

    // A step so small that no answer changes: refused, unless it need not be better.
    let eval = "--lr 1e-12 --eval held.jsonl --json";
    let (code, printed, told) = owlet(folder, &format!("{ARGUMENTS} -o same.gguf {eval}"));
    assert_eq!(code, Some(0), "{told}");
    let report: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((&report["gate"]["accepted"], &report["gate"]["active"]), (&false.into(), &Value::Null), "{printed}");
    assert_eq!(report["gate"]["verdict"]["reasons"][0]["reason"], "may_be_worse", "{printed}");
    assert!(told.contains("gate: refused, reward"), "{told}");
    let (code, printed, told) = owlet(folder, "gate gate");
    assert_eq!((code, &*printed), (Some(0), ""), "{told}");

    let (code, printed, told) = owlet(folder, &format!("{ARGUMENTS} -o good.gguf {eval} --gate-margin 0.01"));
    assert_eq!(code, Some(0), "{told}");
    let report: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(report["gate"]["accepted"], true, "{printed}");
    let (_, live, _) = owlet(folder, "gate gate");
    assert_eq!(report["gate"]["active"], live.trim(), "{printed}");
    let bytes = |path: &str| fs::read(folder.join(path)).expect("an adapter");
    assert!(bytes(live.trim()) == bytes("good.gguf"));

    let (code, printed, told) = owlet(folder, "gate gate --rollback --json");
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON")["active"], Value::Null);
    let (code, _, told) = owlet(folder, "gate gate --rollback");
    assert_eq!(code, Some(1));
    assert!(told.contains("no adapter is live"), "{told}");
}
