//! Adapters that are none or belong to another model.

use owlet_runtime::{Adapter, ErrorKind};

use super::{
    Case, check,
    common::tiny::{self, N_EMBD},
};

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
            name: "invocation of no tokens",
            edit: |draft| draft.set("adapter.alora.invocation_tokens", Vec::<u32>::new()),
            kind: ErrorKind::InvalidFile,
            says: "adapter.alora.invocation_tokens: got 0 tokens, needed 1 to 256",
        },
        Case {
            name: "invocation as long as a prompt",
            edit: |draft| draft.set("adapter.alora.invocation_tokens", vec![1u32; 257]),
            kind: ErrorKind::InvalidFile,
            says: "got 257 tokens, needed 1 to 256",
        },
        Case {
            name: "invocation of a type that llama.cpp refuses",
            edit: |draft| draft.set("adapter.alora.invocation_tokens", vec![1i32]),
            kind: ErrorKind::InvalidFile,
            says: "got array of i32, needed array of u32",
        },
        Case {
            name: "invocation that is no array",
            edit: |draft| draft.set("adapter.alora.invocation_tokens", 257u32),
            kind: ErrorKind::InvalidFile,
            says: "got u32, needed array of u32",
        },
        Case {
            name: "invocation of negative numbers",
            edit: |draft| draft.set("adapter.alora.invocation_tokens", vec![1, u32::MAX]),
            kind: ErrorKind::InvalidFile,
            says: "needed numbers of tokens",
        },
        Case {
            name: "invocation of another vocabulary",
            edit: |draft| draft.set("adapter.alora.invocation_tokens", vec![1, 1000u32]),
            kind: ErrorKind::Mismatch,
            says: "got token 1000, needed tokens below 262",
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
