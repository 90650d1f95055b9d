//! C programs under valgrind, where it knows the instructions that the library was built with; see `make test-valgrind`.

use std::{path::Path, process::Command};

use crate::common::{Files, Language, Link, compile, must, stderr};

/// What valgrind exits with when it found something.
const FOUND: i32 = 99;

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["-q", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect,possible"]);
    // Threads of ggml and of Rust that are parked at the end keep what they need; it is reachable.
    command.arg("--show-leak-kinds=definite,indirect,possible").arg(format!("--error-exitcode={FOUND}"));
    command.arg(program);
    command
}

/// Whether valgrind is there and knows the library's instructions; says so where not.
fn can_run() -> bool {
    let version = compile(Path::new("tests/c/leak.c"), Language::C11, Link::Dynamic, &[]);
    match valgrind(&version).output() {
        Err(error) => eprintln!("not run: valgrind: {error}"),
        Ok(output) if stderr(&output).contains("SIGILL") => {
            eprintln!(
                "not run: valgrind does not know this processor's instructions; `make test-valgrind` builds without them"
            );
        }
        Ok(output) => {
            // A leak that is planted is found, or the others mean nothing.
            assert_eq!(output.status.code(), Some(FOUND), "{}", stderr(&output));
            return true;
        }
    }
    false
}

#[test]
fn programs_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let files = Files::new("valgrind");
    for test in ["bad_input", "bad_options", "callbacks"] {
        let program = compile(Path::new(&format!("tests/c/{test}.c")), Language::C11, Link::Dynamic, &[]);
        must(valgrind(&program).args(files.arguments()));
    }
    let chat = compile(Path::new("examples/chat.c"), Language::C11, Link::Static, &[]);
    must(valgrind(&chat).arg(&files.model).arg(&files.picture).arg("How many circles are there?"));
    let adapt = compile(Path::new("examples/adapt.c"), Language::C11, Link::Dynamic, &[]);
    must(valgrind(&adapt).args([&files.model, &files.data, &files.data, &files.scratch]).arg("1"));
}
