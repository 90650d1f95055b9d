//! Projectors that are none, contradict themselves or belong to another model.

use owlet_runtime::{ErrorKind, Model, ModelOptions, gguf::GgmlType};

use super::{Case, check, common::tiny, load};

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
