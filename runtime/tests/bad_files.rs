//! Files that are missing, damaged, of another kind or of another model: typed errors that name place, got and needed,
//! and never an abort inside llama.cpp.

mod common;

use std::path::Path;

use common::tiny::{self, Draft, N_EMBD};
use owlet_runtime::{Adapter, ErrorKind, Image, Model, ModelOptions, Prompt, Result, gguf::GgmlType, rng::Rng};

/// One way to break a file, and what must be said about it.
struct Case {
    name: &'static str,
    edit: fn(&mut Draft) -> &mut Draft,
    kind: ErrorKind,
    says: &'static str,
}

fn check<T>(case: &Case, result: Result<T>) {
    let Err(error) = result else { panic!("{}: accepted", case.name) };
    assert_eq!(error.kind(), case.kind, "{}: {error}", case.name);
    assert!(error.to_string().contains(case.says), "{}: {error}", case.name);
}

fn load(path: &Path) -> Result<Model> {
    Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() })
}

#[test]
fn models_that_do_not_hold_together_are_refused() {
    let cases = [
        Case {
            name: "adapter as model",
            edit: |draft| {
                *draft = tiny::adapter();
                draft
            },
            kind: ErrorKind::Unsupported,
            says: "got an adapter, needed a model GGUF",
        },
        Case {
            name: "projector as model",
            edit: |draft| {
                *draft = tiny::mmproj();
                draft
            },
            kind: ErrorKind::Unsupported,
            says: "got an image projector (mmproj)",
        },
        Case {
            name: "vocabulary only",
            edit: |draft| {
                draft.tensors.clear();
                draft
            },
            kind: ErrorKind::Unsupported,
            says: "got a vocabulary without weights",
        },
        Case {
            name: "other architecture",
            edit: |draft| draft.set("general.architecture", "mamba"),
            kind: ErrorKind::Unsupported,
            says: "got mamba, needed llama, qwen2, qwen2vl, qwen3, qwen3vl",
        },
        Case {
            name: "no heads",
            edit: |draft| draft.set("qwen3vl.attention.head_count", 0u32),
            kind: ErrorKind::InvalidFile,
            says: "qwen3vl.attention.head_count: got 0",
        },
        Case {
            name: "no layer count",
            edit: |draft| draft.remove_key("qwen3vl.block_count"),
            kind: ErrorKind::InvalidFile,
            says: "qwen3vl.block_count",
        },
        Case {
            name: "too many layers",
            edit: |draft| draft.set("qwen3vl.block_count", 513u32),
            kind: ErrorKind::InvalidFile,
            says: "got 513, needed 1 to 512",
        },
        Case {
            name: "a layer that is not there",
            edit: |draft| draft.set("qwen3vl.block_count", 3u32),
            kind: ErrorKind::InvalidFile,
            says: "blk.2.attn_q.weight",
        },
        Case {
            name: "experts",
            edit: |draft| draft.set("qwen3vl.expert_count", 4u32),
            kind: ErrorKind::Unsupported,
            says: "qwen3vl.expert_count: got 4, needed 0",
        },
        Case {
            name: "unknown rope scaling",
            edit: |draft| draft.set("qwen3vl.rope.scaling.type", "magic"),
            kind: ErrorKind::Unsupported,
            says: "got magic",
        },
        Case {
            name: "rope sections beyond the head",
            edit: |draft| draft.set("qwen3vl.rope.dimension_sections", vec![8, 8, 8, 0]),
            kind: ErrorKind::InvalidFile,
            says: "sum at most 8",
        },
        Case {
            name: "three rope sections",
            edit: |draft| draft.set("qwen3vl.rope.dimension_sections", vec![3, 3, 2]),
            kind: ErrorKind::InvalidFile,
            says: "got [3, 3, 2], needed 4 counts",
        },
        Case {
            name: "rope sections that turn nothing",
            edit: |draft| draft.set("qwen3vl.rope.dimension_sections", vec![0, 0, 0, 8]),
            kind: ErrorKind::InvalidFile,
            says: "one of the first 3 above 0",
        },
        Case {
            name: "rope factors",
            edit: |draft| draft.set("qwen3vl.rope.scaling.type", "longrope"),
            kind: ErrorKind::Unsupported,
            says: "got longrope, needed none, linear or yarn",
        },
        Case {
            name: "scale that nobody checked",
            edit: |draft| draft.tensor("blk.0.attn_q.scale", &[1]),
            kind: ErrorKind::Unsupported,
            says: "blk.0.attn_q.scale: got [1]",
        },
        Case {
            name: "wrong shape",
            edit: |draft| draft.tensor("blk.1.ffn_up.weight", &[N_EMBD, 32]),
            kind: ErrorKind::Mismatch,
            says: "blk.1.ffn_up.weight: got [32, 32], needed [32, 64]",
        },
        Case {
            name: "missing norm",
            edit: |draft| draft.remove_tensor("blk.0.attn_k_norm.weight"),
            kind: ErrorKind::InvalidFile,
            says: "blk.0.attn_k_norm.weight",
        },
        Case {
            name: "integer weights",
            edit: |draft| {
                draft.remove_tensor("blk.0.attn_q.weight");
                draft.tensors.push(("blk.0.attn_q.weight".into(), vec![N_EMBD, 32], GgmlType::I32));
                draft
            },
            kind: ErrorKind::Unsupported,
            says: "blk.0.attn_q.weight: got i32",
        },
        Case {
            name: "a token twice",
            edit: |draft| {
                let mut tokens: Vec<_> = (0..tiny::N_VOCAB).map(|id| format!("t{id}")).collect();
                tokens[9] = "t3".into();
                draft.set("tokenizer.ggml.tokens", tokens)
            },
            kind: ErrorKind::InvalidFile,
            says: "got \"t3\" as 3 and 9",
        },
        Case {
            name: "vocabulary of another size",
            edit: |draft| {
                draft.set("tokenizer.ggml.tokens", vec!["a".to_owned(), "b".to_owned()]);
                draft.set("tokenizer.ggml.token_type", vec![1, 1]).set("tokenizer.ggml.eos_token_id", 1u32)
            },
            kind: ErrorKind::Mismatch,
            says: "token_embd.weight",
        },
        Case {
            name: "bytes that no token stands for",
            edit: |draft| draft.set("tokenizer.ggml.model", "llama"),
            kind: ErrorKind::InvalidFile,
            says: "tokenizer.ggml.tokens: got no <0x00>",
        },
        Case {
            name: "splitting rules by regular expression",
            edit: |draft| draft.set("tokenizer.ggml.pre", "default"),
            kind: ErrorKind::Unsupported,
            says: "tokenizer.ggml.pre: got default, needed gpt-2",
        },
        Case {
            name: "no splitting rules",
            edit: |draft| draft.remove_key("tokenizer.ggml.pre"),
            kind: ErrorKind::Unsupported,
            says: "tokenizer.ggml.pre: got none",
        },
        Case {
            name: "no tokenizer",
            edit: |draft| draft.remove_key("tokenizer.ggml.tokens"),
            kind: ErrorKind::InvalidFile,
            says: "tokenizer.ggml.tokens",
        },
        Case {
            name: "end token out of range",
            edit: |draft| draft.set("tokenizer.ggml.eos_token_id", 9999u32),
            kind: ErrorKind::InvalidFile,
            says: "tokenizer.ggml.eos_token_id: got 9999, needed below 262",
        },
        Case {
            name: "broken template",
            edit: |draft| draft.set("tokenizer.chat_template", "{% for"),
            kind: ErrorKind::InvalidFile,
            says: "chat template",
        },
        Case {
            name: "one part of several",
            edit: |draft| draft.set("split.count", 3u32),
            kind: ErrorKind::Unsupported,
            says: "got 3 parts",
        },
    ];
    for case in cases {
        let directory = tempfile::tempdir().expect("creates");
        let mut draft = tiny::model();
        (case.edit)(&mut draft);
        let path = draft.write(&directory.path().join("tiny.gguf"));
        let result = load(&path);
        if let Err(error) = &result {
            assert!(error.to_string().contains("tiny.gguf"), "{}: no path in {error}", case.name);
        }
        check(&case, result);
    }
}

