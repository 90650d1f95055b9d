//! Data sets on disk: complete, readable, and never half-written.

use std::fs;

use owlet_models::{DatasetOptions, Split, TaskKind, write_dataset};
use serde_json::Value;

#[test]
fn every_line_is_the_reference_s_format() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("set");
    let options = DatasetOptions { count: 12, split: Split::HeldOut, ..DatasetOptions::default() };
    let jsonl = write_dataset(&out, &options).expect("written");
    let text = fs::read_to_string(jsonl).expect("read");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(rows.len(), 12);
    for (row, task) in rows.iter().zip(TaskKind::ALL.iter().cycle()) {
        assert_eq!(row["task_type"], task.task_type());
        assert_eq!(row["problem_type"], task.problem_type());
        assert_eq!(row["data_type"], "image");
        assert!(row["problem"].as_str().expect("text").starts_with("<image>"));
        let answer = row["answer"].as_str().expect("text");
        assert!(answer.starts_with("<answer>") && answer.ends_with("</answer>"));
        let options = row["options"].as_array().expect("a list");
        assert_eq!(options.len(), if row["problem_type"] == "multiple choice" { 4 } else { 0 });
        assert!(row.get("responses").is_none());
        let image = out.join(row["images"][0].as_str().expect("a path"));
        assert_eq!(image::open(image).expect("a PNG").width(), 128);
    }
}

#[test]
fn responses_are_added_on_demand() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = DatasetOptions { count: 2, responses: true, tasks: vec![TaskKind::Ocr], ..DatasetOptions::default() };
    let jsonl = write_dataset(&dir.path().join("set"), &options).expect("written");
    for line in fs::read_to_string(jsonl).expect("read").lines() {
        let row: Value = serde_json::from_str(line).expect("JSON");
        assert!(row["responses"]["careful"].is_string() && row["responses"]["hasty"].is_string());
        assert_eq!(row["response"], row["responses"]["careful"]);
        assert!(row["marks"].as_array().is_some_and(|marks| marks.len() >= 6));
    }
}

#[test]
fn an_existing_directory_is_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("mine"), "kept").expect("write");
    let error = write_dataset(dir.path(), &DatasetOptions::default()).expect_err("refused");
    assert!(error.to_string().contains("it exists already"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
}
