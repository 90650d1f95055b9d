//! Models with random weights: any supported family, shape and mixture, and image encoders for them, as files that llama.cpp and the training engine
//! load like published ones.
//!
//! They answer nonsense at the speed, and in the memory, of the real model of that shape. That is what benches, memory
//! plans and tests of rare combinations need, without a download.
//!
//! 1. [`SynthModel`] says what to write; [`SynthModel::preset`] has published shapes.
//! 2. [`synthesize`] asks llama.cpp's quantizer which type every tensor gets in the mixture, then draws, packs and writes
//!    a few megabytes at a time.
//!
//! A matrix of rows of n weights is uniform with standard deviation `1 / sqrt(n)` (twice that where it makes logits), so
//! activations stay near 1 whatever the depth. Every piece is drawn from a key of seed, tensor and piece: the same request
//! gives the same bytes on any number of threads.

mod model;
mod tower;
mod vocabulary;

use std::{path::Path, thread};

use owlet_runtime::{
    CancelToken, Error, Result,
    gguf::{GgmlType, GgufWriter},
    quantize::{QuantType, QuantizeOptions, TensorChange, plan_quantization, quantize_rows},
    rng::Rng,
};

use self::model::{Role, SynthTensor};
pub use self::{
    model::{Family, SynthModel},
    tower::{SynthTower, synthesize_tower},
};
use crate::report::{FileReport, Progress, Stage};

/// Weights drawn and packed at a time by each thread, unless a row has more: 4 MiB as `f32`.
const PIECE: usize = 1 << 20;

/// How to write the file.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// Type or mixture; default F32.
    pub dtype: QuantType,
    /// Another seed gives other weights. Default 0.
    pub seed: u64,
    /// Threads that draw and pack; 0, the default, is one per core. The bytes do not depend on it.
    pub threads: usize,
    /// Stops the work; the file then does not appear.
    pub cancel: CancelToken,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self { dtype: QuantType::F32, seed: 0, threads: 0, cancel: CancelToken::new() }
    }
}

/// Writes `model` with random weights to `output`, which appears when it is complete; an older file of that name is
/// replaced. Memory stays at a few megabytes a thread beside the vocabulary.
///
/// # Errors
/// `InvalidInput` for a shape that no decoder has; `Io`; `Cancelled`; those of [`plan_quantization`].
pub fn synthesize(
    model: &SynthModel,
    output: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<FileReport> {
    model.validate()?;
    let tensors = model.tensors();
    let changes = types(model, &tensors, options.dtype)?;
    let typed: Vec<_> = tensors.into_iter().zip(&changes).map(|(tensor, change)| (tensor, change.to)).collect();
    write_tensors(header(model, options.dtype), &typed, output, options, progress)?;
    Ok(FileReport::new(output.to_owned(), options.dtype, changes))
}

/// Draws, packs and writes `tensors` behind the keys of `writer`.
fn write_tensors(
    mut writer: GgufWriter,
    tensors: &[(SynthTensor, GgmlType)],
    output: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    for (tensor, dtype) in tensors {
        writer.declare(&tensor.name, &tensor.shape, *dtype)?;
    }
    let n_threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let n_weights: u64 = tensors.iter().map(|(tensor, _)| tensor.shape.iter().product::<u64>()).sum();
    let total_bytes = n_weights * size_of::<f32>() as u64;
    let mut done_bytes = 0;
    let mut stream = writer.create(output)?;
    for (index, (tensor, dtype)) in tensors.iter().enumerate() {
        stream.begin(&tensor.name)?;
        let pieces = Pieces { key: [options.seed, index as u64], tensor, dtype: *dtype };
        for start in (0..pieces.len()).step_by(n_threads) {
            options.cancel.check()?;
            let end = (start + n_threads).min(pieces.len());
            let packed: Vec<Result<Vec<u8>>> = thread::scope(|scope| {
                let workers: Vec<_> = (start..end).map(|piece| scope.spawn(move || pieces.pack(piece))).collect();
                workers.into_iter().map(|worker| worker.join().expect("drawing and packing do not panic")).collect()
            });
            for packed in packed {
                stream.write(&packed?).map_err(|error| error.at(output.display()))?;
            }
            done_bytes += ((end - start) * pieces.n_weights() * size_of::<f32>()) as u64;
            progress(Progress { stage: Stage::Draw, done_bytes: done_bytes.min(total_bytes), total_bytes });
        }
    }
    stream.commit()
}

/// The keys of the file.
fn header(model: &SynthModel, dtype: QuantType) -> GgufWriter {
    let mut writer = GgufWriter::new();
    model.write_keys(&mut writer);
    writer.set("general.file_type", dtype.file_type()).set("general.quantization_version", crate::QUANTIZATION_VERSION);
    vocabulary::write_keys(model, &mut writer);
    writer
}

/// The type of every tensor as llama.cpp's quantizer would choose it, from a header without data.
fn types(model: &SynthModel, tensors: &[SynthTensor], dtype: QuantType) -> Result<Vec<TensorChange>> {
    let mut writer = header(model, QuantType::F32);
    for tensor in tensors {
        writer.declare(&tensor.name, &tensor.shape, GgmlType::F32)?;
    }
    let failed = |source| Error::io("cannot write file", &std::env::temp_dir(), source);
    let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
    let n_bytes = writer.file_bytes();
    writer.start(file.as_file_mut())?;
    file.as_file_mut().set_len(n_bytes).map_err(failed)?;
    plan_quantization(file.path(), &QuantizeOptions::new(dtype))
}

/// The data of a tensor, cut into whole rows.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    key: [u64; 2],
    tensor: &'a SynthTensor,
    dtype: GgmlType,
}

impl Pieces<'_> {
    fn n_rows(&self) -> usize {
        (PIECE / self.tensor.row_len()).max(1)
    }

    /// Weights of a piece; the last one may have fewer.
    fn n_weights(&self) -> usize {
        self.n_rows() * self.tensor.row_len()
    }

    fn len(&self) -> usize {
        self.tensor.n_rows().div_ceil(self.n_rows())
    }

    fn pack(&self, piece: usize) -> Result<Vec<u8>> {
        let row_len = self.tensor.row_len();
        let n_rows = self.n_rows().min(self.tensor.n_rows() - piece * self.n_rows());
        let mut rng = Rng::keyed(&[self.key[0], self.key[1], piece as u64]);
        let (mean, deviation) = match self.tensor.role {
            Role::Matrix => (0.0, (row_len as f64).sqrt().recip()),
            Role::Logits => (0.0, 2.0 * (row_len as f64).sqrt().recip()),
            Role::Gain => (1.0, 0.1),
            Role::Bias => (0.0, 0.1),
            // Llama 3.2's are 1 to 32; so are these.
            Role::Divisor => (16.5, 15.5 / 3f64.sqrt()),
        };
        // A uniform distribution on -1..1 has the variance 1/3.
        let (low, width) = (mean - deviation * 3f64.sqrt(), 2.0 * deviation * 3f64.sqrt());
        let values: Vec<f32> = (0..n_rows * row_len).map(|_| (low + width * rng.uniform()) as f32).collect();
        quantize_rows(self.dtype, row_len, &values).map_err(|error| error.at(&self.tensor.name))
    }
}
