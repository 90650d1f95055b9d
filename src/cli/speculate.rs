//! Guessing ahead, as the commands take it.

use std::{ops::ControlFlow, path::PathBuf, str::FromStr};

use clap::Args;
use owlet::{CancelToken, ErrorKind, Model, ModelOptions, SessionOptions, Speculation};

use super::failure::{Result, Teach};

/// Whether tokens are guessed ahead.
#[derive(Args, Debug)]
pub(crate) struct SpeculationArgs {
    /// Guess tokens ahead and check several in one call; the answers stay the same. `ngrams` guesses what followed the same words
    /// before, a smaller model with the same vocabulary what it would say itself
    #[arg(long = "speculate", value_name = "ngrams|GGUF")]
    by: Option<By>,
}

#[derive(Clone, Debug)]
enum By {
    NGrams,
    Model(PathBuf),
}

impl FromStr for By {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "ngrams" { Self::NGrams } else { Self::Model(text.into()) })
    }
}

impl SpeculationArgs {
    /// What guesses, loaded; a model's pictures and layers are left as its file has them.
    pub(crate) fn load(&self, n_threads: usize, cancel: &CancelToken) -> Result<Option<Speculation>> {
        Ok(match &self.by {
            None => None,
            Some(By::NGrams) => Some(Speculation::n_grams()),
            Some(By::Model(path)) => {
                let options = ModelOptions { text_only: true, n_threads, ..ModelOptions::default() };
                let model = Model::load_watched(path, &options, cancel, &mut |_| ControlFlow::Continue(()))
                    .hint(ErrorKind::NotFound, "`--speculate` takes `ngrams` or the file of a smaller model")?;
                Some(Speculation::model(model))
            }
        })
    }
}

/// `options` with room for what `speculation` guesses.
pub(crate) fn with_room(options: SessionOptions, speculation: Option<&Speculation>) -> SessionOptions {
    let n_logits = speculation.map_or(options.n_logits, Speculation::n_logits);
    SessionOptions { n_logits: n_logits.min(options.n_ubatch), ..options }
}

/// As a report tells it: nothing where nothing was guessed.
pub(crate) fn told(n_guessed: u64, n_accepted: u64) -> String {
    if n_guessed == 0 { String::new() } else { format!(", {n_accepted} of {n_guessed} guesses right") }
}
