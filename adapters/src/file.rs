//! Adapter files: GGUF as llama.cpp loads it, with our own keys beside.
//!
//! | key or tensor | value |
//! |---|---|
//! | `general.type` | `adapter` |
//! | `general.architecture` | that of the base model |
//! | `adapter.type` | `lora` |
//! | `adapter.lora.alpha` | f32; the rank follows from the shapes |
//! | `adapter.alora.invocation_tokens` | array of u32, of activated adapters ([`LoraMode::Activated`]) |
//! | `blk.N.<name>.weight.lora_a` | A, ggml shape `[n_in, rank]` |
//! | `blk.N.<name>.weight.lora_b` | B, ggml shape `[rank, n_out]` |
//! | `owlet.adapter.version` | u32, version of the keys below |
//! | `owlet.adapter.base_model` | hash of the base model |
//! | `owlet.adapter.config` | training configuration as JSON text |
//! | `owlet.adapter.step`, `owlet.adapter.seed` | u64 |

use std::{
    io::{BufWriter, IntoInnerError, Write},
    path::Path,
};

use half::f16;
use owlet_runtime::{
    AtomicFile, Error, ErrorKind, INVOCATION_KEY, Result, TokenId,
    gguf::{GgmlType, GgufFile, GgufStream, GgufWriter, TensorInfo},
    read_invocation,
};

use crate::lora::{LoraConfig, LoraMode, LoraModule, LoraWeights, Target};

/// Version of the `owlet.adapter` keys that we write.
const VERSION: u32 = 1;

/// Where an adapter comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Hash of the base model that it was trained over.
    pub base_model: String,
    /// The training configuration as JSON text.
    pub config: String,
    /// Optimizer steps.
    pub step: u64,
    /// Seed of the run.
    pub seed: u64,
}

/// An adapter with what a file says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFile {
    /// GGUF architecture of the base model, such as `qwen3vl`.
    pub architecture: String,
    /// The factors.
    pub weights: LoraWeights,
    /// `None` in files of other programs.
    pub provenance: Option<Provenance>,
}

/// How the factors are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Exactly. The default.
    #[default]
    F32,
    /// Rounded, at half the size.
    F16,
}

impl AdapterFile {
    /// Writes the file beside `path` and renames it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] from the disk; [`ErrorKind::InvalidInput`] for weights that no GGUF file
    /// can hold.
    pub fn write(&self, path: &Path, precision: Precision) -> Result<()> {
        let output = BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?);
        let at_path = |error: Error| error.at(path.display());
        let output = self.stream(precision, output).map_err(at_path)?;
        let failed = |error: IntoInnerError<_>| Error::io("cannot write file", path, error.into_error());
        output.into_inner().map_err(failed)?.commit()
    }

    /// The same file in memory, for `Adapter::from_bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for weights that no GGUF file can hold.
    pub fn to_bytes(&self, precision: Precision) -> Result<Vec<u8>> {
        self.stream(precision, Vec::new())
    }

    fn stream<W: Write>(&self, precision: Precision, output: W) -> Result<W> {
        stream(&self.architecture, &self.weights, self.provenance.as_ref(), precision, output)
    }

    /// Reads a file of this or another program.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidFile`] if it is no LoRA adapter, a factor is missing, the ranks differ or the invocation of an
    /// activated adapter is not one;
    /// [`ErrorKind::Unsupported`] for tensors other than F32, F16 and BF16, for targets that we do not know and for newer
    /// versions of our keys.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&GgufFile::open(path)?)
    }

    /// As [`AdapterFile::open`], from a file that is open.
    ///
    /// # Errors
    /// As [`AdapterFile::open`].
    pub fn read(file: &GgufFile) -> Result<Self> {
        let at_file = |error: Error| error.at(file.path().display());
        for (key, needed) in [("general.type", "adapter"), ("adapter.type", "lora")] {
            let got = file.str(key)?;
            if got != needed {
                let error = Error::new(ErrorKind::InvalidFile, "not a LoRA adapter").at(key);
                return Err(at_file(error.got(format!("{got:?}")).needed(format!("{needed:?}"))));
            }
        }
        let modules = file
            .tensors()
            .iter()
            .filter_map(|tensor| Some((tensor, tensor.name.strip_suffix(".lora_a")?)))
            .map(|(a, name)| module(file, a, name))
            .collect::<Result<Vec<_>>>()
            .map_err(at_file)?;
        let n_tensors = file.tensors().len();
        if modules.is_empty() || n_tensors != 2 * modules.len() {
            let error = Error::new(ErrorKind::InvalidFile, "adapter tensors do not come in pairs");
            let got = format!("{n_tensors} tensors, {} of them .lora_a", modules.len());
            return Err(at_file(error.got(got).needed("a .lora_a and a .lora_b for each module")));
        }
        let config = LoraConfig {
            rank: modules[0].a.len() / modules[0].n_in,
            alpha: file.f32("adapter.lora.alpha")?,
            targets: modules.iter().filter_map(|module| Target::of_tensor(&module.name)).collect(),
            mode: match read_invocation(file).map_err(at_file)? {
                Some(invocation) => LoraMode::Activated { invocation },
                None => LoraMode::Full,
            },
            ..LoraConfig::default()
        };
        config.validate().map_err(at_file)?;
        if let Some(other) = modules.iter().find(|module| module.a.len() != config.rank * module.n_in) {
            let error = Error::new(ErrorKind::InvalidFile, "adapter ranks differ").at(&other.name);
            return Err(at_file(error.got(other.a.len() / other.n_in).needed(config.rank)));
        }
        Ok(Self {
            architecture: file.str("general.architecture")?.to_owned(),
            weights: LoraWeights { config, modules },
            provenance: provenance(file)?,
        })
    }
}

