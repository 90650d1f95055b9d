//! Arguments about what comes with the words of a question: adapters, pictures, instructions.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use owlet::{Adapter, CancelToken, Image, Model, Prompt};

use super::{failure::Result, model::AdapterArg, pictures::PictureArgs};

/// What comes with a question.
#[derive(Args, Debug)]
pub(crate) struct QuestionArgs {
    /// An adapter to apply, with a scale or at full strength; may be repeated
    #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
    pub(crate) adapters: Vec<AdapterArg>,
    /// A picture (PNG, JPEG, WebP, GIF, BMP) for the (first) question; may be repeated. `<image>` in it marks where each goes
    #[arg(long = "image", short, value_name = "FILE")]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) pictures: PictureArgs,
    /// Instructions before the (first) question
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
}

impl QuestionArgs {
    /// The pictures, unless reading them is cancelled.
    pub(crate) fn open_images(&self, cancel: &CancelToken) -> Result<Vec<Image>> {
        self.images.iter().map(|path| self.pictures.open(path, cancel)).collect()
    }

    /// The adapters with their scales.
    pub(crate) fn load_adapters(&self, model: &Model) -> Result<Vec<(Arc<Adapter>, f32)>> {
        self.adapters.iter().map(|adapter| adapter.load(model)).collect()
    }

    /// `text` with `images` behind the instructions.
    pub(crate) fn prompt(&self, text: &str, images: Vec<Image>) -> Result<Prompt> {
        let prompt = Prompt::user(text, images)?;
        Ok(match &self.system {
            Some(system) => prompt.with_system(system),
            None => prompt,
        })
    }
}
