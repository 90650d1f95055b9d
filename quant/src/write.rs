//! Weights from the maps of a checkpoint into a GGUF stream, a piece at a time.

use std::{io::BufWriter, path::Path};

use owlet_runtime::{
    AtomicFile, Error, ErrorKind, Result,
    gguf::{GgmlType, GgufStream, GgufWriter},
    quantize::{TensorChange, dequantize_rows, quantize_rows},
};

use crate::{
    checkpoint::{Checkpoint, Source, SourceType},
    plan::{PlannedTensor, RowOrder},
};

/// Weights in memory at a time, unless one row has more: 16 MiB as `f32`.
const PIECE: usize = 1 << 22;
/// The first number that rounds to infinity as F16.
const F16_OVERFLOW: f32 = 65_520.0;

/// A file that is ready to be written: keys set, tensors declared.
pub(crate) struct FilePlan<'a> {
    checkpoint: &'a Checkpoint,
    writer: GgufWriter,
    tensors: Vec<(PlannedTensor, Source, GgmlType)>,
}

/// A file that is written but has not got its name.
pub(crate) type Unnamed = GgufStream<BufWriter<AtomicFile>>;

impl<'a> FilePlan<'a> {
    /// Finds and checks the sources of `tensors` and declares them, written as `asked`, after the keys in `writer`.
    ///
    /// # Errors
    /// As [`Checkpoint::require`] and [`GgufWriter::declare`].
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        mut writer: GgufWriter,
        tensors: &[PlannedTensor],
        asked: GgmlType,
    ) -> Result<Self> {
        let mut resolved = Vec::new();
        for tensor in tensors {
            let source = checkpoint.require(&tensor.source, &tensor.source_shape)?;
            let dtype = tensor.rule.apply(asked, &tensor.shape);
            writer.declare(&tensor.name, &tensor.shape, dtype)?;
            resolved.push((tensor.clone(), source.clone(), dtype));
        }
        Ok(Self { checkpoint, writer, tensors: resolved })
    }

    /// What happens to each tensor.
    pub(crate) fn changes(&self) -> Vec<TensorChange> {
        let change = |(tensor, source, dtype): &(PlannedTensor, Source, GgmlType)| TensorChange {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            from: source.dtype.ggml(),
            to: *dtype,
            from_bytes: tensor.n_elements() * source.dtype.n_bytes() as u64,
            to_bytes: dtype.tensor_bytes(&tensor.shape).expect("declared with this shape"),
        };
        self.tensors.iter().map(change).collect()
    }

    /// Bytes that [`FilePlan::write`] will read.
    pub(crate) fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(|(tensor, source, _)| tensor.n_elements() * source.dtype.n_bytes() as u64).sum()
    }

    /// Writes the file beside `path`; `progress` is told the bytes read since the last call, and stops by an error.
    ///
    /// # Errors
    /// `Io`; `InvalidFile` for weights that are not finite or too large for F16; those of `progress`.
    pub(crate) fn write(self, path: &Path, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<Unnamed> {
        let mut stream = self.writer.create(path)?;
        for (tensor, source, dtype) in &self.tensors {
            stream.begin(&tensor.name)?;
            let data = self.checkpoint.data(source);
            let mut sink = |bytes: &[u8]| stream.write(bytes).map_err(|error| error.at(path.display()));
            write_rows(&mut sink, tensor, data, source.dtype, *dtype, progress)?;
        }
        Ok(stream)
    }

    /// Writes the header alone and gives the file its full length, without data: enough for a dry run.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn write_header(self, file: &mut std::fs::File, path: &Path) -> Result<()> {
        let n_bytes = self.writer.file_bytes();
        self.writer.start(&mut *file)?;
        file.set_len(n_bytes).map_err(|source| Error::io("cannot write file", path, source))
    }
}

fn write_rows(
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    tensor: &PlannedTensor,
    data: &[u8],
    from: SourceType,
    to: GgmlType,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let block_row = tensor.shape[0] as usize;
    let row_len = match tensor.order {
        RowOrder::Frame { .. } => block_row * tensor.shape[1] as usize,
        RowOrder::Same | RowOrder::Interleaved { .. } => block_row,
    };
    let n_rows = tensor.n_elements() as usize / row_len;
    let row_bytes = row_len * from.n_bytes();
    let piece_rows = (PIECE / row_len).max(1);
    let mut gathered = Vec::new();
    for start in (0..n_rows).step_by(piece_rows) {
        let end = (start + piece_rows).min(n_rows);
        let bytes = match tensor.order {
            RowOrder::Same => &data[start * row_bytes..end * row_bytes],
            order => {
                gathered.clear();
                for row in (start..end).map(|row| order.source_row(row)) {
                    gathered.extend_from_slice(&data[row * row_bytes..(row + 1) * row_bytes]);
                }
                &gathered[..]
            }
        };
        let values = dequantize_rows(from.ggml(), bytes)?;
        check_range(&values, to).map_err(|error| error.at(&tensor.source))?;
        sink(&quantize_rows(to, block_row, &values)?)?;
        progress(bytes.len() as u64)?;
    }
    Ok(())
}

/// A weight that is not a number would make every answer one; infinity is what an overflow to F16 leaves.
fn check_range(values: &[f32], dtype: GgmlType) -> Result<()> {
    let limit = if dtype == GgmlType::F16 { F16_OVERFLOW } else { f32::INFINITY };
    match values.iter().find(|value| value.is_nan() || value.abs() >= limit) {
        Some(value) => {
            let needed = format!("finite weights that {dtype} can hold");
            Err(Error::new(ErrorKind::InvalidFile, "bad weight").got(value).needed(needed))
        }
        None => Ok(()),
    }
}

impl SourceType {
    /// ggml's type of the same layout.
    pub(crate) fn ggml(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::BF16 => GgmlType::BF16,
        }
    }
}