/// Writes the file of an adapter to `output`, without a copy of its weights.
///
/// # Errors
/// As [`AdapterFile::write`].
pub(crate) fn stream<W: Write>(
    architecture: &str,
    weights: &LoraWeights,
    provenance: Option<&Provenance>,
    precision: Precision,
    output: W,
) -> Result<W> {
    let mut stream = layout(architecture, weights, provenance, precision)?.start(output)?;
    stream_tensors(weights, &mut stream, precision)?;
    stream.finish()
}

fn stream_tensors<W: Write>(weights: &LoraWeights, stream: &mut GgufStream<W>, precision: Precision) -> Result<()> {
    for module in &weights.modules {
        for (suffix, values) in [("lora_a", &module.a), ("lora_b", &module.b)] {
            let name = format!("{}.{suffix}", module.name);
            match precision {
                Precision::F32 => stream.write_tensor(&name, bytemuck::cast_slice(values))?,
                Precision::F16 => {
                    let halves: Vec<f16> = values.iter().copied().map(f16::from_f32).collect();
                    stream.write_tensor(&name, bytemuck::cast_slice(&halves))?;
                }
            }
        }
    }
    Ok(())
}

fn layout(
    architecture: &str,
    weights: &LoraWeights,
    provenance: Option<&Provenance>,
    precision: Precision,
) -> Result<GgufWriter> {
    let mut writer = GgufWriter::new();
    writer.set("general.type", "adapter");
    writer.set("general.architecture", architecture);
    writer.set("adapter.type", "lora");
    writer.set("adapter.lora.alpha", weights.config.plain_alpha());
    if let Some(tokens) = weights.config.mode.invocation() {
        writer.set(INVOCATION_KEY, invocation_numbers(weights, tokens)?);
    }
    if let Some(provenance) = provenance {
        writer.set("owlet.adapter.version", VERSION);
        writer.set("owlet.adapter.base_model", provenance.base_model.as_str());
        writer.set("owlet.adapter.config", provenance.config.as_str());
        writer.set("owlet.adapter.step", provenance.step);
        writer.set("owlet.adapter.seed", provenance.seed);
    }
    let dtype = match precision {
        Precision::F32 => GgmlType::F32,
        Precision::F16 => GgmlType::F16,
    };
    let rank = weights.config.rank as u64;
    for module in &weights.modules {
        writer.declare(&format!("{}.lora_a", module.name), &[module.n_in as u64, rank], dtype)?;
        writer.declare(&format!("{}.lora_b", module.name), &[rank, module.n_out as u64], dtype)?;
    }
    Ok(writer)
}

