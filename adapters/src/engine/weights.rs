//! The frozen base: its tensors over the mapped file.

use std::{collections::HashSet, sync::Arc};

use owlet_runtime::{
    Error, ErrorKind, Result,
    ggml::{Backend, Stored},
    gguf::{GgmlType, GgufFile},
};

use super::family::Decoder;
use crate::lora::Target;

/// A linear layer `[n_in] -> [n_out]`.
pub(super) struct Linear {
    /// Name of the tensor, as adapters know it.
    pub name: String,
    /// `[n_in, n_out]`, as the file stores it.
    pub weight: Stored,
    /// `[n_out]`.
    pub bias: Option<Stored>,
}

/// One decoder layer.
pub(super) struct Layer {
    pub attention_norm: Stored,
    pub feed_forward_norm: Stored,
    /// Gains of the norms of queries and keys.
    pub head_norms: Option<(Stored, Stored)>,
    linears: [Linear; Target::ALL.len()],
}

/// All tensors of the base.
pub(super) struct Weights {
    /// `[n_embd, n_vocab]`.
    pub embedding: Stored,
    pub layers: Vec<Layer>,
    pub output_norm: Stored,
    /// Divisors of the rotations' frequencies, `[n_rotated / 2]`, where the file has them.
    pub frequency_factors: Option<Stored>,
    /// `[n_embd, n_vocab]`; the embedding itself where the file ties them.
    pub head: Linear,
}

impl Linear {
    /// Width of the input.
    pub(super) fn n_in(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Width of the output.
    pub(super) fn n_out(&self) -> usize {
        self.weight.shape()[1]
    }
}

impl Layer {
    /// The linear layer that is `target`.
    pub(super) fn linear(&self, target: Target) -> &Linear {
        &self.linears[target as usize]
    }
}

impl Weights {
    /// Maps the tensors of `file`, all of whose shapes are checked here: graphs rely on them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidFile`], [`ErrorKind::Mismatch`] for missing tensors and other shapes,
    /// [`ErrorKind::Unsupported`] for types without arithmetic and for tensors that the engine does not know.
    pub(super) fn map(backend: &mut Backend, file: &Arc<GgufFile>, decoder: &Decoder) -> Result<Self> {
        let mut loader = Loader { backend, file, known: HashSet::new() };
        let (n_embd, n_vocab) = (decoder.n_embd, decoder.n_vocab);
        let embedding = loader.matrix("token_embd.weight", n_embd, n_vocab)?;
        let output_norm = loader.vector("output_norm.weight", n_embd)?;
        let head = match file.tensor("output.weight") {
            Some(_) => loader.linear("output", n_embd, n_vocab)?,
            None => Linear { name: "token_embd.weight".to_owned(), weight: embedding.clone(), bias: None },
        };
        let name = "rope_freqs.weight";
        let frequency_factors = match decoder.frequency_factors && file.tensor(name).is_some() {
            true => Some(loader.vector(name, decoder.rope.n_rotated / 2)?),
            false => None,
        };
        let layers = (0..decoder.n_layers).map(|index| loader.layer(index, decoder)).collect::<Result<_>>()?;
        loader.refuse_unknown()?;
        Ok(Self { embedding, layers, output_norm, frequency_factors, head })
    }
}

struct Loader<'a> {
    backend: &'a mut Backend,
    file: &'a Arc<GgufFile>,
    /// Tensors of the file that were asked for.
    known: HashSet<String>,
}

impl Loader<'_> {
    fn layer(&mut self, index: usize, decoder: &Decoder) -> Result<Layer> {
        let Decoder { n_embd, head_dim, .. } = *decoder;
        let name = |part: &str| format!("blk.{index}.{part}");
        let linears = Target::ALL.map(|target| {
            let (n_in, n_out) = decoder.widths(target);
            self.linear(&name(target.tensor_name()), n_in, n_out)
        });
        let [q, k, v, o, gate, up, down] = linears;
        let head_norms = match decoder.normalised_heads {
            true => Some((
                self.vector(&name("attn_q_norm.weight"), head_dim)?,
                self.vector(&name("attn_k_norm.weight"), head_dim)?,
            )),
            false => None,
        };
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), n_embd)?,
            feed_forward_norm: self.vector(&name("ffn_norm.weight"), n_embd)?,
            head_norms,
            linears: [q?, k?, v?, o?, gate?, up?, down?],
        })
    }

    fn linear(&mut self, name: &str, n_in: usize, n_out: usize) -> Result<Linear> {
        let weight_name = format!("{name}.weight");
        let weight = self.matrix(&weight_name, n_in, n_out)?;
        let bias_name = format!("{name}.bias");
        let bias = match self.file.tensor(&bias_name) {
            Some(_) => Some(self.vector(&bias_name, n_out)?),
            None => None,
        };
        Ok(Linear { name: weight_name, weight, bias })
    }

    fn matrix(&mut self, name: &str, n_in: usize, n_out: usize) -> Result<Stored> {
        let dtype = self.file.require(name, &[n_in as u64, n_out as u64])?.dtype;
        let has_arithmetic = !matches!(
            dtype,
            GgmlType::I8
                | GgmlType::I16
                | GgmlType::I32
                | GgmlType::I64
                | GgmlType::F64
                | GgmlType::Q8_1
                | GgmlType::Q8K
        );
        self.weight(name, dtype, has_arithmetic, "a type of weights")
    }

    fn vector(&mut self, name: &str, n: usize) -> Result<Stored> {
        let dtype = self.file.require(name, &[n as u64])?.dtype;
        self.weight(name, dtype, dtype == GgmlType::F32, "f32")
    }

    fn weight(&mut self, name: &str, dtype: GgmlType, supported: bool, needed: &str) -> Result<Stored> {
        if !supported {
            let error = Error::new(ErrorKind::Unsupported, "tensor type").at(name).at(self.file.path().display());
            return Err(error.got(dtype).needed(needed));
        }
        self.known.insert(name.to_owned());
        self.backend.weight(self.file, name)
    }

    /// A tensor that was not asked for would change what the model computes.
    fn refuse_unknown(&self) -> Result<()> {
        match self.file.tensors().iter().find(|tensor| !self.known.contains(&tensor.name)) {
            None => Ok(()),
            Some(tensor) => Err(Error::new(ErrorKind::Unsupported, "the training engine does not know this tensor")
                .at(&tensor.name)
                .at(self.file.path().display())),
        }
    }
}
