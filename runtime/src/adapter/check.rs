//! An adapter file against the model that it claims to change.

use std::collections::BTreeMap;

use super::{
    AdapterInfo,
    invocation::{INVOCATION_KEY, read_invocation},
};
use crate::{
    Error, ErrorKind, Result,
    gguf::{GgmlType, GgufFile, TensorInfo},
    model::TokenId,
};

/// A and B of one weight matrix.
#[derive(Default)]
struct Pair<'a> {
    a: Option<&'a TensorInfo>,
    b: Option<&'a TensorInfo>,
}

/// Keys that llama.cpp reads with getters that end the process on any other type.
const TYPED_KEYS: [(&str, &str); 4] = [
    ("general.type", "string"),
    ("general.architecture", "string"),
    ("adapter.type", "string"),
    ("adapter.lora.alpha", "f32"),
];

/// Matrices of a layer that llama.cpp multiplies together with an adapter's update.
const LAYER_PARTS: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// Checks `file` against the model file `model`; gives its invocation too, if it has one.
///
/// # Errors
/// `InvalidFile`, `Unsupported`, `Mismatch`: see [`super::Adapter::open`].
pub(super) fn check(file: &GgufFile, model: &GgufFile) -> Result<(AdapterInfo, Option<Vec<TokenId>>)> {
    check_kind(file, model)?;
    let key = "adapter.lora.alpha";
    for (key, needed) in TYPED_KEYS {
        file.demand_type(key, needed)?;
    }
    let alpha = file.opt_f32(key)?.unwrap_or(0.0);
    if !(alpha.is_finite() && alpha >= 0.0) {
        let error = Error::new(ErrorKind::InvalidFile, "wrong metadata").at(key);
        return Err(error.got(alpha).needed("a finite number, at least 0"));
    }
    let invocation = read_invocation(file)?;
    check_vocabulary(invocation.as_deref().unwrap_or_default(), model)?;
    file.check_alignment()?;
    let pairs = pair_up(file)?;
    let mut rank = 0;
    for (name, pair) in &pairs {
        rank = rank.max(check_pair(name, pair, model)?);
    }
    let n_params = file.tensors().iter().map(TensorInfo::n_elements).sum();
    Ok((AdapterInfo { rank, alpha, n_modules: pairs.len(), n_params }, invocation))
}

/// An invocation with a token that the model does not have is of another model, and would never be found.
fn check_vocabulary(invocation: &[TokenId], model: &GgufFile) -> Result<()> {
    let n_vocab = model.strings("tokenizer.ggml.tokens")?.len();
    match invocation.iter().find(|&&token| token as usize >= n_vocab) {
        None => Ok(()),
        Some(token) => {
            let error = Error::new(ErrorKind::Mismatch, "adapter is for another model").at(INVOCATION_KEY);
            Err(error.got(format!("token {token}")).needed(format!("tokens below {n_vocab}")))
        }
    }
}

fn check_kind(file: &GgufFile, model: &GgufFile) -> Result<()> {
    let kind = file.opt_str("general.type")?.unwrap_or("model");
    let adapter_kind = file.opt_str("adapter.type")?.unwrap_or("none");
    if kind != "adapter" || adapter_kind != "lora" {
        let error = Error::new(ErrorKind::Unsupported, "not a LoRA adapter");
        return Err(error
            .got(format!("{kind} file, adapter.type {adapter_kind}"))
            .needed("an adapter GGUF of type lora"));
    }
    let (got, needed) = (file.str("general.architecture")?, model.str("general.architecture")?);
    if got != needed {
        let error = Error::new(ErrorKind::Mismatch, "adapter is for another model").at("general.architecture");
        return Err(error.got(got).needed(needed));
    }
    Ok(())
}