#[test]
fn projectors_of_other_models_are_refused() {
    let cases = [
        Case {
            name: "model as projector",
            edit: |draft| {
                *draft = tiny::model();
                draft
            },
            kind: ErrorKind::Unsupported,
            says: "got qwen3vl file, needed an mmproj GGUF",
        },
        Case {
            name: "other family",
            edit: |draft| draft.set("clip.projector_type", "qwen2.5vl_merger"),
            kind: ErrorKind::Mismatch,
            says: "got qwen2.5vl_merger, needed qwen3vl_merger",
        },
        Case {
            name: "other width",
            edit: |draft| draft.tensor("mm.2.weight", &[128, 48]).tensor("mm.2.bias", &[48]),
            kind: ErrorKind::Mismatch,
            says: "mm.2.bias: got width 48, needed 32",
        },
        Case {
            name: "no deepstack",
            edit: |draft| {
                draft.tensors.retain(|(name, _, _)| !name.starts_with("v.deepstack"));
                draft
            },
            kind: ErrorKind::Mismatch,
            says: "deepstack layers: got 0, needed 1",
        },
        Case {
            name: "merge of 4",
            edit: |draft| draft.set("clip.vision.spatial_merge_size", 4u32),
            kind: ErrorKind::InvalidFile,
            says: "spatial_merge_size: got 4, needed 2",
        },
        Case {
            name: "no patch size",
            edit: |draft| draft.set("clip.vision.patch_size", 0u32),
            kind: ErrorKind::InvalidFile,
            says: "clip.vision.patch_size: got 0",
        },
        Case {
            name: "positions that are no square",
            edit: |draft| draft.tensor("v.position_embd.weight", &[32, 15]),
            kind: ErrorKind::InvalidFile,
            says: "got 15 positions",
        },
        Case {
            name: "patch size of another type",
            edit: |draft| draft.set("clip.vision.patch_size", 16u64),
            kind: ErrorKind::InvalidFile,
            says: "clip.vision.patch_size: got u64 16, needed u32",
        },
        Case {
            name: "epsilon of another type",
            edit: |draft| draft.set("clip.vision.attention.layer_norm_epsilon", 1e-6f64),
            kind: ErrorKind::InvalidFile,
            says: "layer_norm_epsilon: got f64, needed f32",
        },
        Case {
            name: "negative epsilon",
            edit: |draft| draft.set("clip.vision.attention.layer_norm_epsilon", -1f32),
            kind: ErrorKind::InvalidFile,
            says: "layer_norm_epsilon: got -1",
        },
        Case {
            name: "name that is a number",
            edit: |draft| draft.set("general.name", 7u32),
            kind: ErrorKind::InvalidFile,
            says: "general.name: got u32 7, needed string",
        },
        Case {
            name: "activation that is a number",
            edit: |draft| draft.set("clip.use_silu", 0u32),
            kind: ErrorKind::InvalidFile,
            says: "clip.use_silu: got u32 0, needed bool",
        },
        Case {
            name: "ears",
            edit: |draft| draft.set("clip.has_audio_encoder", true),
            kind: ErrorKind::Unsupported,
            says: "clip.has_audio_encoder: got true",
        },
        Case {
            name: "width that its weights do not have",
            edit: |draft| draft.set("clip.vision.projection_dim", 48u32),
            kind: ErrorKind::Mismatch,
            says: "clip.vision.projection_dim: got 48, needed 32",
        },
        Case {
            name: "heads of another width",
            edit: |draft| draft.set("clip.vision.attention.head_dim", 8u32),
            kind: ErrorKind::InvalidFile,
            says: "attention.head_dim: got 8, needed 16",
        },
        Case {
            name: "shared keys",
            edit: |draft| draft.set("clip.vision.attention.head_count_kv", 1u32),
            kind: ErrorKind::InvalidFile,
            says: "attention.head_count_kv: got 1, needed 2",
        },
        Case {
            name: "windows",
            edit: |draft| draft.set("clip.vision.n_wa_pattern", 8u32),
            kind: ErrorKind::InvalidFile,
            says: "n_wa_pattern: got 8, needed 0",
        },
        Case {
            name: "class embedding",
            edit: |draft| draft.tensor("v.class_embd", &[32]),
            kind: ErrorKind::Unsupported,
            says: "v.class_embd: got [32]",
        },
        Case {
            name: "gate",
            edit: |draft| draft.tensor("v.blk.0.ffn_gate.weight", &[32, 64]),
            kind: ErrorKind::Unsupported,
            says: "v.blk.0.ffn_gate.weight",
        },
        Case {
            name: "integer kernel",
            edit: |draft| {
                draft.remove_tensor("v.patch_embd.weight");
                draft.tensors.push(("v.patch_embd.weight".into(), vec![16, 16, 3, 32], GgmlType::I32));
                draft
            },
            kind: ErrorKind::Unsupported,
            says: "v.patch_embd.weight: got i32, needed f32 or f16 or bf16",
        },
        Case {
            name: "missing block",
            edit: |draft| draft.remove_tensor("v.blk.1.attn_qkv.weight"),
            kind: ErrorKind::InvalidFile,
            says: "v.blk.1.attn_qkv.weight",
        },
    ];
    for case in cases {
        let directory = tempfile::tempdir().expect("creates");
        let path = tiny::model().write(&directory.path().join("tiny.gguf"));
        let mut draft = tiny::mmproj();
        (case.edit)(&mut draft);
        draft.write(&directory.path().join("mmproj-tiny.gguf"));
        let result = load(&path);
        if let Err(error) = &result {
            assert!(error.to_string().contains("mmproj-tiny.gguf"), "{}: no path in {error}", case.name);
        }
        check(&case, result);
    }
}

