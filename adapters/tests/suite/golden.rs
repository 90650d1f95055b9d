//! Reading the golden files, shared by the tests.

use std::{fs, path::Path};

use serde_json::Value;

/// The cases of `tests/golden/<name>`, one JSON object a line.
pub(crate) fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = fs::read_to_string(path).expect("the golden files are in the repository");
    text.lines().map(|line| serde_json::from_str(line).expect("golden files are JSON Lines")).collect()
}

/// The numbers of a JSON array.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|number| number.as_f64().expect("a number")).collect()
}

/// Fails with every message at once, so that one run shows all failing cases.
pub(crate) fn report(failures: &[String], n_cases: usize) {
    assert!(failures.is_empty(), "{} of {n_cases} cases fail:\n{}", failures.len(), failures.join("\n"));
}
