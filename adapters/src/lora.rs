//! Low-rank adapters in memory: what is adapted, the factors A and B of every module, and their gradients.
//!
//! Stands between the training engine, which reads [`LoraWeights`] and fills [`LoraGrads`], the optimizer,
//! which changes the weights, and `file.rs`, which stores them.
//! An adapted linear layer computes `W x + (alpha / rank) * B (A x)` (Hu et al., arXiv 2106.09685, section 4.1), or with
//! `alpha / sqrt(rank)` (rsLoRA, arXiv 2312.03732).
//!
//! Shapes: `A` is `[rank, n_in]`, `B` is `[n_out, rank]`, both row-major: row `i` of `A` is
//! `a[i * n_in..(i + 1) * n_in]`. That is also the memory order of the GGUF tensors `.lora_a` and `.lora_b`.

use std::{collections::BTreeSet, fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, MAX_INVOCATION_TOKENS, Model, Result, TokenId, rng::Rng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A linear layer of a decoder block that an adapter can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Attention output projection.
    O,
    /// Gate of the gated feed-forward layer.
    Gate,
    /// Up projection of the feed-forward layer.
    Up,
    /// Down projection of the feed-forward layer.
    Down,
}

impl Target {
    /// Every target, in the order in which a block uses them.
    pub const ALL: [Target; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The part of the GGUF tensor name between `blk.N.` and `.weight`.
    pub fn tensor_name(self) -> &'static str {
        match self {
            Self::Q => "attn_q",
            Self::K => "attn_k",
            Self::V => "attn_v",
            Self::O => "attn_output",
            Self::Gate => "ffn_gate",
            Self::Up => "ffn_up",
            Self::Down => "ffn_down",
        }
    }

    /// The target that the tensor `blk.N.<name>.weight` is, if it is one.
    pub fn of_tensor(tensor: &str) -> Option<Self> {
        let (block, name) = tensor.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
        block.parse::<u32>().ok()?;
        Self::ALL.into_iter().find(|target| target.tensor_name() == name)
    }

    /// The short name of options and configuration files: `q`, `k`, `v`, `o`, `gate`, `up`, `down`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|target| target.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "unknown LoRA target")
                .got(format!("{text:?}"))
                .needed("one of q, k, v, o, gate, up, down")
        })
    }
}

/// On which tokens an adapter acts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum LoraMode {
    /// On all of them.
    #[default]
    Full,
    /// From its invocation in the prompt on: activated LoRA (aLoRA, arXiv 2504.12397). What comes before is computed by the
    /// base, so its keys and values do not change while the adapter learns.
    Activated {
        /// The tokens whose last occurrence in the prompt invokes the adapter; they are adapted themselves. 1 to
        /// [`MAX_INVOCATION_TOKENS`]; in options, none stand for those by which the model's chat template opens an answer
        /// ([`LoraMode::for_model`]).
        invocation: Vec<TokenId>,
    },
}

impl LoraMode {
    /// The tokens that invoke the adapter; `None` where it acts on everything.
    pub fn invocation(&self) -> Option<&[TokenId]> {
        match self {
            Self::Full => None,
            Self::Activated { invocation } => Some(invocation),
        }
    }

    /// The mode over `model`: an invocation of no tokens becomes what opens an answer in the model's chat template.
    ///
    /// # Errors
    /// As [`Model::generation_prompt`]; [`ErrorKind::Mismatch`] for a token that the model does not have.
    pub fn for_model(&self, model: &Model) -> Result<Self> {
        let Some(invocation) = self.invocation() else { return Ok(Self::Full) };
        let n_vocab = model.info().n_vocab;
        if let Some(token) = invocation.iter().find(|&&token| token as usize >= n_vocab) {
            let error = Error::new(ErrorKind::Mismatch, "invocation of another vocabulary").got(token);
            return Err(error.needed(format!("tokens below {n_vocab}")));
        }
        let invocation = if invocation.is_empty() { model.generation_prompt()? } else { invocation.to_vec() };
        Ok(Self::Activated { invocation })
    }
}

/// Size, strength and place of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank r of the update, 1..=256. Default 16. Memory of adapter, gradients and moments grows with it.
    pub rank: usize,
    /// Strength: the update is multiplied by `alpha / rank`. Finite and positive. Default 32.
    pub alpha: f32,
    /// The linear layers of each block that are adapted. Default all seven.
    pub targets: BTreeSet<Target>,
    /// The tokens that it acts on. Default all.
    #[serde(default)]
    pub mode: LoraMode,
    /// The blocks that are adapted. Default all. Gradients end at the lowest of them: less work for the upper ones alone.
    #[serde(default)]
    pub layers: Option<LayerRange>,
    /// Multiplies the update by `alpha / sqrt(rank)` instead (rsLoRA, arXiv 2312.03732, section 3): what is learned at a
    /// learning rate then depends little on the rank. Default no.
    #[serde(default)]
    pub rank_stabilized: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: Target::ALL.into(),
            mode: LoraMode::Full,
            layers: None,
            rank_stabilized: false,
        }
    }
}

