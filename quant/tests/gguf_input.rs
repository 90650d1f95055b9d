//! GGUF files as input: what llama.cpp's quantizer would abort on is refused before, and projectors are taken too.

mod common;

use std::path::Path;

use common::synthetic::Synthetic;
use owlet_quant::{ConvertOptions, QuantizeRequest, convert, quantize};
use owlet_runtime::{
    Error, ErrorKind,
    gguf::{GgmlType, GgufFile, GgufWriter, Value},
    quantize::QuantType,
};

/// Writes the synthetic model and its projector into `directory`.
fn files(directory: &Path) -> (GgufFile, GgufFile) {
    let input = tempfile::tempdir().expect("temporary directory");
    Synthetic::qwen3vl().write(input.path());
    let (text, tower) = (directory.join("model.gguf"), directory.join("mmproj.gguf"));
    convert(input.path(), &text, Some(&tower), &ConvertOptions::default(), &mut |_| {}).expect("converts");
    (GgufFile::open(text).expect("valid"), GgufFile::open(tower).expect("valid"))
}

/// Quantizes a copy of `source` with another value of `key` and, where given, one more F32 tensor of one number.
fn quantize_changed(
    source: &GgufFile,
    key: &str,
    value: Value,
    extra: Option<(&str, &[u64], f32)>,
) -> Result<(), Error> {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("changed.gguf");
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata() {
        writer.set(key.clone(), value.clone());
    }
    writer.set(key, value);
    for tensor in source.tensors() {
        writer.declare(&tensor.name, &tensor.shape, tensor.dtype).expect("declared");
    }
    if let Some((name, shape, _)) = extra {
        writer.declare(name, shape, GgmlType::F32).expect("declared");
    }
    let mut stream = writer.create(&path).expect("created");
    for tensor in source.tensors() {
        stream.write_tensor(&tensor.name, source.data(tensor)).expect("written");
    }
    if let Some((name, shape, fill)) = extra {
        let n = shape.iter().product::<u64>() as usize;
        stream.write_tensor(name, &fill.to_le_bytes().repeat(n)).expect("written");
    }
    stream.commit().expect("committed");
    let request = QuantizeRequest::new(&path, directory.path().join("out.gguf"), QuantType::Q8_0);
    let result = quantize(&request, &mut |_| {});
    assert_eq!(common::listing(directory.path()).len(), 1 + usize::from(result.is_ok()), "{key}");
    result.map(drop)
}

#[test]
fn contradictions_are_errors_and_not_aborts() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (text, _) = files(directory.path());
    let name = || Value::from("letters");
    type Extra = Option<(&'static str, &'static [u64], f32)>;
    let cases: [(&str, &str, Value, Extra, ErrorKind); 8] = [
        ("another family", "general.architecture", "gemma3".into(), None, ErrorKind::Unsupported),
        ("experts without tensors", "qwen3vl.expert_count", 7u32.into(), None, ErrorKind::Unsupported),
        ("no heads", "qwen3vl.attention.head_count", 0u32.into(), None, ErrorKind::InvalidFile),
        ("600 layers", "qwen3vl.block_count", 600u32.into(), None, ErrorKind::InvalidFile),
        ("layers of text", "qwen3vl.block_count", "one".into(), None, ErrorKind::InvalidFile),
        ("unknown rotary scaling", "qwen3vl.rope.scaling.type", "magic".into(), None, ErrorKind::Unsupported),
        ("four dimensions", "general.name", name(), Some(("x.weight", &[32, 2, 2, 2], 1.0)), ErrorKind::Unsupported),
        ("not a number", "general.name", name(), Some(("x.weight", &[32, 2], f32::NAN)), ErrorKind::Backend),
    ];
    for (case, key, value, extra, kind) in cases {
        let error = quantize_changed(&text, key, value, extra).expect_err(case);
        assert_eq!(error.kind(), kind, "{case}: {error}");
    }
    quantize_changed(&text, "general.name", name(), Some(("x.weight", &[32, 2], 1.0))).expect("nothing is wrong");
}

#[test]
fn another_alignment_than_the_quantizers_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (text, _) = files(directory.path());
    let mut writer = GgufWriter::new();
    for (key, value) in text.metadata() {
        writer.set(key.clone(), value.clone());
    }
    let key = b"general.alignmen_";
    writer.set(String::from_utf8_lossy(key), 8u32);
    for tensor in text.tensors() {
        writer.declare(&tensor.name, &tensor.shape, tensor.dtype).expect("declared");
    }
    let mut stream = writer.start(Vec::new()).expect("writes");
    for tensor in text.tensors() {
        stream.write_tensor(&tensor.name, text.data(tensor)).expect("written");
    }
    let mut bytes = stream.finish().expect("complete");
    let at = bytes.windows(key.len()).position(|window| window == key).expect("set");
    bytes[at + key.len() - 1] = b't';
    let input = directory.path().join("loose.gguf");
    std::fs::write(&input, bytes).expect("writes");
    let request = QuantizeRequest::new(&input, directory.path().join("out.gguf"), QuantType::Q8_0);
    let error = quantize(&request, &mut |_| {}).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("got 8, needed 32"), "{error}");
}

#[test]
fn a_projector_can_be_packed_too() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (_, tower) = files(directory.path());
    let output = directory.path().join("packed.gguf");
    let report =
        quantize(&QuantizeRequest::new(tower.path(), &output, QuantType::Q8_0), &mut |_| {}).expect("quantizes");
    assert_eq!(report.architecture, "clip");
    let packed = GgufFile::open(&output).expect("valid");
    assert_eq!(packed.tensor("mm.0.weight").expect("there").dtype, GgmlType::Q8_0);
    assert_eq!(packed.tensor("v.patch_embd.weight").expect("there").dtype, GgmlType::F16);
    assert!(report.model.bytes_after < report.model.bytes_before);
}
