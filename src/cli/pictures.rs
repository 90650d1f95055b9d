//! Arguments about pictures: how their files are read, and what the model gets to see of them.

use std::path::Path;

use clap::{Args, ValueEnum};
use owlet::{Alpha, CancelToken, DecodeOptions, ErrorKind, Image, ImageLimits, ImageOptions, ImagePlan, Model};

use super::{
    failure::{Result, Teach},
    output::Output,
};

/// What a model without projector is told.
const NO_PROJECTOR: &str = "pictures need the model's image projector: name it by `--mmproj`";

/// How pictures are read and shown.
#[derive(Args, Debug)]
pub(crate) struct PictureArgs {
    /// Transparent pixels: as they are stored, which is what Hugging Face's processor does, or laid over white
    #[arg(long, default_value = "drop", value_name = "HOW")]
    alpha: AlphaArg,
    /// Most pixels of a picture file, before the model's own limits; a small file can claim to unpack to gigabytes
    #[arg(long, default_value_t = ImageLimits::default().max_pixels, value_name = "N")]
    max_file_pixels: u64,
    /// Most tokens of all pictures of a question together; they are reduced alike [default: as --max-pixels says of each]
    #[arg(long, value_name = "N")]
    max_image_tokens: Option<usize>,
    /// The answer shall hold places in pictures: warn where the model sees too few tokens of one for boxes
    #[arg(long)]
    grounding: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AlphaArg {
    Drop,
    White,
}

impl PictureArgs {
    /// Reads a picture, unless it is cancelled.
    pub(crate) fn open(&self, path: &Path, cancel: &CancelToken) -> Result<Image> {
        let alpha = match self.alpha {
            AlphaArg::Drop => Alpha::Drop,
            AlphaArg::White => Alpha::OverWhite,
        };
        let limits = ImageLimits { max_pixels: self.max_file_pixels, ..ImageLimits::default() };
        Image::open_until(path, &DecodeOptions { limits, alpha }, cancel).hint(
            ErrorKind::Limit,
            "reduce the picture first, or raise `--max-file-pixels`: the model sees far fewer pixels than this limit",
        )
    }

    /// What the model will see of the pictures of a question, at most `most` tokens of each where memory is short, and what
    /// the person is warned of; `None` without pictures.
    /// `asks_places` declares grounding besides `--grounding`: words of the question are not searched for it.
    pub(crate) fn plan(
        &self,
        model: &Model,
        images: &[Image],
        most: Option<usize>,
        asks_places: bool,
        output: Output,
    ) -> Result<Option<ImagePlan>> {
        if images.is_empty() {
            return Ok(None);
        }
        let sizes: Vec<_> = images.iter().map(|image| (image.width(), image.height())).collect();
        let most = most.zip(model.image_budget()).map(|(n_tokens, budget)| n_tokens as u64 * budget.token_pixels());
        let wanted = ImageOptions {
            min_pixels: most.zip(model.image_budget()).map(|(most, budget)| most.min(budget.min_pixels)),
            max_pixels: most.zip(model.image_budget()).map(|(most, budget)| most.min(budget.max_pixels)),
            max_total_tokens: self.max_image_tokens,
            grounding: self.grounding || asks_places,
            ..ImageOptions::default()
        };
        let plan = model
            .plan_images(&sizes, &wanted)
            .hint(ErrorKind::Unsupported, NO_PROJECTOR)
            .hint(ErrorKind::Limit, "show fewer pictures at once, or raise `--max-image-tokens`")?;
        plan.warnings.iter().for_each(|warning| output.say(format_args!("warning: {warning}")));
        Ok(Some(plan))
    }
}