/// Blocks of the decoder, from 0 at the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRange {
    /// The lowest.
    pub first: usize,
    /// The highest, not below the first.
    pub last: usize,
}

impl LayerRange {
    fn contains(self, layer: usize) -> bool {
        (self.first..=self.last).contains(&layer)
    }
}

impl fmt::Display for LayerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for LayerRange {
    type Err = Error;

    /// Reads `FIRST-LAST`.
    fn from_str(text: &str) -> Result<Self> {
        let bounds = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match bounds {
            Some((first, last)) if first <= last => Ok(Self { first, last }),
            _ => Err(Error::new(ErrorKind::InvalidInput, "bad range of layers")
                .got(format!("{text:?}"))
                .needed("FIRST-LAST, such as 12-23")),
        }
    }
}

impl LoraConfig {
    /// The largest rank that is accepted.
    pub const MAX_RANK: usize = 256;

    /// # Errors
    /// [`ErrorKind::InvalidInput`] where rank, alpha, the targets or an invocation are out of their documented range; one of
    /// no tokens is in it, as options have it.
    pub fn validate(&self) -> Result<()> {
        let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
        if !(1..=Self::MAX_RANK).contains(&self.rank) {
            return Err(invalid("LoRA rank out of range").got(self.rank).needed(format!("1..={}", Self::MAX_RANK)));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(invalid("LoRA alpha out of range").got(self.alpha).needed("a finite number above 0"));
        }
        if self.targets.is_empty() {
            return Err(invalid("no LoRA targets").needed("at least one of q, k, v, o, gate, up, down"));
        }
        let invocation = self.mode.invocation().unwrap_or_default();
        if invocation.len() > MAX_INVOCATION_TOKENS || invocation.iter().any(|&token| token < 0) {
            let error = invalid("invocation of an activated adapter").got(format!("{invocation:?}"));
            return Err(error.needed(format!("at most {MAX_INVOCATION_TOKENS} tokens")));
        }
        match self.layers {
            Some(layers) if layers.first > layers.last => {
                Err(invalid("bad range of layers").got(layers).needed("the lowest first"))
            }
            _ => Ok(()),
        }
    }

    /// The factor of `B A`.
    pub fn scaling(&self) -> f32 {
        self.plain_alpha() / self.rank as f32
    }

    /// The alpha of an ordinary adapter of the same strength: what files hold, whose readers divide by the rank.
    pub(crate) fn plain_alpha(&self) -> f32 {
        if self.rank_stabilized { self.alpha * (self.rank as f32).sqrt() } else { self.alpha }
    }
}

/// The factors of one adapted tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// Name of the base tensor, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Width of the layer's input.
    pub n_in: usize,
    /// Width of the layer's output.
    pub n_out: usize,
    /// `[rank, n_in]`, row-major.
    pub a: Vec<f32>,
    /// `[n_out, rank]`, row-major.
    pub b: Vec<f32>,
}

/// An adapter: its configuration and one [`LoraModule`] for every adapted tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraWeights {
    /// Rank, strength and targets, as an adapter file has them: a rank-stabilized strength is an ordinary one here, and the
    /// modules alone tell the layers.
    pub config: LoraConfig,
    /// In the order of the list that [`LoraWeights::init`] got.
    pub modules: Vec<LoraModule>,
}

impl LoraWeights {
    /// A fresh adapter over the tensors `(name, n_in, n_out)` whose name is one of `config.targets`.
    ///
    /// As in PEFT, A is Kaiming-uniform with `a = sqrt(5)`, which is uniform in `±1 / sqrt(n_in)`, and B is zero, so
    /// the adapter changes nothing yet. The numbers of a module depend on `seed` and its name alone.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if the configuration is out of range, [`ErrorKind::Mismatch`] if no tensor is a target or
    /// the range of layers goes beyond the model.
    pub fn init(config: &LoraConfig, tensors: &[(String, usize, usize)], seed: u64) -> Result<Self> {
        config.validate()?;
        let n_layers = tensors.iter().filter_map(|(name, ..)| layer_of(name)).max().map_or(0, |highest| highest + 1);
        if let Some(layers) = config.layers.filter(|layers| layers.last >= n_layers) {
            let error = Error::new(ErrorKind::Mismatch, "the model does not have these layers").got(layers);
            return Err(error.needed(format!("below {n_layers}")));
        }
        let adapted = |name: &str| {
            let is_target = Target::of_tensor(name).is_some_and(|target| config.targets.contains(&target));
            let is_inside = || config.layers.is_none_or(|layers| layer_of(name).is_some_and(|n| layers.contains(n)));
            is_target && is_inside()
        };
        let modules: Vec<_> = tensors
            .iter()
            .filter(|(name, ..)| adapted(name))
            .map(|(name, n_in, n_out)| {
                let bound = 1.0 / (*n_in as f64).sqrt();
                let mut rng = Rng::keyed(&[seed, name_key(name)]);
                let a = (0..config.rank * n_in).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
                LoraModule { name: name.clone(), n_in: *n_in, n_out: *n_out, a, b: vec![0.0; n_out * config.rank] }
            })
            .collect();
        if modules.is_empty() {
            let names: Vec<_> = config.targets.iter().map(|target| target.name()).collect();
            return Err(Error::new(ErrorKind::Mismatch, "the model has no tensor to adapt").needed(names.join(", ")));
        }
        let plain = LoraConfig { alpha: config.plain_alpha(), layers: None, rank_stabilized: false, ..config.clone() };
        Ok(Self { config: plain, modules })
    }