fn pair_up(file: &GgufFile) -> Result<BTreeMap<&str, Pair<'_>>> {
    let mut pairs = BTreeMap::<&str, Pair>::new();
    for tensor in file.tensors() {
        if let Some(name) = tensor.name.strip_suffix(".lora_a") {
            pairs.entry(name).or_default().a = Some(tensor);
        } else if let Some(name) = tensor.name.strip_suffix(".lora_b") {
            pairs.entry(name).or_default().b = Some(tensor);
        } else {
            // llama.cpp would skip some of these without a word.
            let error = Error::new(ErrorKind::Unsupported, "unknown tensor in adapter").got(&tensor.name);
            return Err(error.needed("names that end in .lora_a or .lora_b"));
        }
    }
    if pairs.is_empty() {
        return Err(Error::new(ErrorKind::InvalidFile, "adapter changes nothing").got("no tensors"));
    }
    Ok(pairs)
}

/// Checks one pair and returns its rank. In ggml order A is `[n_in, rank]` and B `[rank, n_out]` for a weight of
/// `[n_in, n_out]`; for the token embedding, whose rows are picked, A is `[rank, n_tokens]` and B `[rank, width]`.
fn check_pair(name: &str, pair: &Pair, model: &GgufFile) -> Result<u64> {
    let (Some(a), Some(b)) = (pair.a, pair.b) else {
        let missing = if pair.a.is_none() { "lora_a" } else { "lora_b" };
        return Err(Error::new(ErrorKind::InvalidFile, "incomplete pair in adapter").at(name).needed(missing));
    };
    let Some(weight) = model.tensor(name) else {
        let error = Error::new(ErrorKind::Mismatch, "adapter is for another model").at(name);
        return Err(error.got("a weight that the model does not have"));
    };
    check_target(name, weight, model)?;
    for tensor in [a, b] {
        let good = matches!(tensor.dtype, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        if !good {
            let error = Error::new(ErrorKind::Unsupported, "wrong tensor type").at(&tensor.name);
            return Err(error.got(tensor.dtype).needed("f32, f16 or bf16"));
        }
    }
    let [n_in, n_out] = matrix_shape(weight);
    let [a0, a1] = matrix_shape(a);
    let [rank, b1] = matrix_shape(b);
    let (needed_a, needed_b) = match name {
        "token_embd.weight" => ([rank, n_out], [rank, n_in]),
        _ => ([n_in, rank], [rank, n_out]),
    };
    for (tensor, got, needed) in [(a, [a0, a1], needed_a), (b, [rank, b1], needed_b)] {
        if got != needed || tensor.shape.len() > 2 {
            let error = Error::new(ErrorKind::Mismatch, "adapter does not fit the model").at(&tensor.name);
            return Err(error.got(format!("{:?}", tensor.shape)).needed(format!("{needed:?}")));
        }
    }
    Ok(rank)
}

/// Refuses weights whose update llama.cpp would leave out, or end the process on.
fn check_target(name: &str, weight: &TensorInfo, model: &GgufFile) -> Result<()> {
    let refused = |got: &str, needed: &str| {
        let error = Error::new(ErrorKind::Unsupported, "adapter changes what it cannot").at(name);
        Err(error.got(got).needed(needed))
    };
    if name == "token_embd.weight" {
        // Without a matrix of its own the output multiplies by this one, whose A and B have their roles swapped.
        return match model.tensor("output.weight") {
            Some(_) => Ok(()),
            None => refused("an embedding that is the output matrix too", "a model with an output.weight of its own"),
        };
    }
    let part = name.strip_suffix(".weight").and_then(|name| name.strip_prefix("blk.")?.split_once('.'));
    let is_multiplied = name == "output.weight" || part.is_some_and(|(_, part)| LAYER_PARTS.contains(&part));
    if is_multiplied && weight.shape.len() <= 2 {
        return Ok(());
    }
    refused("a tensor that is not multiplied", &format!("output or one of {} of a layer", LAYER_PARTS.join(", ")))
}

fn matrix_shape(tensor: &TensorInfo) -> [u64; 2] {
    [tensor.shape[0], tensor.n_rows()]
}
