//! The one door: whatever comes in, a model file of the type asked for goes out.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use owlet_runtime::{
    AtomicFile, CancelToken, Error, ErrorKind, Result,
    gguf::{GgmlType, GgufFile},
    quantize::{QuantType, QuantizeOptions, TensorChange, plan_quantization, quantize_file},
};

use crate::{
    convert::{ConversionSource, ConvertOptions, check_outputs, convert, meter},
    plan::direct_type,
    report::{FileReport, Progress, Stage},
};

/// What to quantize, and to what.
#[derive(Clone, Debug)]
pub struct QuantizeRequest {
    /// A Hugging Face directory or a GGUF file.
    pub input: PathBuf,
    /// The GGUF file to write.
    pub output: PathBuf,
    /// The vision tower's GGUF file, from a directory; default none.
    pub mmproj_output: Option<PathBuf>,
    /// Type or mixture of the language model.
    pub dtype: QuantType,
    /// Type of the vision tower: F32, F16, BF16 or Q8_0. Default F16.
    pub mmproj_dtype: QuantType,
    /// Threads of llama.cpp's quantizer; 0, the default, is one per core.
    pub threads: usize,
    /// Type of the embedding, where it is not the output matrix too; by default what the mixture says.
    pub token_embedding: Option<GgmlType>,
    /// Type of the output matrix; by default what the mixture says.
    pub output_tensor: Option<GgmlType>,
    /// Whether tensors of a GGUF input that are quantized already may be quantized again; default false.
    pub allow_requantize: bool,
    /// Only report what would be written; default false.
    pub dry_run: bool,
    /// Stops the work; the files then do not appear. llama.cpp's quantizer cannot be interrupted: it ends first.
    pub cancel: CancelToken,
}

impl QuantizeRequest {
    /// `input` to `output` as `dtype`, everything else by default.
    pub fn new(input: impl Into<PathBuf>, output: impl Into<PathBuf>, dtype: QuantType) -> Self {
        Self {
            input: input.into(),
            output: output.into(),
            mmproj_output: None,
            dtype,
            mmproj_dtype: QuantType::F16,
            threads: 0,
            token_embedding: None,
            output_tensor: None,
            allow_requantize: false,
            dry_run: false,
            cancel: CancelToken::new(),
        }
    }

    fn options(&self) -> QuantizeOptions {
        QuantizeOptions {
            threads: self.threads,
            token_embedding: self.token_embedding,
            output: self.output_tensor,
            allow_requantize: self.allow_requantize,
            ..QuantizeOptions::new(self.dtype)
        }
    }

    /// The type that the converter writes itself, where llama.cpp's rules have nothing to add.
    fn is_direct(&self) -> bool {
        direct_type(self.dtype).is_some() && self.token_embedding.is_none() && self.output_tensor.is_none()
    }
}

/// Result of [`quantize`].
#[derive(Clone, Debug)]
pub struct QuantizeReport {
    /// llama.cpp's name of the architecture: `qwen3vl`.
    pub architecture: String,
    /// The language model.
    pub model: FileReport,
    /// The vision tower, where one was asked for.
    pub mmproj: Option<FileReport>,
}

/// Does what `request` says. Files appear when they are complete; older ones of these names are replaced.
///
/// From a directory to a mixture, the weights go through a temporary GGUF file of their own type beside the output.
///
/// # Errors
/// As [`convert`] and [`quantize_file`]; `InvalidInput` for a vision tower out of a GGUF file; `Cancelled`.
pub fn quantize(request: &QuantizeRequest, progress: &mut dyn FnMut(Progress)) -> Result<QuantizeReport> {
    if !request.input.is_dir() {
        return from_gguf(request, progress);
    }
    if request.dry_run {
        return plan_from_directory(request);
    }
    if request.is_direct() {
        let options = ConvertOptions {
            dtype: request.dtype,
            mmproj_dtype: request.mmproj_dtype,
            cancel: request.cancel.clone(),
            ..ConvertOptions::default()
        };
        let report = convert(&request.input, &request.output, request.mmproj_output.as_deref(), &options, progress)?;
        let architecture = report.architecture.to_owned();
        return Ok(QuantizeReport { architecture, model: report.model, mmproj: report.mmproj });
    }
    from_directory(request, progress)
}

