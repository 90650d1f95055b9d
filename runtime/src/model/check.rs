//! The tensors and the vocabulary of a language model file, against its hyperparameters.

use std::collections::{HashMap, HashSet};

use super::hyper::{Architecture, Hyperparameters};
use crate::{
    Error, ErrorKind, Result,
    gguf::{GgmlType, GgufFile, TensorInfo},
};

/// The tensors of a file, struck off as they are checked. llama.cpp takes tensors up by name, so one that nobody checked
/// could be anything.
pub(super) struct Checked<'a> {
    file: &'a GgufFile,
    names: HashSet<String>,
}

impl<'a> Checked<'a> {
    pub(super) fn new(file: &'a GgufFile) -> Self {
        Self { file, names: HashSet::new() }
    }

    pub(super) fn file(&self) -> &'a GgufFile {
        self.file
    }

    /// A tensor of one of `types`.
    pub(super) fn typed(&mut self, name: &str, shape: &[u64], types: &[GgmlType]) -> Result<()> {
        let tensor = self.tensor(name, shape)?;
        if types.contains(&tensor.dtype) {
            return Ok(());
        }
        let names: Vec<_> = types.iter().map(|dtype| dtype.name()).collect();
        Err(wrong_type(tensor, &names.join(" or ")))
    }

    /// A weight matrix: ggml multiplies plain floats and quantized types, but not integers or its own scratch types.
    pub(super) fn matrix(&mut self, name: &str, shape: [u64; 2]) -> Result<()> {
        let tensor = self.tensor(name, &shape)?;
        let plain = matches!(tensor.dtype, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        let scratch = matches!(tensor.dtype, GgmlType::Q8_1 | GgmlType::Q8K);
        let good = plain || (tensor.dtype.is_quantized() && !scratch);
        if good { Ok(()) } else { Err(wrong_type(tensor, "a float or quantized type")) }
    }

    /// A norm or bias, which ggml adds and multiplies as f32 only.
    pub(super) fn vector(&mut self, name: &str, n: u64) -> Result<()> {
        self.typed(name, &[n], &[GgmlType::F32])
    }

    pub(super) fn optional_vector(&mut self, name: &str, n: u64) -> Result<()> {
        if self.file.tensor(name).is_some() { self.vector(name, n) } else { Ok(()) }
    }

    /// Refuses tensors that none of the calls so far named.
    pub(super) fn refuse_others(&self) -> Result<()> {
        match self.file.tensors().iter().find(|tensor| !self.names.contains(&tensor.name)) {
            Some(tensor) => {
                let error = Error::new(ErrorKind::Unsupported, "unknown tensor").at(&tensor.name);
                Err(error.got(format!("{:?}", tensor.shape)).needed("only what the architecture computes with"))
            }
            None => Ok(()),
        }
    }

    fn tensor(&mut self, name: &str, shape: &[u64]) -> Result<&'a TensorInfo> {
        self.names.insert(name.to_owned());
        self.file.require(name, shape)
    }
}

/// Checks every tensor that llama.cpp will read.
///
/// # Errors
/// `InvalidFile` for a missing tensor, `Mismatch` for a wrong shape, `Unsupported` for a type that cannot be multiplied
/// and for a tensor that does not belong to the architecture.
pub(crate) fn check_tensors(file: &GgufFile, hyper: &Hyperparameters, n_vocab: u64) -> Result<()> {
    file.check_alignment()?;
    let n_embd = u64::from(hyper.n_embd);
    let mut checked = Checked::new(file);
    checked.matrix("token_embd.weight", [n_embd, n_vocab])?;
    checked.vector("output_norm.weight", n_embd)?;
    if file.tensor("output.weight").is_some() {
        checked.matrix("output.weight", [n_embd, n_vocab])?;
    }
    match hyper.architecture {
        Architecture::Qwen2 | Architecture::Qwen2Vl => checked.optional_vector("output.bias", n_vocab)?,
        // Llama 3's stretched rotations.
        Architecture::Llama => checked.optional_vector("rope_freqs.weight", u64::from(hyper.head_dim / 2))?,
        Architecture::Qwen3 | Architecture::Qwen3Vl => {}
    }
    (0..hyper.n_layer).try_for_each(|layer| check_layer(hyper, layer, &mut checked))?;
    checked.refuse_others()
}

