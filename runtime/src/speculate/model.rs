//! Guesses of a smaller model.

use std::sync::Arc;

use crate::{
    Error, ErrorKind, Result,
    answer::{Draft, Writer},
    cancel::CancelToken,
    model::{Model, TokenId},
    plan::{InferencePlan, InferenceRequest},
    prompt::{EncodedPrompt, ImageEmbedding, Segment},
    session::{Session, SessionOptions},
};

/// The sequence that is used.
const SEQ: usize = 0;

/// A session of the smaller model.
pub(crate) struct ModelDrafter {
    session: Session,
    /// What its sequence holds.
    held: EncodedPrompt,
}

/// The session of the draft `model` beside one of `options`, which is all that the budget of that one counts.
fn draft_options(model: &Model, options: &SessionOptions) -> SessionOptions {
    let n_ctx = options.n_ctx.min(model.info().n_ctx_train);
    SessionOptions { n_ctx, n_seq: 1, n_logits: 1, memory_budget: None, ..*options }
}

/// See [`super::Speculation::memory_bytes`].
pub(super) fn memory_bytes(model: &Model, options: &SessionOptions) -> Result<usize> {
    let session = draft_options(model, options);
    let request = InferenceRequest { session, n_pictures: 0, max_image_tokens: 0, ..InferenceRequest::default() };
    Ok(InferencePlan::of_model(model, &request)?.peak_bytes())
}

impl ModelDrafter {
    /// Guesses for `session`, by as many threads and with keys and values of the same kind.
    ///
    /// # Errors
    /// `Mismatch` for another vocabulary; those of [`Session::new`].
    pub(super) fn new(model: &Model, session: &Session) -> Result<Self> {
        let target = session.model();
        const TOKENS: &str = "tokenizer.ggml.tokens";
        if model.gguf().strings(TOKENS)? != target.gguf().strings(TOKENS)? {
            let error =
                Error::new(ErrorKind::Mismatch, "draft model has another vocabulary").at(model.path().display());
            let n_tokens = |model: &Model| format!("{} tokens", model.info().n_vocab);
            return Err(error.got(n_tokens(model)).needed(format!(
                "the {} of {}",
                n_tokens(target),
                target.path().display()
            )));
        }
        let options = draft_options(model, session.options());
        Ok(Self { session: Session::new(model, &options)?, held: EncodedPrompt::default() })
    }

    pub(super) fn set_cancel(&mut self, cancel: &CancelToken) {
        self.session.set_cancel(cancel.clone());
    }

    /// At most `n` tokens that this model picks after `prompt` and `draft`, by the options and random numbers of `writer`: two
    /// models that agree pick the same token by the same number. None where they do not fit its context.
    pub(super) fn guess(
        &mut self,
        prompt: &EncodedPrompt,
        writer: &mut Writer,
        draft: &Draft,
        n: usize,
    ) -> Result<Vec<TokenId>> {
        let mut wanted = self.readable(prompt);
        draft.tokens().iter().for_each(|&token| wanted.push_token(token));
        let n_wanted = wanted.n_tokens();
        if n == 0 || n_wanted + n > self.session.options().n_ctx {
            return Ok(Vec::new());
        }
        // The last token at least is computed, for the logits.
        let n_common = self.held.common_beginning(&wanted).min(n_wanted - 1);
        let (beginning, rest) = wanted.split_at(n_common);
        self.session.cut_back(SEQ, &beginning);
        self.held = beginning;
        self.session.prefill(SEQ, &rest)?;
        self.held = wanted;
        let mut guesses: Vec<TokenId> = Vec::with_capacity(n);
        loop {
            let token = writer.guess(draft, &guesses, self.session.logits(SEQ)?)?;
            guesses.push(token);
            if guesses.len() == n || self.session.model().is_eog(token) {
                return Ok(guesses);
            }
            self.session.decode(&[(SEQ, token)])?;
            self.held.push_token(token);
        }
    }

    /// `prompt` without the pictures that this model cannot see.
    fn readable(&self, prompt: &EncodedPrompt) -> EncodedPrompt {
        let model = self.session.model();
        let is_seen = |image: &Arc<ImageEmbedding>| {
            model.hyper().architecture.is_vision() && image.width_embd == model.input_width()
        };
        let mut readable = EncodedPrompt::default();
        for segment in &prompt.segments {
            match segment {
                Segment::Image(image) if is_seen(image) => readable.segments.push(segment.clone()),
                Segment::Image(_) => {}
                Segment::Tokens(tokens) => tokens.iter().for_each(|&token| readable.push_token(token)),
            }
        }
        readable
    }
}