fn from_gguf(request: &QuantizeRequest, progress: &mut dyn FnMut(Progress)) -> Result<QuantizeReport> {
    if let Some(path) = &request.mmproj_output {
        let error = Error::new(ErrorKind::InvalidInput, "a vision tower comes from a checkpoint directory");
        return Err(error.at(path.display()).got(request.input.display()));
    }
    let architecture = GgufFile::open(&request.input)?.str("general.architecture")?.to_owned();
    let changes = if request.dry_run {
        plan_quantization(&request.input, &request.options())?
    } else {
        let (packed, changes) = quantize_stage(&request.input, request, progress)?;
        packed.commit()?;
        changes
    };
    Ok(QuantizeReport {
        architecture,
        model: FileReport::new(request.output.clone(), request.dtype, changes),
        mmproj: None,
    })
}

fn from_directory(request: &QuantizeRequest, progress: &mut dyn FnMut(Progress)) -> Result<QuantizeReport> {
    check_outputs(&request.input, &request.output, request.mmproj_output.as_deref())?;
    let source = ConversionSource::open(&request.input, None)?;
    let model = source.model_plan(source.lossless_dtype()?)?;
    let tower = match &request.mmproj_output {
        Some(path) => Some((path, source.mmproj_plan(request.mmproj_dtype)?)),
        None => None,
    };
    let total_bytes = model.source_bytes() + tower.as_ref().map_or(0, |(_, plan)| plan.source_bytes());
    let originals = model.changes();
    let (scratch, whole) = scratch_file(&request.output)?;
    let mut convert_meter = meter(total_bytes, &request.cancel, progress);
    let tower = match tower {
        Some((path, plan)) => {
            let report = FileReport::new(path.clone(), request.mmproj_dtype, plan.changes());
            Some((report, plan.write(path, &mut convert_meter)?))
        }
        None => None,
    };
    let written = model.write(&whole, &mut convert_meter)?;
    drop(convert_meter);
    written.commit()?;
    let (packed, changes) = quantize_stage(&whole, request, progress)?;
    drop(scratch);
    let mmproj = match tower {
        Some((report, file)) => {
            file.commit()?;
            Some(report)
        }
        None => None,
    };
    // Last, so that where the model is, its tower is too.
    packed.commit()?;
    Ok(QuantizeReport {
        architecture: source.architecture().to_owned(),
        model: FileReport::new(request.output.clone(), request.dtype, from_original(changes, &originals)),
        mmproj,
    })
}

/// llama.cpp's part of the work, from `input`.
fn quantize_stage(
    input: &Path,
    request: &QuantizeRequest,
    progress: &mut dyn FnMut(Progress),
) -> Result<(AtomicFile, Vec<TensorChange>)> {
    request.cancel.check()?;
    quantize_file(input, &request.output, &request.options(), &mut |done_bytes, total_bytes| {
        progress(Progress { stage: Stage::Quantize, done_bytes, total_bytes });
        if request.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// The same as the real run would report, from headers alone.
fn plan_from_directory(request: &QuantizeRequest) -> Result<QuantizeReport> {
    let source = ConversionSource::open(&request.input, None)?;
    let changes = if request.is_direct() {
        source.model_plan(request.dtype)?.changes()
    } else {
        let plan = source.model_plan(source.lossless_dtype()?)?;
        let originals = plan.changes();
        let path = std::env::temp_dir();
        let mut file = tempfile::NamedTempFile::new().map_err(|error| Error::io("cannot write file", &path, error))?;
        let path = file.path().to_owned();
        plan.write_header(file.as_file_mut(), &path)?;
        from_original(plan_quantization(&path, &request.options())?, &originals)
    };
    let mmproj = match &request.mmproj_output {
        Some(path) => {
            let changes = source.mmproj_plan(request.mmproj_dtype)?.changes();
            Some(FileReport::new(path.clone(), request.mmproj_dtype, changes))
        }
        None => None,
    };
    Ok(QuantizeReport {
        architecture: source.architecture().to_owned(),
        model: FileReport::new(request.output.clone(), request.dtype, changes),
        mmproj,
    })
}

/// A directory beside the output that is removed with all it holds, and a file name in it.
fn scratch_file(output: &Path) -> Result<(tempfile::TempDir, PathBuf)> {
    let parent = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let scratch = tempfile::Builder::new().prefix(".owlet-").tempdir_in(parent);
    let scratch = scratch.map_err(|source| Error::io("cannot write file", output, source))?;
    let file = scratch.path().join("whole.gguf");
    Ok((scratch, file))
}

/// Changes counted from the checkpoint's types, not from those of the file in between.
fn from_original(mut changes: Vec<TensorChange>, originals: &[TensorChange]) -> Vec<TensorChange> {
    for change in &mut changes {
        if let Some(original) = originals.iter().find(|original| original.name == change.name) {
            change.from = original.from;
            change.from_bytes = original.from_bytes;
        }
    }
    changes
}
