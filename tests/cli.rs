//! The command from outside: exit codes, what goes to stdout and stderr, and that nothing half-written stays.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// What must hold after a command was refused.
struct Refusal<'a> {
    arguments: &'a [&'a str],
    exit_code: i32,
    /// Words that stderr must have, after `error: `.
    told: &'a [&'a str],
}

fn owlet(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_owlet"))
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .expect("cargo built the command")
}

/// Runs every case in `folder` and demands the exit code, the words, an empty stdout and an unchanged folder.
fn assert_refused(folder: &Path, cases: &[Refusal<'_>]) {
    let before = names(folder);
    let mut failures = Vec::new();
    for case in cases {
        let output = owlet(folder, case.arguments);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let mut wrong = Vec::new();
        if output.status.code() != Some(case.exit_code) {
            wrong.push(format!("{} instead of exit code {}", output.status, case.exit_code));
        }
        wrong.extend(case.told.iter().filter(|&&word| !stderr.contains(word)).map(|word| format!("not told: {word}")));
        if !stderr.starts_with("error: ") {
            wrong.push("stderr does not start with `error: `".to_owned());
        }
        if !stdout.is_empty() {
            wrong.push(format!("stdout is not empty: {stdout}"));
        }
        if names(folder) != before {
            wrong.push(format!("files came or went: {:?}", names(folder)));
        }
        if !wrong.is_empty() {
            failures.push(format!("owlet {}\n  {}\n{stderr}", case.arguments.join(" "), wrong.join("\n  ")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn help_and_version_are_data() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for arguments in [&["--help"][..], &["tasks", "--help"], &["--version"]] {
        let output = owlet(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_command_lines_are_the_users_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_refused(
        folder.path(),
        &[
            Refusal { arguments: &["fly"], exit_code: 1, told: &["'fly'"] },
            Refusal { arguments: &["tasks"], exit_code: 1, told: &["--out"] },
            Refusal { arguments: &["tasks", "--out", "d", "--count", "many"], exit_code: 1, told: &["'many'"] },
            Refusal { arguments: &["tasks", "--out", "d", "--quiet", "--verbose"], exit_code: 1, told: &["--verbose"] },
        ],
    );
}

#[test]
fn tasks_refuses_what_it_cannot_draw_or_write() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("taken")).expect("a writable folder");
    fs::write(folder.path().join("file"), b"").expect("a writable folder");
    assert_refused(
        folder.path(),
        &[
            Refusal { arguments: &["tasks", "--out", "taken"], exit_code: 1, told: &["taken", "exists"] },
            Refusal { arguments: &["tasks", "--out", "file/below"], exit_code: 1, told: &["file/below"] },
            Refusal {
                arguments: &["tasks", "--out", "d", "--task", "dance"],
                exit_code: 1,
                told: &["unknown task type", "`dance`", "spatial_grounding"],
            },
        ],
    );
}

#[test]
fn tasks_prints_the_path_and_draws_the_same_bytes_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["first", "second"] {
        let output = owlet(folder.path(), &["tasks", "--out", name, "--count", "6", "--seed", "7", "--quiet"]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{name}/data.jsonl\n"));
        assert!(output.stderr.is_empty());
    }
    let read = |name: &str, file: &str| fs::read(folder.path().join(name).join(file)).expect("it was drawn");
    for file in ["data.jsonl", "images/000000.png", "images/000005.png"] {
        assert_eq!(read("first", file), read("second", file), "{file}");
    }
}
