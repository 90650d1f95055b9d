//! C programs: an installed library, a compiler, and the embedded model as files.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use owlet_models::{DatasetOptions, MMPROJ_GGUF, MODEL_GGUF, write_dataset};

/// What every C and C++ program is compiled with.
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-Wpedantic"];
/// What a static library needs beside itself.
const PRIVATE: [&str; 4] = ["-lstdc++", "-lm", "-ldl", "-lpthread"];

/// How a program is linked with the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Dynamic,
    Static,
}

/// The language that a program is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    C11,
    Cpp17,
}

/// The package's folder.
pub(crate) fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of this test's own below the target folder, empty at first.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("owlet-c").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable target folder");
    folder
}

/// The prefix of an installation of this build's libraries.
pub(crate) fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        // Cargo puts the libraries beside the tests that need them.
        let test = env::current_exe().expect("a test has a path");
        let build = test.parent().expect("in a folder");
        let prefix = folder(&format!("prefix-{}", test.file_stem().unwrap_or_default().to_string_lossy()));
        let script = package().join("install/install.sh");
        must(Command::new("sh").arg(script).arg(build).arg(&prefix).env_remove("DESTDIR").env_remove("STRIP"));
        prefix
    })
}

/// The embedded model and questions about pictures, as files.
pub(crate) struct Files {
    pub(crate) model: PathBuf,
    pub(crate) mmproj: PathBuf,
    pub(crate) picture: PathBuf,
    pub(crate) data: PathBuf,
    /// For what a program writes.
    pub(crate) scratch: PathBuf,
}

impl Files {
    pub(crate) fn new(name: &str) -> Self {
        let folder = folder(name);
        let files = Self {
            model: folder.join("owlet-tiny.gguf"),
            mmproj: folder.join("mmproj-owlet-tiny.gguf"),
            picture: folder.join("picture.png"),
            data: write_dataset(&folder.join("data"), &DatasetOptions { count: 4, ..DatasetOptions::default() })
                .expect("a writable folder"),
            scratch: folder.join("scratch"),
        };
        fs::create_dir(&files.scratch).expect("a writable folder");
        fs::write(&files.model, MODEL_GGUF).expect("a writable folder");
        fs::write(&files.mmproj, MMPROJ_GGUF).expect("a writable folder");
        let first = find(&folder, "png").expect("a picture of the data set");
        fs::copy(first, &files.picture).expect("a writable folder");
        files
    }

    /// Model, projector, picture and a folder to write to: the arguments of the C tests.
    pub(crate) fn arguments(&self) -> [&Path; 4] {
        [&self.model, &self.mmproj, &self.picture, &self.scratch]
    }
}

/// A file of this extension below `folder`.
fn find(folder: &Path, extension: &str) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| {
        if path.is_dir() {
            find(&path, extension)
        } else {
            path.extension().is_some_and(|e| e == extension).then_some(path)
        }
    })
}

/// Compiles `source`, given from the package's folder, with all warnings as errors.
pub(crate) fn compile(source: &Path, language: Language, link: Link, more: &[&str]) -> PathBuf {
    let name = source.file_stem().expect("a file").to_string_lossy();
    let program = folder(&format!("{name}-{language:?}-{link:?}-{}", more.join(""))).join(&*name);
    let lib = prefix().join("lib");
    let (compiler, standard, read_as) = match language {
        Language::C11 => ("cc", "-std=c11", "c"),
        Language::Cpp17 => ("c++", "-std=c++17", "c++"),
    };
    let mut command = Command::new(compiler);
    command.args([standard, "-g", "-O1"]).args(WARNINGS).args(more);
    command.arg("-I").arg(prefix().join("include")).arg("-I").arg(package().join("tests/c"));
    command.args(["-x", read_as]).arg(package().join(source)).args(["-x", "none"]).arg("-o").arg(&program);
    match link {
        Link::Dynamic => command.arg("-L").arg(&lib).arg("-lowlet").arg(format!("-Wl,-rpath,{}", lib.display())),
        Link::Static => command.arg(lib.join("libowlet.a")).args(PRIVATE),
    };
    must(command.args(["-pthread", "-lm"]));
    program
}

/// Runs a command that must succeed.
pub(crate) fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}\n{}", output.status, stdout(&output), stderr(&output));
    output
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
