//! Arguments that several commands share: which model, with which adapters, and how it samples.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use owlet::{Adapter, ErrorKind, Model, ModelOptions, SamplerOptions};

use super::failure::{Result, Teach};

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
    /// Threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
}

impl ModelArgs {
    /// The files that were named.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&*self.model), self.mmproj.as_deref()].into_iter().flatten()
    }

    pub(crate) fn load(&self) -> Result<Model> {
        let options = ModelOptions {
            mmproj: self.mmproj.clone(),
            n_threads: self.threads,
            min_pixels: self.min_pixels,
            max_pixels: self.max_pixels,
            ..ModelOptions::default()
        };
        Model::load(&self.model, &options)
            .hint(ErrorKind::InvalidFile, "the file may be cut short: compare its size with that of its source")
            .hint(
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
