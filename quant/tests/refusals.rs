//! Checkpoints that are wrong in one way each: a typed error, the reason in its text, and no file left behind.

mod common;

use std::{fs, path::Path};

use common::synthetic::{N_VISION, PATCH, Synthetic};
use owlet_quant::{ConvertOptions, QuantizeRequest, convert, quantize};
use owlet_runtime::{
    ErrorKind,
    gguf::{GgmlType, GgufFile},
    quantize::{QuantType, dequantize_rows},
};
use serde_json::json;

struct Case {
    name: &'static str,
    /// Spoils the checkpoint before it is written.
    spoil: fn(&mut Synthetic),
    /// Spoils the directory afterwards.
    spoil_files: fn(&Path),
    kind: ErrorKind,
    /// A part of the message.
    reason: &'static str,
}

fn content(name: &'static str, spoil: fn(&mut Synthetic), kind: ErrorKind, reason: &'static str) -> Case {
    Case { name, spoil, spoil_files: |_| {}, kind, reason }
}

fn files(name: &'static str, spoil_files: fn(&Path), kind: ErrorKind, reason: &'static str) -> Case {
    Case { name, spoil: |_| {}, spoil_files, kind, reason }
}

fn remove(directory: &Path, name: &str) {
    fs::remove_file(directory.join(name)).expect("removable");
}

fn weights<'a>(synthetic: &'a mut Synthetic, name: &str) -> &'a mut (Vec<usize>, Vec<f32>) {
    synthetic.tensors.get_mut(name).expect("a tensor of the checkpoint")
}

const Q_PROJ: &str = "model.language_model.layers.0.self_attn.q_proj.weight";
const INDEX: &str = "model.safetensors.index.json";