    /// `alpha / rank`, the factor of `B A`.
    pub fn scaling(&self) -> f32 {
        self.config.scaling()
    }

    /// That every module belongs to one of the tensors `(name, n_in, n_out)` and has its widths.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] that names the first module that does not fit.
    pub fn check_fits(&self, tensors: &[(String, usize, usize)]) -> Result<()> {
        for module in &self.modules {
            let mismatch = || Error::new(ErrorKind::Mismatch, "the adapter is of another model").at(&module.name);
            let Some((_, n_in, n_out)) = tensors.iter().find(|(name, ..)| *name == module.name) else {
                return Err(mismatch());
            };
            if (module.n_in, module.n_out) != (*n_in, *n_out) {
                let got = format!("{} to {}", module.n_in, module.n_out);
                return Err(mismatch().got(got).needed(format!("{n_in} to {n_out}")));
            }
        }
        Ok(())
    }

    /// SHA-256 in hexadecimal over all that a file holds of the adapter: rank, strength, invocation, names and values.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update((self.config.rank as u64).to_le_bytes());
        hasher.update(self.config.plain_alpha().to_le_bytes());
        // No adapter is invoked by no tokens, so 0 is the length of a full one's.
        let invocation = self.config.mode.invocation().unwrap_or_default();
        hasher.update((invocation.len() as u64).to_le_bytes());
        invocation.iter().for_each(|token| hasher.update(token.to_le_bytes()));
        for module in &self.modules {
            hasher.update((module.name.len() as u64).to_le_bytes());
            hasher.update(module.name.as_bytes());
            module.a.iter().chain(&module.b).for_each(|value| hasher.update(value.to_le_bytes()));
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Number of trained values, A and B together.
    pub fn n_parameters(&self) -> usize {
        self.modules.iter().map(|module| module.a.len() + module.b.len()).sum()
    }

    /// The trained values in a fixed order: A then B of each module.
    pub fn tensors(&self) -> impl Iterator<Item = &[f32]> {
        self.modules.iter().flat_map(|module| [module.a.as_slice(), module.b.as_slice()])
    }

    /// As [`LoraWeights::tensors`], to be changed.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.modules.iter_mut().flat_map(|module| [module.a.as_mut_slice(), module.b.as_mut_slice()])
    }
}

/// N of a tensor `blk.N.…`.
fn layer_of(tensor: &str) -> Option<usize> {
    tensor.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// FNV-1a: a key that does not change between versions of the standard library.
fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |key, byte| (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Gradients of one module, in the shapes of its A and B.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModuleGrads {
    /// dLoss/dA, `[rank, n_in]`.
    pub a: Vec<f32>,
    /// dLoss/dB, `[n_out, rank]`.
    pub b: Vec<f32>,
}

/// Gradients of a [`LoraWeights`], module by module in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraGrads {
    /// One entry for every module of the weights.
    pub modules: Vec<LoraModuleGrads>,
}

impl LoraGrads {
    /// Zeros in the shapes of `weights`.
    pub fn zeros(weights: &LoraWeights) -> Self {
        let zeros =
            |module: &LoraModule| LoraModuleGrads { a: vec![0.0; module.a.len()], b: vec![0.0; module.b.len()] };
        Self { modules: weights.modules.iter().map(zeros).collect() }
    }

    /// Sets every value to zero and keeps the memory.
    pub fn zero(&mut self) {
        self.tensors_mut().for_each(|tensor| tensor.fill(0.0));
    }

    /// `self += scale * other`; both must belong to the same weights.
    pub fn add_scaled(&mut self, other: &LoraGrads, scale: f32) {
        for (mine, theirs) in self.tensors_mut().zip(other.tensors()) {
            for (value, addend) in mine.iter_mut().zip(theirs) {
                *value += scale * addend;
            }
        }
    }

    /// L2 norm over all values, summed in f64; not finite if any value is not.
    pub fn global_norm(&self) -> f64 {
        self.tensors().flatten().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    }

    /// The gradients in the order of [`LoraWeights::tensors`].
    pub fn tensors(&self) -> impl Iterator<Item = &[f32]> {
        self.modules.iter().flat_map(|module| [module.a.as_slice(), module.b.as_slice()])
    }

    /// As [`LoraGrads::tensors`], to be changed.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.modules.iter_mut().flat_map(|module| [module.a.as_mut_slice(), module.b.as_mut_slice()])
    }
}

#[cfg(test)]
mod tests;