#[test]
fn a_projector_for_a_text_model_is_refused() {
    let directory = tempfile::tempdir().expect("creates");
    let mut draft = tiny::model();
    for (key, _) in &mut draft.metadata {
        *key = key.replace("qwen3vl.", "qwen3.");
    }
    draft.set("general.architecture", "qwen3");
    let path = draft.write(&directory.path().join("text.gguf"));
    let mmproj = tiny::mmproj().write(&directory.path().join("mmproj.gguf"));
    assert!(!load(&path).expect("loads without looking for a projector").has_vision());
    let options = ModelOptions { mmproj: Some(mmproj), ..ModelOptions::default() };
    let error = Model::load(&path, &options).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("got qwen3, needed a vision model"), "{error}");
}

/// Windows of 112 pixels hold no merged patch of more than 56: llama.cpp would step by 0 for ever.
#[test]
fn patches_wider_than_the_windows_of_qwen25vl_are_refused() {
    let directory = tempfile::tempdir().expect("creates");
    let mut draft = tiny::model();
    for (key, _) in &mut draft.metadata {
        *key = key.replace("qwen3vl.", "qwen2vl.");
    }
    draft.set("general.architecture", "qwen2vl");
    draft.tensors.retain(|(name, _, _)| !name.contains("q_norm") && !name.contains("k_norm"));
    let path = draft.write(&directory.path().join("windows.gguf"));
    let mut projector = tiny::mmproj();
    projector.set("clip.projector_type", "qwen2.5vl_merger").set("clip.vision.n_wa_pattern", 8u32);
    projector.set("clip.vision.patch_size", 64u32).write(&directory.path().join("mmproj.gguf"));
    let error = load(&path).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidFile);
    assert!(error.to_string().contains("clip.vision.patch_size: got 64, needed 1..=56"), "{error}");
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let cases = [
        Case {
            name: "model as adapter",
            edit: |draft| {
                *draft = tiny::model();
                draft
            },
            kind: ErrorKind::Unsupported,
            says: "needed an adapter GGUF of type lora",
        },
        Case {
            name: "other architecture",
            edit: |draft| draft.set("general.architecture", "llama"),
            kind: ErrorKind::Mismatch,
            says: "got llama, needed qwen3vl",
        },
        Case {
            name: "other width",
            edit: |draft| draft.tensor("blk.0.attn_q.weight.lora_a", &[48, 2]),
            kind: ErrorKind::Mismatch,
            says: "blk.0.attn_q.weight.lora_a: got [48, 2], needed [32, 2]",
        },
        Case {
            name: "ranks that differ",
            edit: |draft| draft.tensor("blk.0.attn_q.weight.lora_b", &[3, 32]),
            kind: ErrorKind::Mismatch,
            says: "blk.0.attn_q.weight.lora_a: got [32, 2], needed [32, 3]",
        },
        Case {
            name: "half a pair",
            edit: |draft| draft.remove_tensor("blk.0.attn_q.weight.lora_b"),
            kind: ErrorKind::InvalidFile,
            says: "blk.0.attn_q.weight: needed lora_b",
        },
        Case {
            name: "more layers",
            edit: |draft| {
                for (half, shape) in [("lora_a", [32, 2]), ("lora_b", [2, 32])] {
                    draft.tensor(&format!("blk.7.attn_q.weight.{half}"), &shape);
                }
                draft
            },
            kind: ErrorKind::Mismatch,
            says: "blk.7.attn_q.weight: got a weight that the model does not have",
        },
        Case {
            name: "foreign tensor",
            edit: |draft| draft.tensor("blk.0.attn_norm.weight", &[32]),
            kind: ErrorKind::Unsupported,
            says: "got blk.0.attn_norm.weight",
        },
        Case {
            name: "alpha that is no number",
            edit: |draft| draft.set("adapter.lora.alpha", f32::NAN),
            kind: ErrorKind::InvalidFile,
            says: "adapter.lora.alpha: got NaN",
        },
        Case {
            name: "alpha of another type",
            edit: |draft| draft.set("adapter.lora.alpha", 4f64),
            kind: ErrorKind::InvalidFile,
            says: "adapter.lora.alpha: got f64, needed f32",
        },
        Case {
            name: "embedding that is the output too",
            edit: |draft| {
                draft.tensor("token_embd.weight.lora_a", &[2, tiny::N_VOCAB]);
                draft.tensor("token_embd.weight.lora_b", &[2, N_EMBD])
            },
            kind: ErrorKind::Unsupported,
            says: "token_embd.weight: got an embedding that is the output matrix too",
        },
        Case {
            name: "norm that no update reaches",
            edit: |draft| {
                draft.tensor("blk.0.attn_norm.weight.lora_a", &[N_EMBD, 1]);
                draft.tensor("blk.0.attn_norm.weight.lora_b", &[1, 1])
            },
            kind: ErrorKind::Unsupported,
            says: "blk.0.attn_norm.weight: got a tensor that is not multiplied",
        },
        Case {
            name: "activated LoRA",
            edit: |draft| draft.set("adapter.alora.invocation_tokens", vec![257u32]),
            kind: ErrorKind::Unsupported,
            says: "aLoRA",
        },
        Case {
            name: "empty",
            edit: |draft| {
                draft.tensors.clear();
                draft
            },
            kind: ErrorKind::InvalidFile,
            says: "changes nothing",
        },
    ];
    let (model, directory) = tiny::load();
    for case in cases {
        let mut draft = tiny::adapter();
        (case.edit)(&mut draft);
        check(&case, Adapter::from_bytes(&model, &draft.bytes()));
        let path = draft.write(&directory.path().join("adapter.gguf"));
        check(&case, Adapter::open(&model, path));
    }
}