/// `tokens` as the file has them.
fn invocation_numbers(weights: &LoraWeights, tokens: &[TokenId]) -> Result<Vec<u32>> {
    weights.config.validate()?;
    let numbers: Vec<_> = tokens.iter().map(|token| token.unsigned_abs()).collect();
    match numbers.is_empty() {
        true => Err(Error::new(ErrorKind::InvalidInput, "activated adapter without an invocation")),
        false => Ok(numbers),
    }
}

fn module(file: &GgufFile, a: &TensorInfo, name: &str) -> Result<LoraModule> {
    if Target::of_tensor(name).is_none() {
        let error = Error::new(ErrorKind::Unsupported, "unknown adapter target").at(name);
        return Err(error.needed("attention or feed-forward projections blk.N.<name>.weight"));
    }
    let pair = format!("{name}.lora_b");
    let b = file.tensor(&pair).ok_or_else(|| Error::new(ErrorKind::InvalidFile, "missing tensor").at(&pair))?;
    let (&[n_in, rank], &[b_rank, n_out]) = (matrix(a)?, matrix(b)?);
    if rank != b_rank {
        let error = Error::new(ErrorKind::InvalidFile, "the factors do not fit each other").at(&pair);
        return Err(error.got(format!("{:?}", b.shape)).needed(format!("[{rank}, n_out]")));
    }
    let (a, b) = (values(file, a)?, values(file, b)?);
    Ok(LoraModule { name: name.to_owned(), n_in: n_in as usize, n_out: n_out as usize, a, b })
}

/// The two dimensions of a factor; readers may drop a trailing 1.
fn matrix(tensor: &TensorInfo) -> Result<&[u64; 2]> {
    tensor.shape.as_slice().try_into().map_err(|_| {
        let error = Error::new(ErrorKind::InvalidFile, "a factor is not a matrix").at(&tensor.name);
        error.got(format!("{:?}", tensor.shape)).needed("two dimensions")
    })
}

fn values(file: &GgufFile, tensor: &TensorInfo) -> Result<Vec<f32>> {
    let bytes = file.data(tensor);
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match tensor.dtype {
        GgmlType::F32 => {
            Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
        }
        GgmlType::F16 => Ok(pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect()),
        GgmlType::BF16 => Ok(pairs().map(|pair| half::bf16::from_le_bytes(pair).to_f32()).collect()),
        other => {
            let error = Error::new(ErrorKind::Unsupported, "adapter tensor type").at(&tensor.name);
            Err(error.got(other).needed("f32, f16 or bf16"))
        }
    }
}

