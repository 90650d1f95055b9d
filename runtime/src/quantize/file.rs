//! A whole file through llama.cpp's quantizer.

use std::{collections::HashMap, fs, ops::ControlFlow, path::Path, sync::mpsc, thread};

use llama_cpp_sys_2 as sys;

use super::{QuantType, log::Piece};
use crate::{
    AtomicFile, Error, ErrorKind, Result, backend,
    gguf::{GgmlType, GgufFile, TensorInfo},
    model::{c_path, hyper::Hyperparameters},
};

/// Weights that the quantizer keeps in memory at a time: a few rows of the largest matrix would do, this keeps the
/// threads busy and a phone alive.
const BUFFER_BYTES: usize = 256 << 20;

/// Alignment of tensor data that the quantizer writes.
const COPIED_ALIGNMENT: u64 = 32;

/// How the exception of a C++ output stream reads in the log; a full disk is the usual cause.
const WRITE_FAILED: &str = "iostream error";

/// What to make of a file.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// The mixture.
    pub dtype: QuantType,
    /// Threads; 0, the default, is one per core.
    pub threads: usize,
    /// Type of `token_embd.weight`; by default what the mixture says.
    pub token_embedding: Option<GgmlType>,
    /// Type of `output.weight`, or of the embedding where the two are one; by default what the mixture says.
    pub output: Option<GgmlType>,
    /// Whether tensors that are quantized already may be quantized again, which adds the errors; default false.
    pub allow_requantize: bool,
}

impl QuantizeOptions {
    /// The mixture as it is, on all cores.
    pub fn new(dtype: QuantType) -> Self {
        Self { dtype, threads: 0, token_embedding: None, output: None, allow_requantize: false }
    }
}

/// What happens to one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorChange {
    /// Its name.
    pub name: String,
    /// Its shape, row length first.
    pub shape: Vec<u64>,
    /// Its type in the input.
    pub from: GgmlType,
    /// Its type in the output.
    pub to: GgmlType,
    /// Bytes in the input.
    pub from_bytes: u64,
    /// Bytes in the output.
    pub to_bytes: u64,
}

/// Says what [`quantize_file`] would do to each tensor, without doing it. Reads the header only.
///
/// # Errors
/// As [`quantize_file`], as far as they show without looking at the weights.
pub fn plan_quantization(input: &Path, options: &QuantizeOptions) -> Result<Vec<TensorChange>> {
    let source = checked_source(input, options)?;
    let mut current = None;
    let mut types = Vec::new();
    run(input, Path::new(""), options, true, &mut |piece| match piece {
        Piece::Tensor(name) => current = Some(name),
        Piece::Becomes(dtype) => types.extend(current.take().map(|name| (name, Some(dtype)))),
        Piece::Stays => types.extend(current.take().map(|name| (name, None))),
        Piece::Other => {}
    })?;
    let types: HashMap<_, _> = types.into_iter().collect();
    let told = |name: &str| {
        let error = Error::new(ErrorKind::Internal, "the quantizer did not tell what it does to a tensor");
        types.get(name).copied().ok_or_else(|| error.at(name))
    };
    let change = |tensor: &TensorInfo| {
        let to = told(&tensor.name)?.unwrap_or(tensor.dtype);
        let is_repacked = tensor.dtype.is_quantized() && to != tensor.dtype;
        if is_repacked && !options.allow_requantize {
            let error = Error::new(ErrorKind::InvalidInput, "the file is quantized already").at(&tensor.name);
            return Err(error
                .at(input.display())
                .got(tensor.dtype)
                .needed("f32, f16 or bf16 weights, or allow_requantize"));
        }
        // llama.cpp counts rows over three dimensions, and aborts when the sizes then differ.
        if to != tensor.dtype && tensor.shape.get(3).is_some_and(|n| *n > 1) {
            let error = Error::new(ErrorKind::Unsupported, "cannot quantize a tensor of four dimensions");
            return Err(error.at(&tensor.name).at(input.display()).got(format!("{:?}", tensor.shape)));
        }
        Ok(TensorChange {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            from: tensor.dtype,
            to,
            from_bytes: tensor.n_bytes,
            to_bytes: to.tensor_bytes(&tensor.shape).map_err(|error| error.at(&tensor.name))?,
        })
    };
    source.tensors().iter().map(change).collect()
}