fn cases() -> Vec<Case> {
    use ErrorKind::*;
    vec![
        files("no configuration", |d| remove(d, "config.json"), NotFound, "config.json"),
        files("no weights", |d| remove(d, "model.safetensors"), NotFound, "model.safetensors"),
        files("no tokenizer", |d| remove(d, "tokenizer.json"), NotFound, "tokenizer.json"),
        files("no picture settings", |d| remove(d, "preprocessor_config.json"), NotFound, "picture settings"),
        files(
            "configuration cut off",
            |d| fs::write(d.join("config.json"), "{\"a\":").expect("writable"),
            InvalidFile,
            "not JSON",
        ),
        files(
            "weights cut off",
            |d| {
                let bytes = fs::read(d.join("model.safetensors")).expect("readable");
                fs::write(d.join("model.safetensors"), &bytes[..bytes.len() - 1]).expect("writable");
            },
            InvalidFile,
            "safetensors",
        ),
        files(
            "weights of 3 bytes",
            |d| fs::write(d.join("model.safetensors"), "abc").expect("writable"),
            InvalidFile,
            "safetensors",
        ),
        files(
            "index that leaves the directory",
            |d| fs::write(d.join(INDEX), r#"{"weight_map":{"a":"../model.safetensors"}}"#).expect("writable"),
            InvalidFile,
            "leaves its directory",
        ),
        files(
            "index that lies",
            |d| fs::write(d.join(INDEX), r#"{"weight_map":{"absent":"model.safetensors"}}"#).expect("writable"),
            InvalidFile,
            "absent",
        ),
        files(
            "index without its shard",
            |d| {
                fs::write(d.join(INDEX), r#"{"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#)
                    .expect("writable")
            },
            NotFound,
            "model-00001-of-00002.safetensors",
        ),
        content(
            "another architecture",
            |s| s.config["architectures"] = json!(["MambaForCausalLM"]),
            Unsupported,
            "\"MambaForCausalLM\", needed one of Qwen3VLForConditionalGeneration, Qwen3ForCausalLM",
        ),
        content(
            "quantized weights",
            |s| s.config["quantization_config"] = json!({"bits": 4}),
            Unsupported,
            "quantization_config",
        ),
        content(
            "another activation",
            |s| s.config["text_config"]["hidden_act"] = json!("gelu"),
            Unsupported,
            "hidden_act",
        ),
        content(
            "scaled rotary embedding",
            |s| s.config["text_config"]["rope_parameters"]["rope_type"] = json!("yarn"),
            Unsupported,
            "rope_type",
        ),
        content(
            "rotary sections that do not fit",
            |s| s.config["text_config"]["rope_parameters"]["mrope_section"] = json!([6, 5, 4]),
            Mismatch,
            "mrope_section",
        ),
        content("no hidden size", |s| s.config["text_config"]["hidden_size"] = json!(null), InvalidFile, "hidden_size"),
        content("a size of text", |s| s.config["text_config"]["hidden_size"] = json!("64"), InvalidFile, "hidden_size"),
        content("absurd size", |s| s.config["text_config"]["head_dim"] = json!(1 << 20), Mismatch, "attention sizes"),
        content("no layers", |s| s.config["text_config"]["num_hidden_layers"] = json!(0), InvalidFile, "1 to 512"),
        content(
            "a wider configuration",
            |s| s.config["text_config"]["intermediate_size"] = json!(128),
            Mismatch,
            "gate_proj",
        ),
        content(
            "more layers than weights",
            |s| s.config["text_config"]["num_hidden_layers"] = json!(2),
            InvalidFile,
            "layers.1",
        ),
        content(
            "a grid that is not square",
            |s| s.config["vision_config"]["num_position_embeddings"] = json!(17),
            Mismatch,
            "square",
        ),
        content(
            "deepstack beyond the tower",
            |s| s.config["vision_config"]["deepstack_visual_indexes"] = json!([1]),
            InvalidFile,
            "deepstack",
        ),
        content("missing tensor", |s| drop(s.tensors.remove(Q_PROJ)), InvalidFile, Q_PROJ),
        content(
            "untied without an output",
            |s| s.config["tie_word_embeddings"] = json!(false),
            InvalidFile,
            "lm_head.weight",
        ),
        content(
            "a tensor that means more",
            |s| {
                drop(s.tensors.insert("model.language_model.layers.0.mlp.gate.weight".to_owned(), (vec![1], vec![0.0])))
            },
            Unsupported,
            "mlp.gate.weight",
        ),
        content("not a number", |s| weights(s, Q_PROJ).1[7] = f32::NAN, InvalidFile, "bad weight"),
        content("too large for F16", |s| weights(s, Q_PROJ).1[7] = 70_000.0, InvalidFile, "70000"),
        content(
            "not BPE",
            |s| s.tokenizer["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
            Unsupported,
            "BPE",
        ),
        content(
            "a merge of unknown tokens",
            |s| s.tokenizer["model"]["merges"] = json!(["t 9"]),
            InvalidFile,
            "tokenizer",
        ),
        content(
            "other splitting rules",
            |s| s.tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"}),
            Unsupported,
            "splitting rules",
        ),
        content("lower case", |s| s.tokenizer["normalizer"] = json!({"type": "Lowercase"}), Unsupported, "normalizer"),
        content(
            "a token beyond the embedding",
            |s| s.tokenizer["model"]["vocab"]["th"] = json!(32),
            Mismatch,
            "no row",
        ),
        content("one id for two tokens", |s| s.tokenizer["model"]["vocab"]["a"] = json!(1), InvalidFile, "one id"),
        content(
            "a special token beyond the embedding",
            |s| s.config["bos_token_id"] = json!(99),
            Mismatch,
            "bos_token_id",
        ),
        content("two means", |s| s.preprocessor["image_mean"] = json!([0.5, 0.5]), InvalidFile, "image_mean"),
    ]
}

#[test]
fn a_spoilt_checkpoint_is_refused_and_leaves_no_file() {
    let mut failures = Vec::new();
    for Case { name, spoil, spoil_files, kind, reason } in cases() {
        let input = tempfile::tempdir().expect("temporary directory");
        let output = tempfile::tempdir().expect("temporary directory");
        let mut synthetic = Synthetic::qwen3vl();
        spoil(&mut synthetic);
        synthetic.write(input.path());
        spoil_files(input.path());
        let (text, tower) = (output.path().join("model.gguf"), output.path().join("mmproj.gguf"));
        match convert(input.path(), &text, Some(&tower), &ConvertOptions::default(), &mut |_| {}) {
            Ok(_) => failures.push(format!("{name}: accepted")),
            Err(error) if error.kind() != kind || !error.to_string().contains(reason) => {
                failures.push(format!("{name}: {:?}: {error}", error.kind()));
            }
            Err(_) => {}
        }
        if !common::listing(output.path()).is_empty() {
            failures.push(format!("{name}: left {:?}", common::listing(output.path())));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_spoilt_ones_were_right_before() {
    let input = tempfile::tempdir().expect("temporary directory");
    let output = tempfile::tempdir().expect("temporary directory");
    let synthetic = Synthetic::qwen3vl();
    synthetic.write(input.path());
    let (text, tower) = (output.path().join("model.gguf"), output.path().join("mmproj.gguf"));
    let options = ConvertOptions { name: Some("letters".to_owned()), ..ConvertOptions::default() };
    let report = convert(input.path(), &text, Some(&tower), &options, &mut |_| {}).expect("converts");
    assert_eq!(report.architecture, "qwen3vl");

    let text = GgufFile::open(&text).expect("valid");
    assert_eq!(text.str("general.name").expect("set"), "letters");
    assert_eq!(text.str("tokenizer.ggml.pre").expect("set"), "gpt-2");
    let tokens = text.strings("tokenizer.ggml.tokens").expect("set");
    assert_eq!((tokens.len(), &tokens[26][..], &tokens[28][..], &tokens[31][..]), (32, "th", "<|im_end|>", "[PAD31]"));
    assert_eq!(text.u32("tokenizer.ggml.eos_token_id").expect("set"), 28);
    assert_eq!(text.tensor("blk.0.attn_norm.weight").expect("there").dtype, GgmlType::F32);
    assert_eq!(text.tensor("blk.0.attn_q.weight").expect("there").dtype, GgmlType::F16);

    // The two kernels of the patch embedding are the two frames.
    let tower = GgufFile::open(&tower).expect("valid");
    let (_, source) = &synthetic.tensors["model.visual.patch_embed.proj.weight"];
    let picture = PATCH * PATCH;
    for (frame, name) in ["v.patch_embd.weight", "v.patch_embd.weight.1"].into_iter().enumerate() {
        let tensor = tower.require(name, &[PATCH as u64, PATCH as u64, 3, N_VISION as u64]).expect("there");
        let got = dequantize_rows(tensor.dtype, tower.data(tensor)).expect("f16");
        let expected: Vec<_> = source.chunks(picture).skip(frame).step_by(2).flatten().copied().collect();
        assert_eq!(got, expected, "{name}");
    }
    // transformers computes with this constant whatever the language model has.
    assert_eq!(tower.f32("clip.vision.attention.layer_norm_epsilon").expect("set"), 1e-6);
}

#[test]
fn a_bad_request_is_refused() {
    let input = tempfile::tempdir().expect("temporary directory");
    Synthetic::qwen3vl().write(input.path());
    let output = tempfile::tempdir().expect("temporary directory");
    let gguf = output.path().join("model.gguf");
    let q8 = |input: &Path, output: &Path| QuantizeRequest::new(input, output, QuantType::Q8_0);
    quantize(&q8(input.path(), &gguf), &mut |_| {}).expect("quantizes");
    let broken = output.path().join("broken.gguf");
    let bytes = fs::read(&gguf).expect("readable");
    fs::write(&broken, &bytes[..bytes.len() / 2]).expect("writable");
    let before = common::listing(output.path());

    let other = output.path().join("other.gguf");
    let with = |change: fn(&mut QuantizeRequest), mut request: QuantizeRequest| {
        change(&mut request);
        request
    };
    let to_q4 = |request: &mut QuantizeRequest| request.dtype = QuantType::Q4_0;
    let cases = [
        ("missing file", q8(&output.path().join("none.gguf"), &other), ErrorKind::NotFound, "none.gguf"),
        ("half a file", q8(&broken, &other), ErrorKind::InvalidFile, "broken.gguf"),
        ("not GGUF", q8(&input.path().join("config.json"), &other), ErrorKind::InvalidFile, "not a GGUF"),
        ("onto itself", q8(&gguf, &gguf), ErrorKind::InvalidInput, "onto itself"),
        ("quantized twice", with(to_q4, q8(&gguf, &other)), ErrorKind::InvalidInput, "quantized already"),
        ("no such directory", q8(input.path(), &output.path().join("no/a.gguf")), ErrorKind::NotFound, "a.gguf"),
        (
            "a tower out of a file",
            with(|request| request.mmproj_output = Some("m.gguf".into()), q8(&gguf, &other)),
            ErrorKind::InvalidInput,
            "vision tower",
        ),
        (
            "a mixture for the tower",
            with(
                |request| {
                    request.mmproj_output = Some("m.gguf".into());
                    request.mmproj_dtype = QuantType::Q4KM;
                },
                q8(input.path(), &other),
            ),
            ErrorKind::Unsupported,
            "vision tower",
        ),
        (
            "one name for both",
            with(
                |request| {
                    request.dtype = QuantType::Q4_0;
                    request.mmproj_output = Some(request.output.clone());
                },
                q8(input.path(), &other),
            ),
            ErrorKind::InvalidInput,
            "one name",
        ),
        (
            "an embedding type that needs an importance matrix",
            with(|request| request.token_embedding = Some(GgmlType::Iq2Xs), q8(&gguf, &other)),
            ErrorKind::Unsupported,
            "importance matrix",
        ),
    ];
    for (name, request, kind, reason) in cases {
        let error = quantize(&request, &mut |_| {}).expect_err(name);
        assert!(error.kind() == kind && error.to_string().contains(reason), "{name}: {:?}: {error}", error.kind());
        assert_eq!(common::listing(output.path()), before, "{name}");
    }
}

#[test]
fn outputs_that_are_one_file_or_an_input_are_refused_however_they_are_spelled() {
    let input = tempfile::tempdir().expect("temporary directory");
    Synthetic::qwen3vl().write(input.path());
    let before = common::listing(input.path());
    let output = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(output.path().join("sub")).expect("writable");
    let out = |name: &str| output.path().join(name);
    let cases = [
        ("one file by two spellings", out("a.gguf"), Some(out("sub/../a.gguf")), "one name"),
        ("weights", input.path().join("model.safetensors"), None, "a file of the checkpoint"),
        ("configuration", out("a.gguf"), Some(input.path().join("config.json")), "a file of the checkpoint"),
    ];
    for (name, text, tower, reason) in cases {
        for dtype in [QuantType::F16, QuantType::Q4_0] {
            let request =
                QuantizeRequest { mmproj_output: tower.clone(), ..QuantizeRequest::new(input.path(), &text, dtype) };
            let error = quantize(&request, &mut |_| {}).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
            assert!(error.to_string().contains(reason), "{name}: {error}");
        }
    }
    assert_eq!(common::listing(input.path()), before);
    assert_eq!(common::listing(output.path()), ["sub"]);
}

#[test]
fn cancelled_work_leaves_nothing() {
    let input = tempfile::tempdir().expect("temporary directory");
    Synthetic::qwen3vl().write(input.path());
    let output = tempfile::tempdir().expect("temporary directory");
    for dtype in [QuantType::F16, QuantType::Q4_0] {
        let request = QuantizeRequest::new(input.path(), output.path().join("a.gguf"), dtype);
        let mut n_calls = 0;
        let error = quantize(&request, &mut |_| {
            n_calls += 1;
            request.cancel.cancel();
        })
        .expect_err("cancelled");
        assert_eq!((error.kind(), n_calls), (ErrorKind::Cancelled, 1), "{dtype}: {error}");
        assert!(common::listing(output.path()).is_empty(), "{dtype}");
    }
}
