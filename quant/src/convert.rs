//! A checkpoint directory to GGUF: the plan for both files, then the files.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result, gguf::GgufWriter, quantize::QuantType};

use crate::{
    QUANTIZATION_VERSION,
    checkpoint::{Checkpoint, SourceType},
    config::{Architecture, Config},
    plan::{PlannedTensor, require_direct},
    report::{ConvertReport, FileReport, Progress, Stage, size_label},
    text,
    tokenizer::Vocabulary,
    vision::{self, Pixels},
    write::FilePlan,
};

/// How to write the files.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Type of the language model's matrices: F32, F16, BF16 or Q8_0. Default F16.
    pub dtype: QuantType,
    /// Type of the vision tower's matrices: the same choice. Default F16.
    pub mmproj_dtype: QuantType,
    /// `general.name`; by default the name of the directory.
    pub name: Option<String>,
    /// Stops the work; the files then do not appear.
    pub cancel: CancelToken,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { dtype: QuantType::F16, mmproj_dtype: QuantType::F16, name: None, cancel: CancelToken::new() }
    }
}

/// Converts the Hugging Face checkpoint in `directory` to a GGUF file at `output` and, for models that see, its vision
/// tower to one at `mmproj_output`. The files appear when both are complete; older ones of these names are replaced.
///
/// Tensors are those of llama.cpp's own converter, byte for byte. Deliberately different: the order of tensors in the
/// file, `general.name`, and the tower's `layer_norm_epsilon`, which is the constant that transformers computes with.
///
/// # Errors
/// `NotFound`, `Io`; `InvalidFile` for files that are broken or incomplete; `Mismatch` where the configuration, the
/// weights and the tokenizer contradict each other; `Unsupported` for another architecture, option or type;
/// `InvalidInput` for `mmproj_output` with a model that does not see and for outputs that are one file or one of the
/// checkpoint's; `Cancelled`.
pub fn convert(
    directory: &Path,
    output: &Path,
    mmproj_output: Option<&Path>,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<ConvertReport> {
    check_outputs(directory, output, mmproj_output)?;
    let source = ConversionSource::open(directory, options.name.clone())?;
    let model = source.model_plan(options.dtype)?;
    let tower = mmproj_output.map(|path| Ok((path, source.mmproj_plan(options.mmproj_dtype)?))).transpose()?;

    let total_bytes = model.source_bytes() + tower.as_ref().map_or(0, |(_, plan)| plan.source_bytes());
    let mut meter = meter(total_bytes, &options.cancel, progress);
    let model_report = FileReport::new(output.to_owned(), options.dtype, model.changes());
    let written_tower = match tower {
        Some((path, plan)) => {
            let report = FileReport::new(path.to_owned(), options.mmproj_dtype, plan.changes());
            Some((report, plan.write(path, &mut meter)?))
        }
        None => None,
    };
    let written_model = model.write(output, &mut meter)?;
    let mmproj = match written_tower {
        Some((report, file)) => {
            file.commit()?;
            Some(report)
        }
        None => None,
    };
    // Last, so that where the model is, its tower is too.
    written_model.commit()?;
    Ok(ConvertReport { architecture: source.architecture(), model: model_report, mmproj })
}

/// Turns bytes read into progress, and into `Cancelled` when `cancel` says so.
pub(crate) fn meter(
    total_bytes: u64,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(Progress),
) -> impl FnMut(u64) -> Result<()> {
    let mut done_bytes = 0;
    move |n_bytes| {
        done_bytes += n_bytes;
        progress(Progress { stage: Stage::Convert, done_bytes, total_bytes });
        cancel.check()
    }
}

/// Refuses outputs that are one file, however they are spelled, or a file in the folder of the checkpoint `directory`
/// that the conversion reads.
///
/// # Errors
/// `InvalidInput`.
pub(crate) fn check_outputs(directory: &Path, output: &Path, mmproj_output: Option<&Path>) -> Result<()> {
    let target = real_target(output);
    if mmproj_output.is_some_and(|path| real_target(path) == target) {
        return Err(Error::new(ErrorKind::InvalidInput, "both files have one name").at(output.display()));
    }
    let folder = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    for path in [Some(output), mmproj_output].into_iter().flatten() {
        let target = real_target(path);
        let is_source = target.parent() == Some(&folder)
            && target.extension().is_none_or(|extension| extension != "gguf")
            && target.exists();
        if is_source {
            let error = Error::new(ErrorKind::InvalidInput, "the output is a file of the checkpoint");
            return Err(error.at(path.display()).needed("a GGUF file"));
        }
    }
    Ok(())
}

/// Where a file of this name comes to be: links in the folder's path are followed, the last name is replaced.
fn real_target(path: &Path) -> PathBuf {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// A checkpoint whose configuration and tensor names are known to fit.
pub(crate) struct ConversionSource {
    checkpoint: Checkpoint,
    config: Config,
    name: String,
    text_tensors: Vec<PlannedTensor>,
    vision_tensors: Vec<PlannedTensor>,
}

impl ConversionSource {
    pub(crate) fn open(directory: &Path, name: Option<String>) -> Result<Self> {
        let checkpoint = Checkpoint::open(directory)?;
        let config = Config::read(&checkpoint.config).map_err(|error| error.at(directory.display()))?;
        let text_tensors = text::tensors(&config, &checkpoint);
        let vision_tensors = match &config.vision {
            Some(tower) => vision::tensors(tower, &config.text),
            None => Vec::new(),
        };
        let name = name.unwrap_or_else(|| directory_name(directory));
        let source = Self { checkpoint, config, name, text_tensors, vision_tensors };
        source.check_leftovers()?;
        Ok(source)
    }

    /// llama.cpp's name of the architecture.
    pub(crate) fn architecture(&self) -> &'static str {
        self.config.architecture.name()
    }

    /// The plain type that holds the weights as they are, F32 where the checkpoint mixes types.
    pub(crate) fn lossless_dtype(&self) -> Result<QuantType> {
        let mut types = Vec::new();
        for tensor in &self.text_tensors {
            types.push(self.checkpoint.require(&tensor.source, &tensor.source_shape)?.dtype);
        }
        Ok(if types.iter().all(|dtype| *dtype == SourceType::BF16) {
            QuantType::BF16
        } else if types.iter().all(|dtype| *dtype == SourceType::F16) {
            QuantType::F16
        } else {
            QuantType::F32
        })
    }

    /// The language model as it will be written.
    pub(crate) fn model_plan(&self, dtype: QuantType) -> Result<FilePlan<'_>> {
        let asked = require_direct(dtype, "a converted model")?;
        // The shape of the embedding bounds the vocabulary, so the weights are checked before it is read.
        FilePlan::new(&self.checkpoint, GgufWriter::new(), &self.text_tensors, asked)?;
        let vocabulary =
            Vocabulary::read(&self.checkpoint.directory, &self.checkpoint.config, self.config.text.n_vocab)?;
        let mut writer = self.general_keys(self.architecture(), "model", dtype, &self.text_tensors);
        text::write_keys(&self.config, &mut writer);
        vocabulary.write(&mut writer, self.config.architecture == Architecture::Llama);
        FilePlan::new(&self.checkpoint, writer, &self.text_tensors, asked)
    }

    /// The vision tower as it will be written.
    pub(crate) fn mmproj_plan(&self, dtype: QuantType) -> Result<FilePlan<'_>> {
        let Some(tower) = &self.config.vision else {
            let error = Error::new(ErrorKind::InvalidInput, "the model has no vision tower");
            return Err(error.at(self.checkpoint.directory.display()).got(self.architecture()));
        };
        let asked = require_direct(dtype, "a vision tower")?;
        let pixels = Pixels::read(&self.checkpoint.directory)?;
        let mut writer = self.general_keys("clip", "mmproj", dtype, &self.vision_tensors);
        vision::write_keys(tower, &self.config.text, pixels, &mut writer);
        FilePlan::new(&self.checkpoint, writer, &self.vision_tensors, asked)
    }

    fn general_keys(&self, architecture: &str, kind: &str, dtype: QuantType, tensors: &[PlannedTensor]) -> GgufWriter {
        let n_weights = tensors.iter().map(PlannedTensor::n_elements).sum();
        let mut writer = GgufWriter::new();
        writer
            .set("general.architecture", architecture)
            .set("general.type", kind)
            .set("general.name", self.name.as_str())
            .set("general.size_label", size_label(n_weights))
            .set("general.file_type", dtype.file_type())
            .set("general.quantization_version", QUANTIZATION_VERSION);
        writer
    }

    /// A tensor that nothing asked for means that the model computes something which the GGUF file would not say.
    fn check_leftovers(&self) -> Result<()> {
        let tensors = self.text_tensors.iter().chain(&self.vision_tensors);
        let known: HashSet<_> = tensors.map(|tensor| tensor.source.as_str()).collect();
        // Old checkpoints keep the rotary frequencies, and tied ones a second name of the embedding.
        let is_redundant = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight";
        match self.checkpoint.names().find(|name| !known.contains(name) && !is_redundant(name)) {
            Some(name) => {
                let what = format!("the checkpoint has a tensor that {} does not have", self.architecture());
                let error = Error::new(ErrorKind::Unsupported, what).at(name);
                Err(error.at(self.checkpoint.directory.display()))
            }
            None => Ok(()),
        }
    }
}

fn directory_name(directory: &Path) -> String {
    let absolute = directory.canonicalize().unwrap_or_else(|_| PathBuf::from(directory));
    absolute.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