#[test]
fn a_message_names_each_place_once() {
    let directory = tempfile::tempdir().expect("creates");
    let path = tiny::model().remove_key("qwen3vl.block_count").write(&directory.path().join("tiny.gguf"));
    let message = load(&path).expect_err("no layers").to_string();
    assert_eq!(message, format!("missing metadata: {}: qwen3vl.block_count", path.display()));
    let path = tiny::model().tensor("output_norm.weight", &[7]).write(&path);
    let message = load(&path).expect_err("too short").to_string();
    let expected = format!("wrong tensor shape: {}: output_norm.weight: got [7], needed [32]", path.display());
    assert_eq!(message, expected);
}

#[test]
fn missing_and_damaged_files_are_refused() {
    let (model, directory) = tiny::load();
    let missing = directory.path().join("nothing.gguf");
    for error in [load(&missing).expect_err("missing"), Adapter::open(&model, &missing).expect_err("missing")] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("nothing.gguf"), "{error}");
    }
    let path = directory.path().join("cut.gguf");
    let bytes = tiny::model().bytes();
    for n in [0, 3, 20, 200, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..n]).expect("writes");
        let error = load(&path).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::InvalidFile, "{n} bytes: {error}");
    }
    std::fs::write(&path, b"<html>404</html>").expect("writes");
    assert!(load(&path).expect_err("text").to_string().contains("GGUF"));
}

