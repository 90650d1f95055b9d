//! The direction of imports is a rule, not a habit: `llama.cpp <- runtime <- {quant, adapters} <- owlet` and
//! `{runtime, adapters} <- host <- bindings`, with `models` a leaf that stands beside them. Crates are read from `cargo metadata`, names from the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The only doors to llama.cpp.
const LLAMA_CRATES: [&str; 2] = ["llama-cpp-2", "llama-cpp-sys-2"];

struct Layer {
    package: &'static str,
    /// Packages of this repository that its code may import.
    may_import: &'static [&'static str],
    /// Packages that its tests may import besides.
    tests_may_import: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer { package: "owlet-runtime", may_import: &[], tests_may_import: &["owlet-models"] },
    Layer { package: "owlet-models", may_import: &[], tests_may_import: &[] },
    Layer { package: "owlet-quant", may_import: &["owlet-runtime"], tests_may_import: &["owlet-models"] },
    Layer { package: "owlet-adapters", may_import: &["owlet-runtime"], tests_may_import: &["owlet-models"] },
    // A phone's library: neither the quantizer nor the embedded model.
    Layer {
        package: "owlet-host",
        may_import: &["owlet-runtime", "owlet-adapters"],
        tests_may_import: &["owlet-models"],
    },
    Layer {
        package: "owlet-bindings",
        may_import: &["owlet-runtime", "owlet-adapters", "owlet-host"],
        tests_may_import: &["owlet-models"],
    },
    Layer {
        package: "owlet-c",
        may_import: &["owlet-runtime", "owlet-adapters", "owlet-host"],
        tests_may_import: &["owlet-models"],
    },
    Layer { package: "owlet-bindgen", may_import: &[], tests_may_import: &[] },
    Layer {
        package: "owlet",
        may_import: &["owlet-runtime", "owlet-quant", "owlet-adapters", "owlet-models"],
        tests_may_import: &[],
    },
];

#[test]
fn crates_import_only_what_lies_below_them() {
    let packages = workspace_packages();
    let ours: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    let mut violations = Vec::new();
    for (name, dependencies) in &packages {
        let Some(layer) = LAYERS.iter().find(|layer| layer.package == name) else {
            violations.push(format!("`{name}` has no place among the layers of this test"));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| ours.contains(dependency.name.as_str())) {
            let imported = dependency.name.as_str();
            let allowed = layer.may_import.contains(&imported)
                || (dependency.only_for_tests && layer.tests_may_import.contains(&imported));
            if !allowed {
                violations.push(format!("`{name}` imports `{imported}`"));
            }
        }
    }
    assert!(violations.is_empty(), "imports against the layers:\n{}", violations.join("\n"));
}

#[test]
fn only_the_runtime_depends_on_llama_cpp() {
    for (name, dependencies) in workspace_packages() {
        let uses_llama = dependencies.iter().any(|dependency| LLAMA_CRATES.contains(&dependency.name.as_str()));
        assert_eq!(uses_llama, name == "owlet-runtime", "`{name}` against llama.cpp");
    }
}

/// Cargo builds a crate once for every set of features that its dependencies have, those of build scripts included, and which
/// these are depends on the packages that are asked for. Two sets would be a quarter of an hour more for whoever builds.
#[test]
fn llama_cpp_is_built_once_whatever_is_built() {
    let selections: [&[&str]; 5] =
        [&["-p", "owlet"], &["-p", "owlet-runtime"], &["-p", "owlet-bindings"], &["-p", "owlet-c"], &["--workspace"]];
    let [first, others @ ..] = selections.map(|selection| (selection, below_llama_cpp(selection)));
    assert!(first.1.len() > 10, "the build of llama.cpp needs crates: {:?}", first.1);
    for (selection, crates) in others {
        let differences: Vec<_> = first.1.symmetric_difference(&crates).collect();
        assert!(differences.is_empty(), "{:?} and {selection:?} differ in {differences:?}", first.0);
    }
}

/// What `llama-cpp-sys-2` depends on, with features, when `selection` is built.
fn below_llama_cpp(selection: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "depth",
            "--no-dedupe",
            "--format",
            " {p} [{f}]",
        ])
        .args(selection)
        .current_dir(root())
        .output()
        .expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| line.split_once(' ')).map(|(depth, name)| (depth.parse(), name));
    let mut crates = BTreeSet::new();
    // Depth of the `llama-cpp-sys-2` that is being read.
    let mut top: Option<usize> = None;
    for (depth, name) in lines {
        let Ok(depth) = depth else { continue };
        if top.is_none_or(|top| depth <= top) {
            top = name.starts_with("llama-cpp-sys-2 ").then_some(depth);
        }
        if top.is_some() {
            crates.insert(name.to_owned());
        }
    }
    crates
}

#[test]
fn llama_cpp_is_named_only_in_the_runtime_and_unsafe_stays_beside_it() {
    let rules = [
        // (word, folders where it may stand)
        ("llama_cpp_", &["runtime"][..]),
        ("unsafe", &["runtime", "bindings/c"][..]),
    ];
    let mut violations = Vec::new();
    for path in rust_sources() {
        let relative = path.strip_prefix(root()).expect("found below the root");
        if relative == Path::new("tests/layering.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        for (word, folders) in rules {
            if folders.iter().any(|folder| relative.starts_with(folder)) {
                continue;
            }
            for (index, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if has_word(code, word) && !code.contains("unsafe_code") {
                    violations.push(format!("{}:{}: `{word}`", relative.display(), index + 1));
                }
            }
        }
    }
    assert!(violations.is_empty(), "words outside their folders:\n{}", violations.join("\n"));
}

struct Dependency {
    name: String,
    only_for_tests: bool,
}

/// The packages of this workspace, each with what its manifest names.
fn workspace_packages() -> BTreeMap<String, Vec<Dependency>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().expect("a name is a string").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let dependencies = list(&package["dependencies"])
                .iter()
                .map(|dependency| Dependency {
                    name: text(&dependency["name"]),
                    only_for_tests: dependency["kind"] == "dev",
                })
                .collect();
            (text(&package["name"]), dependencies)
        })
        .collect()
}

fn rust_sources() -> Vec<PathBuf> {
    let mut sources = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    sources
}

/// Whether `text` holds `word` not as the tail of a longer name.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