/// Quantizes the GGUF model at `input` to `output`, which appears when the caller commits it. `progress` is called as
/// each tensor begins, with the bytes of the input that are done and those in all. llama.cpp cannot be interrupted: when
/// `progress` breaks, it is let run to its end, and the result thrown away.
///
/// # Errors
/// `NotFound`, `Io`, `InvalidFile`, `Unsupported` for the input; `InvalidInput` when input and output are one file or
/// tensors are quantized already and [`QuantizeOptions::allow_requantize`] is off; `Cancelled` when
/// `progress` broke; `Backend` with llama.cpp's reason.
pub fn quantize_file(
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<(AtomicFile, Vec<TensorChange>)> {
    if is_same_file(input, output) {
        let error = Error::new(ErrorKind::InvalidInput, "cannot quantize a file onto itself");
        return Err(error.at(input.display()));
    }
    let plan = plan_quantization(input, options)?;
    let total = plan.iter().map(|change| change.from_bytes).sum();
    let file = AtomicFile::create(output)?;
    let mut done = 0;
    let mut flow = ControlFlow::Continue(());
    run(input, file.temporary_path(), options, false, &mut |piece| {
        if let Piece::Tensor(name) = piece {
            if flow.is_continue() {
                flow = progress(done, total);
            }
            done += plan.iter().find(|change| change.name == name).map_or(0, |change| change.from_bytes);
        }
    })
    .map_err(|error| if error.kind() == ErrorKind::Io { error.at(output.display()) } else { error })?;
    // The quantizer's stream reports a full disk late or never; a file that validates is whole.
    let written = GgufFile::open(file.temporary_path())?;
    for change in &plan {
        let dtype = written.require(&change.name, &change.shape)?.dtype;
        if dtype != change.to {
            let error = Error::new(ErrorKind::Internal, "a tensor was not quantized as planned").at(&change.name);
            return Err(error.got(dtype).needed(change.to));
        }
    }
    drop(written);
    if flow.is_continue() {
        flow = progress(total, total);
    }
    if flow.is_break() {
        return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
    }
    Ok((file, plan))
}

/// Opens the input and refuses what llama.cpp would abort on, which leaves the architectures that Owlet knows.
fn checked_source(input: &Path, options: &QuantizeOptions) -> Result<GgufFile> {
    let source = GgufFile::open(input)?;
    // Of an image projector the quantizer reads the tensors alone.
    if source.str("general.architecture")? != "clip" {
        Hyperparameters::read(&source).map_err(|error| error.at(input.display()))?;
    }
    if source.alignment() != COPIED_ALIGNMENT {
        // llama.cpp would copy the key and then pad the data to 32 bytes whatever it says.
        let error = Error::new(ErrorKind::Unsupported, "cannot quantize a file of this alignment").at(input.display());
        return Err(error.got(source.alignment()).needed(COPIED_ALIGNMENT));
    }
    for dtype in [options.token_embedding, options.output].into_iter().flatten() {
        // Only types that rows can be packed to are offered: the quantizer asserts on the others.
        super::quantize_rows(dtype, dtype.block_size() as usize, &vec![0.0; dtype.block_size() as usize])?;
    }
    Ok(source)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// Calls the quantizer on a thread of its own, so that its log arrives here while it works.
fn run(
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    dry_run: bool,
    on_piece: &mut dyn FnMut(Piece),
) -> Result<()> {
    backend::init()?;
    let n_threads = backend::resolve_threads(options.threads)?;
    let (from, to) = (c_path(input)?, c_path(output)?);
    thread::scope(|scope| {
        let (sender, pieces) = mpsc::channel();
        let worker = scope.spawn(move || {
            backend::listen(sender, || {
                backend::explain("cannot quantize", || {
                    let params = params(options, n_threads, dry_run);
                    // SAFETY: both paths are NUL-terminated; the parameters are llama.cpp's defaults with plain fields
                    // changed, their pointers NULL. Exceptions are caught inside and become a status.
                    let status = unsafe { sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params) };
                    (status == 0).then_some(())
                })
            })
        });
        for text in pieces {
            on_piece(Piece::parse(&text));
        }
        let done = worker.join().expect("the worker calls C code and does not panic");
        done.map_err(|error| match error.to_string().contains(WRITE_FAILED) {
            true => Error::new(ErrorKind::Io, "cannot write file").source(error),
            false => error.at(input.display()),
        })
    })
}

fn params(options: &QuantizeOptions, n_threads: usize, dry_run: bool) -> sys::llama_model_quantize_params {
    // SAFETY: returns a plain struct.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.nthread = n_threads as i32;
    params.ftype = options.dtype.file_type() as sys::llama_ftype;
    params.allow_requantize = options.allow_requantize;
    params.dry_run = dry_run;
    params.max_buf_size = BUFFER_BYTES;
    if let Some(dtype) = options.token_embedding {
        params.token_embedding_type = dtype.id() as sys::ggml_type;
    }
    if let Some(dtype) = options.output {
        params.output_tensor_type = dtype.id() as sys::ggml_type;
    }
    params
}
