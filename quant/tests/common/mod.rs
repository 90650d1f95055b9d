//! Golden folders, comparison of a GGUF file with a manifest, and a tiny checkpoint made in code.
#![allow(dead_code, reason = "every test binary uses a part")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use owlet_runtime::gguf::{Array, GgufFile, Value};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

pub(crate) mod synthetic;

/// The Hugging Face goldens, where this machine has them.
pub(crate) fn goldens() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/hf");
    if path.exists() {
        return Some(path);
    }
    // Not `eprintln`, which the test runner keeps to itself while tests pass.
    let _ = writeln!(std::io::stderr(), "skipped: {} does not exist", path.display());
    None
}

pub(crate) fn read_json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every difference between the tensors of `file` and those of a manifest: name, type, shape (ggml order), SHA-256.
pub(crate) fn tensor_differences(file: &GgufFile, manifest: &Json) -> Vec<String> {
    let expected = manifest["tensors"].as_object().expect("tensors");
    let mut differences = Vec::new();
    for (name, expected) in expected {
        let Some(tensor) = file.tensor(name) else {
            differences.push(format!("{name}: missing"));
            continue;
        };
        let dtype = tensor.dtype.name().to_uppercase();
        let shape = serde_json::json!(tensor.shape);
        if expected["type"] != dtype.as_str() || expected["shape_ne"] != shape {
            differences
                .push(format!("{name}: {dtype} {shape}, expected {} {}", expected["type"], expected["shape_ne"]));
        } else if expected["sha256"] != sha256(file.data(tensor)) {
            differences.push(format!("{name}: other data"));
        }
    }
    let extra = file.tensors().iter().filter(|tensor| !expected.contains_key(&tensor.name));
    differences.extend(extra.map(|tensor| format!("{}: not expected", tensor.name)));
    differences
}

/// Keys that we write and the reference converter leaves out: the picture limits of the processor.
const OURS: [&str; 2] = ["clip.vision.image_min_pixels", "clip.vision.image_max_pixels"];

/// Whether `file` has keys that the reference converter leaves out, and so another size.
pub(crate) fn has_our_keys(file: &GgufFile) -> bool {
    OURS.iter().any(|key| file.get(key).is_some())
}

/// Every difference between the keys of `file` and those of a manifest.
pub(crate) fn key_differences(file: &GgufFile, manifest: &Json) -> Vec<String> {
    let expected = manifest["kv"].as_object().expect("keys");
    let mut differences = Vec::new();
    for (key, expected) in expected {
        match file.get(key) {
            None => differences.push(format!("{key}: missing")),
            Some(value) if describe(value) != (text(&expected["type"]), comparable(&expected["value"])) => {
                differences.push(format!("{key}: {:?}, expected {expected}", describe(value)));
            }
            Some(_) => {}
        }
    }
    let extra = file.metadata().iter().filter(|(key, _)| !expected.contains_key(key) && !OURS.contains(&key.as_str()));
    differences.extend(extra.map(|(key, _)| format!("{key}: not expected")));
    differences
}

fn text(value: &Json) -> String {
    value.as_str().expect("a string").to_owned()
}

/// Long lists are given by their hash in the manifest.
fn comparable(value: &Json) -> Json {
    value.get("sha256_of_json").unwrap_or(value).clone()
}

/// Type name and value as the manifest has them.
fn describe(value: &Value) -> (String, Json) {
    let list = |kind: &str, items: Json| {
        let is_long = items.as_array().is_some_and(|items| items.len() > 16);
        let items = if is_long { Json::from(sha256(items.to_string().as_bytes())) } else { items };
        (format!("ARRAY/{kind}"), items)
    };
    match value {
        Value::U32(value) => ("UINT32".to_owned(), Json::from(*value)),
        Value::F32(value) => ("FLOAT32".to_owned(), Json::from(f64::from(*value))),
        Value::Bool(value) => ("BOOL".to_owned(), Json::from(*value)),
        Value::String(value) => ("STRING".to_owned(), Json::from(value.as_str())),
        Value::Array(Array::String(values)) => list("STRING", values.clone().into()),
        Value::Array(Array::I32(values)) => list("INT32", values.clone().into()),
        Value::Array(Array::Bool(values)) => list("BOOL", values.clone().into()),
        Value::Array(Array::F32(values)) => list("FLOAT32", values.iter().map(|value| f64::from(*value)).collect()),
        other => panic!("no manifest has {other:?}"),
    }
}

/// The names of what `directory` holds.
pub(crate) fn listing(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("readable");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
