//! Arguments that several commands share: which model, with which adapters, and how it samples.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use owlet::{Adapter, CancelToken, DeviceChoice, ErrorKind, Model, ModelOptions, SamplerOptions};

use super::{
    failure::{Result, Teach},
    output::Output,
};

/// A load that takes no longer needs no bar.
const SHORT_LOAD: Duration = Duration::from_millis(500);

/// Which model to load, and how.
#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// The model: a GGUF file
    #[arg(long, short, value_name = "GGUF")]
    pub(crate) model: PathBuf,
    /// Its image projector [default: the `mmproj*.gguf` beside the model]
    #[arg(long, value_name = "GGUF")]
    mmproj: Option<PathBuf>,
    /// Fewest pixels that the model sees of a picture; less is enlarged [default: the projector's own number]
    #[arg(long, value_name = "N")]
    min_pixels: Option<u64>,
    /// Most pixels that the model sees of a picture; more is reduced [default: the projector's own number]
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Where layers are computed: auto, cpu, gpu or a name of `owlet devices`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Layers on the GPU, where one is used [default: all]
    #[arg(long, value_name = "N")]
    gpu_layers: Option<u16>,
    /// Threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
}

impl ModelArgs {
    /// The files that were named.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&*self.model), self.mmproj.as_deref()].into_iter().flatten()
    }

    /// The model; a bar shows the way there where it is long.
    pub(crate) fn load(&self, cancel: &CancelToken, output: Output) -> Result<Model> {
        let options = ModelOptions {
            mmproj: self.mmproj.clone(),
            device: self.device.clone(),
            gpu_layers: self.gpu_layers.map_or(-1, i32::from),
            n_threads: self.threads,
            min_pixels: self.min_pixels,
            max_pixels: self.max_pixels,
            ..ModelOptions::default()
        };
        let (start, mut bar) = (Instant::now(), None);
        let loaded = Model::load_watched(&self.model, &options, cancel, &mut |fraction| {
            if start.elapsed() > SHORT_LOAD {
                let bar = bar.get_or_insert_with(|| output.progress(100, "% loaded"));
                bar.set_position((100.0 * fraction) as u64);
            }
            ControlFlow::Continue(())
        });
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        loaded.hint(ErrorKind::InvalidFile, "the file may be cut short: compare its size with that of its source").hint(
            ErrorKind::Mismatch,
            "model and projector must come from the same checkpoint: name the right one by `--mmproj`",
        )
    }
}

/// An adapter file and how strongly it acts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdapterArg {
    pub(crate) path: PathBuf,
    scale: f32,
}

impl AdapterArg {
    pub(crate) fn load(&self, model: &Model) -> Result<(Arc<Adapter>, f32)> {
        let adapter = Adapter::open(model, &self.path)
            .hint(ErrorKind::Mismatch, "an adapter works only with the model that it was trained over")?;
        Ok((Arc::new(adapter), self.scale))
    }
}

impl std::str::FromStr for AdapterArg {
    type Err = String;

    /// `FILE` or `FILE=SCALE`; what follows the last `=` is a scale only if it is a number.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, scale) = match text.rsplit_once('=') {
            Some((path, scale)) => match scale.parse::<f32>() {
                Ok(scale) if scale.is_finite() => (path, scale),
                Ok(_) => return Err("the scale must be finite".to_owned()),
                Err(_) => (text, 1.0),
            },
            None => (text, 1.0),
        };
        Ok(Self { path: path.into(), scale })
    }
}

/// How the next token is chosen.
#[derive(Args, Debug)]
pub(crate) struct SamplingArgs {
    /// 0 takes the likeliest token every time; 1 samples as the model says
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f32,
    /// Only the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// Only this many of the likeliest tokens; 0 is all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Only tokens at least this probable, relative to the likeliest
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    min_p: f32,
    /// Only tokens whose surprise is nearest to the expected one, of together this probability (locally typical sampling)
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    typical_p: f32,
    /// Divides the logits of the last 64 tokens' repeats; 1 is off
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    repeat_penalty: f32,
    /// Taken once from the logits of tokens among the last 64
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Taken from the logits of tokens as often as they are among the last 64
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// The same seed gives the same tokens
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    pub(crate) fn options(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            ..SamplerOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_may_carry_a_scale() {
        let cases = [
            ("a.gguf", Some(("a.gguf", 1.0))),
            ("a.gguf=0.5", Some(("a.gguf", 0.5))),
            ("a.gguf=-1", Some(("a.gguf", -1.0))),
            ("run=3/a.gguf", Some(("run=3/a.gguf", 1.0))),
            ("run=3/a.gguf=2", Some(("run=3/a.gguf", 2.0))),
            ("a.gguf=inf", None),
        ];
        for (text, expected) in cases {
            let found = text.parse::<AdapterArg>().ok().map(|arg| (arg.path.display().to_string(), arg.scale));
            assert_eq!(found, expected.map(|(path, scale)| (path.to_owned(), scale)), "{text}");
        }
    }
}