/// `draft` as a file that names an alignment of 8 bytes; its data starts at a multiple of 32 only by chance.
fn loosely_aligned(draft: &Draft, padding: usize) -> Vec<u8> {
    let mut draft = draft.clone();
    draft.set("general.alignmen_", 8u32).set("padding", "x".repeat(padding));
    let mut bytes = draft.bytes();
    let key = b"general.alignmen_";
    let at = bytes.windows(key.len()).position(|window| window == key).expect("set");
    bytes[at + key.len() - 1] = b't';
    bytes
}

#[test]
fn data_that_ggml_cannot_map_is_refused() {
    let (model, directory) = tiny::load();
    let path = directory.path().join("tiny.gguf");
    let mmproj = directory.path().join("mmproj-tiny.gguf");
    let mut n_refused = [0; 3];
    for padding in [0, 8, 16, 24] {
        std::fs::write(&path, loosely_aligned(&tiny::model(), padding)).expect("writes");
        let text = load(&path);
        tiny::model().write(&path);
        std::fs::write(&mmproj, loosely_aligned(&tiny::mmproj(), padding)).expect("writes");
        let vision = load(&path);
        tiny::mmproj().write(&mmproj);
        let adapter = Adapter::from_bytes(&model, &loosely_aligned(&tiny::adapter(), padding));
        let errors = [text.err(), vision.err(), adapter.err()];
        for (n, error) in n_refused.iter_mut().zip(errors) {
            let Some(error) = error else { continue };
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("needed a multiple of 32 (general.alignment)"), "{error}");
            *n += 1;
        }
    }
    assert_eq!(n_refused, [3; 3], "of 4 lengths, 8 bytes apart, one is aligned");
}

