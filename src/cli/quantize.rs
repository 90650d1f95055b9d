//! `owlet quantize`: a Hugging Face directory or a GGUF to a GGUF of another type.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use indicatif::ProgressBar;
use owlet::{
    ErrorKind, QuantType, TensorChange,
    quant::{FileReport, QuantizeRequest, Stage, quantize},
};
use serde::Serialize;

use super::{
    failure::{Result, Teach},
    interrupt,
    output::{self, Output},
};

/// Make a smaller model: a Hugging Face directory or a GGUF becomes a GGUF of the type asked for
#[derive(Args, Debug)]
pub(crate) struct QuantizeArgs {
    /// A directory with config.json, *.safetensors and tokenizer.json, or a GGUF file
    input: PathBuf,
    /// Mixture of the language model: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, ...
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    dtype: QuantType,
    /// File to write [default: NAME-TYPE.gguf in this folder]
    #[arg(long, short, value_name = "GGUF")]
    out: Option<PathBuf>,
    /// Image projector to write, from a directory [default: mmproj-NAME-TYPE.gguf beside the model]
    #[arg(long, value_name = "GGUF")]
    mmproj_out: Option<PathBuf>,
    /// Type of the image projector: F32, F16, BF16 or Q8_0
    #[arg(long, default_value_t = QuantType::F16, value_name = "TYPE")]
    mmproj_type: QuantType,
    /// Quantize tensors that are quantized already, which adds the errors of both
    #[arg(long)]
    allow_requantize: bool,
    /// Threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Only tell what would happen to every tensor
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document about every tensor
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    architecture: &'a str,
    /// False after `--dry-run`.
    written: bool,
    files: Vec<FileEntry<'a>>,
}

#[derive(Debug, Serialize)]
struct FileEntry<'a> {
    path: &'a Path,
    #[serde(rename = "type")]
    dtype: &'static str,
    bits_per_weight: f64,
    bytes_before: u64,
    bytes_after: u64,
    tensors: Vec<TensorEntry<'a>>,
}

#[derive(Debug, Serialize)]
struct TensorEntry<'a> {
    name: &'a str,
    /// Row length first.
    shape: &'a [u64],
    from: &'static str,
    to: &'static str,
    bytes_before: u64,
    bytes_after: u64,
}

pub(crate) fn run(args: &QuantizeArgs, output: Output) -> Result<()> {
    // Whole models lie beside the output while they are converted: a stopped command takes them away.
    let request = QuantizeRequest { cancel: interrupt::cancel_on_signal()?, ..args.request() };
    let mut bar: Option<(Stage, ProgressBar)> = None;
    let done = quantize(&request, &mut |progress| {
        if bar.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            let message = match progress.stage {
                Stage::Convert => "reading the checkpoint",
                _ => "quantizing",
            };
            let fresh = output.byte_progress(progress.total_bytes).with_message(message);
            if let Some((_, finished)) = bar.replace((progress.stage, fresh)) {
                finished.finish_and_clear();
            }
        }
        if let Some((_, bar)) = &bar {
            bar.set_position(progress.done_bytes);
        }
    });
    if let Some((_, bar)) = bar {
        bar.finish_and_clear();
    }
    let report =
        done.hint(ErrorKind::InvalidFile, "the file may be cut short: compare its size with that of its source").hint(
            ErrorKind::NotFound,
            "give a GGUF file, or a directory with config.json, *.safetensors and tokenizer.json",
        )?;
    let files: Vec<&FileReport> = [Some(&report.model), report.mmproj.as_ref()].into_iter().flatten().collect();
    if args.json {
        let files = files.iter().map(|file| FileEntry::new(file)).collect();
        return output.json(&Report { architecture: &report.architecture, written: !args.dry_run, files });
    }
    for file in files {
        if args.dry_run {
            output.data(tensor_table(file))?;
        }
        let (before, after) = (output::bytes(file.bytes_before), output::bytes(file.bytes_after));
        let bits = file.bits_per_weight();
        output.say(format_args!("{}: {before} -> {after} of weights, {bits:.2} bits each", file.dtype));
        if !args.dry_run {
            output.line(file.path.display())?;
        }
    }
    Ok(())
}

