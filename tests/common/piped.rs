//! The command as a script runs it: a pipe in, a pipe out.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use owlet_models::{MMPROJ_GGUF, MODEL_GGUF};
use tempfile::TempDir;

/// A folder with the embedded model, as `model.gguf` and `mmproj.gguf`.
pub(crate) fn workshop() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("model.gguf"), MODEL_GGUF).expect("a writable folder");
    fs::write(folder.path().join("mmproj.gguf"), MMPROJ_GGUF).expect("a writable folder");
    folder
}

/// Runs `owlet` in `folder` on one thread, with `input` on its standard input.
pub(crate) fn owlet(command: &str, folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = start(command, folder, arguments);
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

/// Starts `owlet` as [`owlet`] does, and leaves the pipes to the caller.
pub(crate) fn start(command: &str, folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_owlet"))
        .args([command, "-m", "model.gguf", "--threads", "1"])
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo built the command")
}