/// `bytes` with one to four bytes changed, every other time near the start, where the numbers that matter are.
fn corrupted(bytes: &[u8], round: u64) -> Vec<u8> {
    let mut rng = Rng::keyed(&[77, round]);
    let mut corrupt = bytes.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(if round.is_multiple_of(2) { 1500 } else { bytes.len() });
        corrupt[at] = rng.next_u64() as u8;
    }
    corrupt
}

#[test]
fn hundreds_of_corrupted_files_end_in_errors_or_models_but_never_in_an_abort() {
    let (model, directory) = tiny::load();
    let path = directory.path().join("tiny.gguf");
    let mmproj = directory.path().join("mmproj-tiny.gguf");
    let good = [tiny::model().bytes(), tiny::mmproj().bytes(), tiny::adapter().bytes()];
    let picture = Image::from_rgb(64, 64, vec![9; 64 * 64 * 3]).expect("right size");
    let prompt = Prompt::user("What?", vec![picture]).expect("no marks");
    for round in 0..100 {
        let [model_bytes, mmproj_bytes, adapter_bytes] = good.each_ref().map(|bytes| corrupted(bytes, round));
        std::fs::write(&path, &model_bytes).expect("writes");
        std::fs::write(&mmproj, &good[1]).expect("writes");
        if let Ok(model) = load(&path) {
            let mut session = tiny::session(&model, 1, 64);
            let _ = session.prefill(0, &tiny::prompt(&model, "Hello"));
        }
        std::fs::write(&path, &good[0]).expect("writes");
        std::fs::write(&mmproj, &mmproj_bytes).expect("writes");
        if let Ok(model) = load(&path) {
            let _ = model.encode(&prompt);
        }
        let _ = Adapter::from_bytes(&model, &adapter_bytes);
    }
}