fn provenance(file: &GgufFile) -> Result<Option<Provenance>> {
    let Some(version) = file.opt_u32("owlet.adapter.version")? else { return Ok(None) };
    if version > VERSION {
        let error = Error::new(ErrorKind::Unsupported, "the adapter is of a newer version").at(file.path().display());
        return Err(error.got(version).needed(format!("at most {VERSION}")));
    }
    let number = |key: &str| {
        let value = file.get(key).and_then(|value| value.as_integer()).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| {
            Error::new(ErrorKind::InvalidFile, "missing or wrong value").at(key).at(file.path().display()).needed("u64")
        })
    };
    Ok(Some(Provenance {
        base_model: file.str("owlet.adapter.base_model")?.to_owned(),
        config: file.str("owlet.adapter.config")?.to_owned(),
        step: number("owlet.adapter.step")?,
        seed: number("owlet.adapter.seed")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> AdapterFile {
        let tensors = [("blk.0.attn_q.weight".to_owned(), 8, 4), ("blk.1.ffn_down.weight".to_owned(), 6, 8)];
        let config = LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::default() };
        let mut weights = LoraWeights::init(&config, &tensors, 3).expect("valid");
        weights.config.targets = [Target::Q, Target::Down].into();
        weights.modules[0].b[5] = 0.123_456_79;
        let provenance = Provenance { base_model: "abc".into(), config: "{}".into(), step: 7, seed: u64::MAX };
        AdapterFile { architecture: "qwen3vl".into(), weights, provenance: Some(provenance) }
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let adapter = adapter();
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("adapter.gguf");
        adapter.write(&path, Precision::F32).expect("written");
        assert_eq!(AdapterFile::open(&path).expect("readable"), adapter);
        let bytes = adapter.to_bytes(Precision::F32).expect("written");
        assert_eq!(bytes, std::fs::read(&path).expect("readable"));

        let mut activated = adapter.clone();
        activated.weights.config.mode = LoraMode::Activated { invocation: vec![3, 0, i32::MAX] };
        let bytes = activated.to_bytes(Precision::F32).expect("written");
        let file = GgufFile::from_bytes(bytes).expect("a GGUF file");
        assert_eq!(file.get("adapter.alora.invocation_tokens"), Some(&vec![3u32, 0, i32::MAX as u32].into()));
        assert_eq!(AdapterFile::read(&file).expect("readable"), activated);
        for invocation in [vec![], vec![-1], vec![1; 300]] {
            activated.weights.config.mode = LoraMode::Activated { invocation };
            let error = activated.to_bytes(Precision::F32).expect_err("no invocation");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }

        let foreign = AdapterFile { provenance: None, ..adapter.clone() };
        let bytes = foreign.to_bytes(Precision::F16).expect("written");
        let read = AdapterFile::read(&GgufFile::from_bytes(bytes).expect("a GGUF file")).expect("readable");
        assert_eq!(read.provenance, None);
        let pairs = read.weights.tensors().flatten().zip(adapter.weights.tensors().flatten());
        for (half, full) in pairs {
            assert!((half - full).abs() <= full.abs() / 2048.0);
        }
    }

    #[test]
    fn files_that_are_no_adapters_are_refused() {
        type Change = fn(&mut GgufWriter);
        let cases: [(&str, ErrorKind, Change); 7] = [
            ("general.type", ErrorKind::InvalidFile, |writer| {
                writer.set("general.type", "model");
            }),
            ("adapter.type", ErrorKind::InvalidFile, |writer| {
                writer.set("adapter.type", "control_vector");
            }),
            ("alpha", ErrorKind::InvalidInput, |writer| {
                writer.set("adapter.lora.alpha", f32::NAN);
            }),
            ("got 0 tokens, needed 1 to 256", ErrorKind::InvalidFile, |writer| {
                writer.set("adapter.alora.invocation_tokens", Vec::<u32>::new());
            }),
            ("needed array of u32", ErrorKind::InvalidFile, |writer| {
                writer.set("adapter.alora.invocation_tokens", vec![1i32]);
            }),
            ("newer", ErrorKind::Unsupported, |writer| {
                writer.set("owlet.adapter.version", 2u32);
            }),
            ("pairs", ErrorKind::InvalidFile, |writer| {
                writer.declare("blk.9.attn_q.weight.lora_b", &[2, 4], GgmlType::F32).expect("a free name");
            }),
        ];
        for (message, kind, change) in cases {
            let adapter = adapter();
            let AdapterFile { architecture, weights, provenance } = &adapter;
            let mut writer = layout(architecture, weights, provenance.as_ref(), Precision::F32).expect("valid");
            change(&mut writer);
            let extra = writer.tensors().len() > 4;
            let mut stream = writer.start(Vec::new()).expect("memory");
            stream_tensors(weights, &mut stream, Precision::F32).expect("memory");
            if extra {
                stream.write_tensor("blk.9.attn_q.weight.lora_b", &[0; 32]).expect("memory");
            }
            let bytes = stream.finish().expect("memory");
            let error = AdapterFile::read(&GgufFile::from_bytes(bytes).expect("a GGUF file")).expect_err("refused");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
