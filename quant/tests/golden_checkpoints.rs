//! Conversion and quantization against what llama.cpp's converter and quantizer write for the same checkpoints.

mod common;

use std::{fs, path::Path};

use owlet_quant::{ConvertOptions, QuantizeRequest, convert, quantize};
use owlet_runtime::{
    gguf::GgufFile,
    quantize::{QuantType, QuantizeOptions, plan_quantization},
};

const MODELS: [&str; 4] = ["tiny-qwen3vl-tied", "tiny-qwen3vl-untied", "tiny-qwen3", "tiny-llama"];

fn parse(name: &str) -> QuantType {
    name.parse().expect("a quantization type")
}

/// Converts `directory` and compares both files with the manifest of `model`, everything included.
fn differences(directory: &Path, model: &str, manifest: &serde_json::Value, dtype: &str) -> Vec<String> {
    let output = tempfile::tempdir().expect("temporary directory");
    let (text, tower) = (output.path().join("model.gguf"), output.path().join("mmproj.gguf"));
    // The golden towers are f32 and f16.
    let tower_dtype = if dtype == "f32" { "f32" } else { "f16" };
    let tower_manifest = manifest.get(format!("mmproj-{model}-{tower_dtype}.gguf"));
    let options = ConvertOptions {
        dtype: parse(dtype),
        mmproj_dtype: parse(tower_dtype),
        name: Some(model.to_owned()),
        ..ConvertOptions::default()
    };
    let mut last = None;
    let tower_path = tower_manifest.map(|_| tower.as_path());
    convert(directory, &text, tower_path, &options, &mut |progress| last = Some(progress)).expect("converts");
    let last = last.expect("progress was told");
    assert_eq!(last.done_bytes, last.total_bytes, "{model} {dtype}");

    let mut found = Vec::new();
    let mut compare = |path: &Path, manifest: &serde_json::Value| {
        let file = GgufFile::open(path).expect("valid");
        found.extend(common::key_differences(&file, manifest));
        found.extend(common::tensor_differences(&file, manifest));
        if manifest["file_bytes"] != file.n_bytes() && !common::has_our_keys(&file) {
            found.push(format!("{} bytes, expected {}", file.n_bytes(), manifest["file_bytes"]));
        }
    };
    compare(&text, &manifest[format!("{model}-{dtype}.gguf")]);
    if let Some(manifest) = tower_manifest {
        compare(&tower, manifest);
    }
    found
}

#[test]
fn the_checkpoint_in_this_repository_converts_to_the_same_bytes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama-one-layer");
    let expected = common::read_json(&directory.join("expected.json"));
    let output = tempfile::tempdir().expect("temporary directory");
    for (name, expected) in expected.as_object().expect("an object") {
        let path = output.path().join(format!("{name}.gguf"));
        let dtype = parse(name.trim_start_matches("quantized_"));
        let request = QuantizeRequest::new(&directory, &path, dtype);
        quantize(&request, &mut |_| {}).expect("quantizes");
        let file = GgufFile::open(&path).expect("valid");
        let mut found = common::tensor_differences(&file, expected);
        if expected.get("kv").is_some() {
            found.extend(common::key_differences(&file, expected));
        }
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
}

#[test]
fn every_key_and_byte_is_that_of_the_reference_converter() {
    let Some(goldens) = common::goldens() else { return };
    for model in MODELS {
        let manifest = common::read_json(&goldens.join(model).join("gguf_manifest.json"));
        for dtype in ["f32", "f16", "bf16", "q8_0"] {
            let found = differences(&goldens.join(model).join("model"), model, &manifest, dtype);
            assert!(found.is_empty(), "{model} {dtype}: {found:#?}");
        }
    }
}

#[test]
fn both_shapes_of_the_configuration_give_the_same_file() {
    let Some(goldens) = common::goldens() else { return };
    for model in ["tiny-qwen3vl-tied", "tiny-qwen3", "tiny-llama"] {
        let folder = goldens.join(model);
        let mixed = tempfile::tempdir().expect("temporary directory");
        for name in ["model.safetensors", "tokenizer.json"] {
            fs::copy(folder.join("model").join(name), mixed.path().join(name)).expect("copied");
        }
        for name in common::listing(&folder.join("v5")) {
            fs::copy(folder.join("v5").join(&name), mixed.path().join(&name)).expect("copied");
        }
        let manifest = common::read_json(&folder.join("gguf_manifest.json"));
        let found = differences(mixed.path(), model, &manifest, "f16");
        assert!(found.is_empty(), "{model}: {found:#?}");
    }
}

#[test]
fn every_mixture_is_that_of_the_reference_quantizer() {
    let Some(goldens) = common::goldens() else { return };
    for model in MODELS {
        let folder = goldens.join(model);
        let manifest = common::read_json(&folder.join("quantize_manifest.json"));
        for (name, expected) in manifest.as_object().expect("an object") {
            let output = tempfile::tempdir().expect("temporary directory");
            let path = output.path().join("model.gguf");
            let mut request = QuantizeRequest::new(folder.join("model"), &path, parse(name));
            request.dry_run = true;
            let planned = quantize(&request, &mut |_| {}).expect("plans");
            assert!(common::listing(output.path()).is_empty(), "a dry run writes nothing");
            request.dry_run = false;
            request.threads = 2;
            let report = quantize(&request, &mut |_| {}).expect("quantizes");
            assert_eq!(planned.model.tensors, report.model.tensors, "{model} {name}");
            assert_eq!(common::listing(output.path()), ["model.gguf"], "nothing is left beside the file");

            let file = GgufFile::open(&path).expect("valid");
            let found = common::tensor_differences(&file, expected);
            assert!(found.is_empty(), "{model} {name}: {found:#?}");
            assert_eq!(file.u32("general.file_type").expect("set"), parse(name).file_type(), "{model} {name}");
            for tensor in &report.model.tensors {
                assert_eq!(file.tensor(&tensor.name).map(|info| info.n_bytes), Some(tensor.to_bytes), "{tensor:?}");
            }
        }
    }
}

#[test]
fn all_mixtures_do_what_they_plan() {
    let Some(goldens) = common::goldens() else { return };
    let output = tempfile::tempdir().expect("temporary directory");
    let whole = output.path().join("f32.gguf");
    let options = ConvertOptions { dtype: QuantType::F32, ..ConvertOptions::default() };
    convert(&goldens.join("tiny-qwen3vl-tied/model"), &whole, None, &options, &mut |_| {}).expect("converts");
    for dtype in QuantType::ALL {
        let planned = plan_quantization(&whole, &QuantizeOptions::new(*dtype)).expect("plans");
        let path = output.path().join("packed.gguf");
        let report = quantize(&QuantizeRequest::new(&whole, &path, *dtype), &mut |_| {}).expect("quantizes");
        assert_eq!(planned, report.model.tensors, "{dtype}");
        let bits = dtype.base_type().block_bytes() as f64 * 8.0 / dtype.base_type().block_size() as f64;
        let got = report.model.bits_per_weight();
        // The embedding of so small a model weighs a lot, and its type is the one of an output matrix.
        assert!(got > bits * 0.9 && got < bits * 1.2 + 1.5, "{dtype}: {got} bits, base {bits}");
    }
}