fn check_layer(hyper: &Hyperparameters, layer: u32, checked: &mut Checked) -> Result<()> {
    let (n_embd, n_ff) = (u64::from(hyper.n_embd), u64::from(hyper.n_ff));
    let n_q = u64::from(hyper.n_head) * u64::from(hyper.head_dim);
    let n_kv = u64::from(hyper.n_head_kv) * u64::from(hyper.head_dim);
    let name = |part: &str| format!("blk.{layer}.{part}");
    for (part, shape) in [
        ("attn_q.weight", [n_embd, n_q]),
        ("attn_k.weight", [n_embd, n_kv]),
        ("attn_v.weight", [n_embd, n_kv]),
        ("attn_output.weight", [n_q, n_embd]),
        ("ffn_gate.weight", [n_embd, n_ff]),
        ("ffn_up.weight", [n_embd, n_ff]),
        ("ffn_down.weight", [n_ff, n_embd]),
    ] {
        checked.matrix(&name(part), shape)?;
    }
    checked.vector(&name("attn_norm.weight"), n_embd)?;
    checked.vector(&name("ffn_norm.weight"), n_embd)?;
    if hyper.architecture.has_qk_norm() {
        checked.vector(&name("attn_q_norm.weight"), u64::from(hyper.head_dim))?;
        checked.vector(&name("attn_k_norm.weight"), u64::from(hyper.head_dim))?;
    }
    for (part, n) in [("attn_q.bias", n_q), ("attn_k.bias", n_kv), ("attn_v.bias", n_kv)] {
        checked.optional_vector(&name(part), n)?;
    }
    if hyper.architecture == Architecture::Llama {
        let biases = [("attn_output", n_embd), ("ffn_gate", n_ff), ("ffn_up", n_ff), ("ffn_down", n_embd)];
        for (part, n) in biases {
            checked.optional_vector(&name(&format!("{part}.bias")), n)?;
        }
    }
    Ok(())
}

fn wrong_type(tensor: &TensorInfo, needed: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "wrong tensor type").at(&tensor.name).got(tensor.dtype).needed(needed)
}

/// Splitting rules that llama.cpp has written out as code. The others go through `std::regex`, which recurses once per
/// character: a long word would end the process by a stack overflow.
const SPLITTERS: [&str; 8] =
    ["gpt-2", "llama3", "llama-v3", "llama-bpe", "qwen2", "deepseek-r1-qwen", "qwen35", "smollm"];

fn check_splitter(file: &GgufFile) -> Result<()> {
    let key = "tokenizer.ggml.pre";
    let name = file.opt_str(key)?.unwrap_or("none");
    if SPLITTERS.contains(&name) {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Unsupported, "unknown text splitting rules").at(key).got(name);
    Err(error.needed(SPLITTERS.join(", ")))
}

/// Checks the tokenizer's tables and returns the number of tokens.
///
/// # Errors
/// `InvalidFile` for missing or contradicting tables, `Unsupported` for another kind of tokenizer.
pub(crate) fn check_vocabulary(file: &GgufFile) -> Result<u64> {
    let kind = file.str("tokenizer.ggml.model")?;
    if !["gpt2", "llama"].contains(&kind) {
        let error = Error::new(ErrorKind::Unsupported, "unknown tokenizer").at("tokenizer.ggml.model");
        return Err(error.got(kind).needed("gpt2 or llama"));
    }
    if kind == "gpt2" {
        check_splitter(file)?;
    }
    let tokens = file.strings("tokenizer.ggml.tokens")?;
    let n_vocab = tokens.len() as u64;
    let invalid = |key: &str| Error::new(ErrorKind::InvalidFile, "wrong metadata").at(key);
    if tokens.is_empty() || tokens.len() > i32::MAX as usize {
        return Err(invalid("tokenizer.ggml.tokens").got(format!("{n_vocab} tokens")).needed("1 to 2^31 - 1"));
    }
    let mut seen = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        // llama.cpp's own replacement for empty tokens, which could collide with a real one.
        let spelling = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.clone() };
        if let Some(first) = seen.insert(spelling, id) {
            let got = format!("{token:?} as {first} and {id}");
            return Err(invalid("tokenizer.ggml.tokens").got(got).needed("different tokens"));
        }
    }
    if kind == "llama"
        && let Some(missing) = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")).find(|name| !seen.contains_key(name))
    {
        // Text that no token spells falls back to its bytes; llama.cpp throws through us when one is not there.
        return Err(invalid("tokenizer.ggml.tokens").got(format!("no {missing}")).needed("a token for every byte"));
    }
    for key in ["tokenizer.ggml.token_type", "tokenizer.ggml.scores"] {
        if let Some(crate::gguf::Value::Array(array)) = file.get(key)
            && array.len() as u64 != n_vocab
        {
            return Err(invalid(key).got(array.len()).needed(format!("{n_vocab}, one for each token")));
        }
    }
    if kind == "gpt2" {
        file.strings("tokenizer.ggml.merges")?;
    }
    for special in ["bos", "eos", "eot", "unknown", "padding"] {
        let key = format!("tokenizer.ggml.{special}_token_id");
        if let Some(id) = file.opt_u32(&key)?
            && u64::from(id) >= n_vocab
        {
            return Err(invalid(&key).got(id).needed(format!("below {n_vocab}")));
        }
    }
    Ok(n_vocab)
}
