//! C and C++ programs over the installed library: what a careful caller writes, and what a careless one does.
#![cfg(unix)]
#![expect(clippy::print_stderr, reason = "a test that cannot run here says so")]

mod common;
#[cfg(target_os = "linux")]
mod valgrind;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use common::{Files, Language, Link, compile, must, package, prefix, stderr, stdout};

const QUESTION: &str = "How many circles are there?";

fn chat(program: &Path, files: &Files) -> Output {
    must(Command::new(program).arg(&files.model).arg(&files.picture).args([QUESTION, "And squares?"]))
}

#[test]
fn the_examples_are_c11_and_cpp17_and_say_the_same_linked_either_way() {
    let files = Files::new("chat");
    let cases = [
        ("examples/chat.c", Language::C11, Link::Dynamic),
        ("examples/chat.c", Language::C11, Link::Static),
        ("examples/chat.c", Language::Cpp17, Link::Dynamic),
        ("examples/chat.cpp", Language::Cpp17, Link::Dynamic),
        ("examples/chat.cpp", Language::Cpp17, Link::Static),
    ];
    let answers: Vec<_> = cases
        .map(|(source, language, link)| stdout(&chat(&compile(Path::new(source), language, link, &[]), &files)))
        .into();
    assert!(!answers[0].trim().is_empty());
    for (answer, case) in answers.iter().zip(cases) {
        assert_eq!(answer, &answers[0], "{case:?}");
    }
}

/// Runs a C test as it is, and with the C side under address and undefined-behaviour sanitizers, whose leak check sees the
/// library's memory too.
fn run_test(name: &str) {
    let source = format!("tests/c/{name}.c");
    for more in [&[][..], &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]] {
        let files = Files::new(name);
        let program = compile(Path::new(&source), Language::C11, Link::Dynamic, more);
        let output = must(Command::new(program).args(files.arguments()));
        assert!(!stdout(&output).is_empty(), "it says that it came to its end");
    }
}

#[test]
fn every_misuse_ends_in_a_status() {
    run_test("bad_input");
    run_test("bad_options");
}

#[test]
fn callbacks_and_threads_behave() {
    run_test("callbacks");
}

#[test]
fn a_forgotten_object_is_found_by_leak_checkers() {
    let program = compile(Path::new("tests/c/leak.c"), Language::C11, Link::Dynamic, &["-fsanitize=address"]);
    let output = Command::new(program).output().expect("it runs");
    assert!(!output.status.success() && stderr(&output).contains("LeakSanitizer"), "{}", stderr(&output));
}

#[test]
fn the_library_has_no_symbols_but_its_own() {
    let library = prefix().join("lib/libowlet.so");
    if !library.exists() {
        eprintln!("not looked at: nm of another system's libraries");
        return;
    }
    let symbols = stdout(&must(Command::new("nm").args(["-D", "--defined-only"]).arg(&library)));
    let names: Vec<_> = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert!(names.len() > 50, "{names:?}");
    let foreign: Vec<_> = names.iter().filter(|name| !name.starts_with("owlet_")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let header = fs::read_to_string(package().join("../include/owlet.h")).expect("the header");
    let unknown: Vec<_> = names.iter().filter(|name| !header.contains(&format!("{name}("))).collect();
    assert!(unknown.is_empty(), "not in the header: {unknown:?}");
}

#[test]
fn pkg_config_finds_the_version_of_cargo_toml() {
    let config = |arguments: &[&str]| {
        let mut command = Command::new("pkg-config");
        command.args(arguments).arg("owlet").env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig"));
        // Paths are the installation's even if it lies in a folder of the system.
        command.env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1").env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
        command
    };
    if config(&["--version"]).output().is_err() {
        eprintln!("not run: there is no pkg-config");
        return;
    }
    let version = stdout(&must(&mut config(&["--modversion"])));
    assert_eq!(version.trim(), env!("CARGO_PKG_VERSION"));
    let flags = stdout(&must(&mut config(&["--cflags", "--libs"])));
    let program = common::folder("pkg-config").join("version");
    let mut cc = Command::new("cc");
    cc.arg(package().join("tests/c/version.c")).arg("-o").arg(&program).args(flags.split_whitespace());
    must(&mut cc);
    let library_path = prefix().join("lib");
    let output =
        must(Command::new(&program).env("LD_LIBRARY_PATH", &library_path).env("DYLD_LIBRARY_PATH", &library_path));
    assert_eq!(stdout(&output).trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn cmake_finds_the_package() {
    let build = common::folder("cmake");
    let cmake = |arguments: &[&str]| {
        let mut command = Command::new("cmake");
        command.args(arguments);
        command
    };
    let mut configure = cmake(&["-S"]);
    configure.arg(package().join("tests/cmake")).arg("-B").arg(&build);
    must(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix().display())));
    must(cmake(&["--build"]).arg(&build));
    for program in ["shared", "static"] {
        let output = must(&mut Command::new(build.join(program)));
        assert_eq!(stdout(&output).trim(), env!("CARGO_PKG_VERSION"));
    }
    let mut newer = cmake(&["-S"]);
    newer.arg(package().join("tests/cmake")).arg("-B").arg(common::folder("cmake-newer"));
    newer.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix().display())).arg("-DOWLET_WANTED=99.0");
    assert!(!newer.output().expect("cmake runs").status.success(), "another version will not do");
}

#[test]
fn the_quick_start_runs() {
    let readme = fs::read_to_string(package().join("README.md")).expect("the package has a README");
    let start = readme.find("```c\n").expect("a program in C") + "```c\n".len();
    let program = &readme[start..start + readme[start..].find("```").expect("it ends")];
    let folder = common::folder("quick-start");
    fs::write(folder.join("quick_start.c"), program).expect("a writable folder");
    let files = Files::new("quick-start-files");
    for (from, to) in [(&files.model, "owl.gguf"), (&files.mmproj, "mmproj-owl.gguf"), (&files.picture, "tree.jpg")] {
        fs::copy(from, folder.join(to)).expect("a writable folder");
    }
    for language in [Language::C11, Language::Cpp17] {
        let compiled = compile(&folder.join("quick_start.c"), language, Link::Dynamic, &[]);
        let output = must(Command::new(compiled).current_dir(&folder));
        assert!(!stdout(&output).trim().is_empty(), "{}", stderr(&output));
    }
}

#[test]
fn an_adapter_is_trained_by_a_reward_in_c_and_used_at_once() {
    let files = Files::new("adapt");
    let run = |program: &Path, folder: &str, n_steps: &str| {
        let mut command = Command::new(program);
        command.args([&files.model, &files.data, &files.data, &files.scratch.join(folder)]).arg(n_steps);
        stdout(&must(&mut command))
    };
    let [shared, alone] =
        [Link::Dynamic, Link::Static].map(|link| compile(Path::new("examples/adapt.c"), Language::C11, link, &[]));
    let one = run(&shared, "shared", "1");
    assert!(one.contains("step 1: reward") && one.contains("held out: reward"), "{one}");
    assert!(files.scratch.join("shared/adapter.gguf").exists());
    assert_eq!(run(&alone, "alone", "1"), one);
    let two = run(&shared, "shared", "2");
    assert!(!two.contains("step 1:") && two.contains("step 2: reward"), "it goes on from its folder: {two}");
    compile(Path::new("examples/adapt.c"), Language::Cpp17, Link::Dynamic, &[]);
}

#[test]
fn training_ends_as_it_should_whatever_callbacks_and_callers_do() {
    run_test("adapt_misuse");
}
