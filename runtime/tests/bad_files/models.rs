//! Models that contradict themselves.

use owlet_runtime::{
    ErrorKind, InferencePlan, InferenceRequest,
    gguf::{GgmlType, GgufFile},
};

use super::{
    Case, check,
    common::tiny::{self, N_EMBD},
    load,
};

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
fn plans_refuse_what_models_are_refused_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    let mut draft = tiny::model();
    // Products of these do not fit 32 bits.
    for key in ["attention.head_count", "attention.key_length", "attention.value_length", "rope.dimension_count"] {
        draft.set(&format!("qwen3vl.{key}"), 65_536u32);
    }
    let file = GgufFile::open(draft.write(&path)).expect("well formed");
    let refused = [InferencePlan::new(&file, None, &InferenceRequest::default()).err(), load(&path).err()];
    let texts = refused.map(|error| error.expect("refused").to_string());
    assert_eq!(texts[0], texts[1]);

    let file = GgufFile::open(tiny::model().write(&path)).expect("well formed");
    let endless =
        InferenceRequest { n_pictures: usize::MAX, prompt_cache_bytes: usize::MAX, ..InferenceRequest::default() };
    let plan = InferencePlan::new(&file, None, &endless).expect("a plan");
    assert_eq!(plan.peak_bytes(), usize::MAX);
}