impl QuantizeArgs {
    fn request(&self) -> QuantizeRequest {
        let stem = if self.input.is_dir() { self.input.file_name() } else { self.input.file_stem() };
        let name = stem.unwrap_or("model".as_ref()).to_string_lossy();
        let out = self.out.clone().unwrap_or_else(|| format!("{name}-{}.gguf", self.dtype).into());
        let mmproj_out = self.mmproj_out.clone().or_else(|| {
            // Only a directory has a projector to give, and only that of a vision model.
            has_vision(&self.input).then(|| out.with_file_name(format!("mmproj-{name}-{}.gguf", self.mmproj_type)))
        });
        QuantizeRequest {
            mmproj_output: mmproj_out,
            mmproj_dtype: self.mmproj_type,
            threads: self.threads,
            allow_requantize: self.allow_requantize,
            dry_run: self.dry_run,
            ..QuantizeRequest::new(&self.input, out, self.dtype)
        }
    }
}

/// Whether `directory` holds a vision model; what else it holds is checked when it is read.
fn has_vision(directory: &Path) -> bool {
    let config = fs::read(directory.join("config.json")).ok();
    let config = config.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    config.is_some_and(|config| config.get("vision_config").is_some())
}

impl<'a> FileEntry<'a> {
    fn new(file: &'a FileReport) -> Self {
        Self {
            path: &file.path,
            dtype: file.dtype.name(),
            bits_per_weight: file.bits_per_weight(),
            bytes_before: file.bytes_before,
            bytes_after: file.bytes_after,
            tensors: file.tensors.iter().map(TensorEntry::new).collect(),
        }
    }
}

impl<'a> TensorEntry<'a> {
    fn new(tensor: &'a TensorChange) -> Self {
        Self {
            name: &tensor.name,
            shape: &tensor.shape,
            from: tensor.from.name(),
            to: tensor.to.name(),
            bytes_before: tensor.from_bytes,
            bytes_after: tensor.to_bytes,
        }
    }
}

fn tensor_table(file: &FileReport) -> String {
    let heading = ["tensor", "shape", "from", "to", "size"].map(str::to_owned).to_vec();
    let row = |tensor: &TensorChange| {
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        vec![tensor.name.clone(), shape, tensor.from.to_string(), tensor.to.to_string(), output::bytes(tensor.to_bytes)]
    };
    output::table(&std::iter::once(heading).chain(file.tensors.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        args: QuantizeArgs,
    }

    #[test]
    fn files_are_named_after_the_input_so_that_model_and_projector_find_each_other() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let directory = folder.path().join("Owl-2B");
        fs::create_dir(&directory).expect("a writable folder");
        fs::write(directory.join("config.json"), r#"{"vision_config": {}}"#).expect("a writable folder");
        let directory = directory.to_string_lossy().into_owned();
        let cases = [
            (vec![directory.as_str()], "Owl-2B-Q4_K_M.gguf", Some("mmproj-Owl-2B-F16.gguf")),
            (vec![&directory, "-o", "out/a.gguf"], "out/a.gguf", Some("out/mmproj-Owl-2B-F16.gguf")),
            (vec!["there/owl-f16.gguf"], "owl-f16-Q4_K_M.gguf", None),
        ];
        for (arguments, out, mmproj) in cases {
            let words = ["quantize", "--type", "q4_k_m"].into_iter().chain(arguments.iter().copied());
            let request = Parsed::try_parse_from(words).expect("a good command line").args.request();
            assert_eq!(request.output, Path::new(out), "{arguments:?}");
            assert_eq!(request.mmproj_output.as_deref(), mmproj.map(Path::new), "{arguments:?}");
        }
    }
}
