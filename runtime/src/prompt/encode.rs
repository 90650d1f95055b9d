//! Messages to tokens and embeddings: template, tokenizer, image encoder.

use std::sync::Arc;

use serde_json::Value;

use super::{EncodedPrompt, ImageEmbedding, Part, Prompt, Role, Segment, guard::Guard};
use crate::{
    Error, ErrorKind, Result,
    cancel::CancelToken,
    image::{Image, ImageBudget},
    model::{Model, TokenId},
    template::{Content, ContentPart, TemplateCall, TemplateFunction, TemplateMessage},
    tools::{ToolCall, Tools},
    vision::MAX_IMAGE_TOKENS,
};

/// A message as chat templates need it: where texts and pictures are.
pub(crate) struct Outline<'a> {
    pub(crate) role: Role,
    pub(crate) pieces: Vec<Piece<'a>>,
    pub(crate) calls: &'a [ToolCall],
}

/// A conversation as chat templates need it.
pub(crate) struct Chat<'a> {
    pub(crate) messages: Vec<Outline<'a>>,
    pub(crate) tools: &'a Tools,
    /// As [`Prompt::thinking`].
    pub(crate) thinking: Option<bool>,
}

/// A piece of a message.
#[derive(Clone, Copy)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Picture,
}

/// See [`Model::encode`].
pub(crate) fn encode(
    model: &Model,
    prompt: &Prompt,
    budget: Option<ImageBudget>,
    cancel: &CancelToken,
) -> Result<EncodedPrompt> {
    let runs = prompt_runs(model, prompt)?;
    let pictures = images(prompt).map(|image| {
        let resized = match budget {
            Some(budget) => &resize(model, image, &budget, cancel)?,
            None => image,
        };
        model.encode_image(resized, cancel).map(Arc::new)
    });
    interleave(runs, pictures)
}

/// Runs and pictures alternate: a run, then picture and run for each picture.
pub(crate) fn interleave(
    runs: Vec<Vec<TokenId>>,
    mut pictures: impl Iterator<Item = Result<Arc<ImageEmbedding>>>,
) -> Result<EncodedPrompt> {
    let mut segments = Vec::with_capacity(2 * runs.len());
    for (index, run) in runs.into_iter().enumerate() {
        if index > 0
            && let Some(picture) = pictures.next()
        {
            segments.push(Segment::Image(picture?));
        }
        if !run.is_empty() {
            segments.push(Segment::Tokens(run));
        }
    }
    Ok(EncodedPrompt { segments })
}

/// See [`Model::generation_prompt`].
pub(crate) fn generation_prompt(model: &Model) -> Result<Vec<TokenId>> {
    let message =
        TemplateMessage { role: Role::User.name(), content: Content::Text("?".to_owned()), tool_calls: Vec::new() };
    let tokens = |ask| {
        let rendered = model.template().render(std::slice::from_ref(&message), &[], None, ask)?;
        model.tokenize(&rendered, true)
    };
    let (told, asked) = (tokens(false)?, tokens(true)?);
    // Where the tokenizer joins the end of the message with what follows, the tokens differ from prompt to prompt.
    match asked.strip_prefix(told.as_slice()) {
        Some(opening) if !opening.is_empty() => Ok(opening.to_vec()),
        _ => Err(Error::new(ErrorKind::Unsupported, "the chat template opens answers by no tokens of their own")
            .at(model.path().display())),
    }
}

/// See [`Model::outline`].
pub(crate) fn outline(model: &Model, text: &str, image_sizes: &[(u32, u32)]) -> Result<EncodedPrompt> {
    // Where a picture goes does not depend on its size.
    let stubs = image_sizes.iter().map(|_| Image::from_rgb(1, 1, vec![0; 3])).collect::<Result<_>>()?;
    let runs = prompt_runs(model, &Prompt::user(text, stubs)?)?;
    let place = |&(width, height): &(u32, u32)| {
        let n_tokens = model.image_budget().map_or(Ok(0), |budget| budget.tokens_for(width, height))?;
        let (grid_w, data) = (n_tokens as u32, Vec::new());
        let image = ImageEmbedding { n_tokens, grid_w, grid_h: 1, width_embd: 0, data, encode_ms: 0.0 };
        Ok(Arc::new(image))
    };
    interleave(runs, image_sizes.iter().map(place))
}

fn images(prompt: &Prompt) -> impl Iterator<Item = &Image> {
    prompt.messages.iter().flat_map(|message| &message.parts).filter_map(Part::image)
}

fn prompt_runs(model: &Model, prompt: &Prompt) -> Result<Vec<Vec<TokenId>>> {
    let messages = prompt.messages.iter().map(super::Message::outline).collect();
    runs(model, &Chat { messages, tools: &prompt.tools, thinking: prompt.thinking })
}

/// The tokens between the pictures of `chat`, followed by what opens an answer: one run more than there are pictures.
pub(crate) fn runs(model: &Model, chat: &Chat<'_>) -> Result<Vec<Vec<TokenId>>> {
    let Chat { messages, tools, thinking } = chat;
    if messages.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "empty prompt").needed("at least one message"));
    }
    let pieces = || messages.iter().flat_map(|message| &message.pieces);
    let n_images = pieces().filter(|piece| matches!(piece, Piece::Picture)).count();
    if n_images > 0 && !model.has_vision() {
        let error = Error::new(ErrorKind::Unsupported, "model sees no pictures").at(model.path().display());
        return Err(error.got(format!("{n_images} pictures")).needed("an image projector (mmproj)"));
    }
    let mut texts: Vec<_> = pieces().filter_map(Piece::as_text).collect();
    for call in messages.iter().flat_map(|message| message.calls) {
        texts.push(&call.name);
        collect_texts(&call.arguments, &mut texts);
    }
    tools.definitions().iter().for_each(|definition| collect_texts(definition, &mut texts));
    let guard = Guard::new(model.control_tokens(), texts.iter().copied());
    let messages: Vec<_> = messages.iter().map(|message| template_message(message, &guard)).collect();
    let tools: Vec<_> = tools.definitions().iter().map(|definition| disarmed(definition, &guard)).collect();
    let rendered = model.template().render(&messages, &tools, *thinking, true)?;
    let tokens = guard.tokenize(&rendered, |text, special| model.tokenize(text, special))?;
    split_at_images(tokens, model.image_pad(), n_images)
}

/// The picture at the size of `budget`, which is refused before the work when the encoder would not take it.
pub(crate) fn resize(model: &Model, image: &Image, budget: &ImageBudget, cancel: &CancelToken) -> Result<Image> {
    let factor = model.image_budget().map_or(budget.factor, |budget| budget.factor);
    if budget.factor != factor {
        let error = Error::new(ErrorKind::InvalidInput, "image budget is of another model").at("factor");
        return Err(error.got(budget.factor).needed(factor));
    }
    let n_tokens = budget.tokens_for(image.width(), image.height())?;
    if n_tokens > MAX_IMAGE_TOKENS {
        let error = Error::new(ErrorKind::Limit, "picture too large").got(format!("{n_tokens} tokens"));
        return Err(error.needed(format!("at most {MAX_IMAGE_TOKENS}")));
    }
    image.resize_until(budget, cancel)
}

impl Part {
    fn piece(&self) -> Piece<'_> {
        match self {
            Self::Text(text) => Piece::Text(text),
            Self::Image(_) => Piece::Picture,
        }
    }

    pub(crate) fn image(&self) -> Option<&Image> {
        match self {
            Self::Text(_) => None,
            Self::Image(image) => Some(image),
        }
    }
}

impl super::Message {
    pub(crate) fn outline(&self) -> Outline<'_> {
        Outline { role: self.role, pieces: self.parts.iter().map(Part::piece).collect(), calls: &self.calls }
    }
}

impl Piece<'_> {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Picture => None,
        }
    }
}

fn template_message(message: &Outline<'_>, guard: &Guard) -> TemplateMessage {
    let role = message.role.name();
    let content = if message.pieces.iter().all(|piece| piece.as_text().is_some()) {
        let text: String = message.pieces.iter().filter_map(Piece::as_text).collect();
        Content::Text(guard.disarm(&text))
    } else {
        Content::Parts(template_parts(&message.pieces, guard))
    };
    let call = |ToolCall { name, arguments }: &ToolCall| {
        let function = TemplateFunction { name: guard.disarm(name), arguments: disarmed(arguments, guard) };
        TemplateCall { function }
    };
    TemplateMessage { role, content, tool_calls: message.calls.iter().map(call).collect() }
}

/// Appends all texts in `value` to `texts`, keys as well.
fn collect_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, texts)),
        Value::Object(fields) => {
            for (key, value) in fields {
                texts.push(key);
                collect_texts(value, texts);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `value` with marks for control spellings in its texts.
fn disarmed(value: &Value, guard: &Guard) -> Value {
    match value {
        Value::String(text) => Value::String(guard.disarm(text)),
        Value::Array(values) => values.iter().map(|value| disarmed(value, guard)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (guard.disarm(key), disarmed(value, guard))).collect()
        }
        other => other.clone(),
    }
}

/// Texts that follow each other become one before they are disarmed: templates write them without anything between, and
/// a control token could be spelled across.
fn template_parts(pieces: &[Piece<'_>], guard: &Guard) -> Vec<ContentPart> {
    let mut merged = Vec::new();
    for run in pieces.chunk_by(|a, b| a.as_text().is_some() && b.as_text().is_some()) {
        let text: String = run.iter().filter_map(Piece::as_text).collect();
        merged.push(match run[0] {
            Piece::Text(_) => ContentPart::Text { text: guard.disarm(&text) },
            Piece::Picture => ContentPart::Image,
        });
    }
    merged
}

/// The runs of tokens between the template's placeholders: one more than there are pictures.
fn split_at_images(tokens: Vec<TokenId>, image_pad: Option<TokenId>, n_images: usize) -> Result<Vec<Vec<TokenId>>> {
    if n_images == 0 {
        return Ok(vec![tokens]);
    }
    let runs: Vec<_> = tokens.split(|&token| Some(token) == image_pad).map(<[TokenId]>::to_vec).collect();
    if runs.len() == n_images + 1 {
        return Ok(runs);
    }
    let error = Error::new(ErrorKind::Unsupported, "chat template does not place pictures");
    Err(error.got(format!("{} places", runs.len() - 1)).needed(n_images))
}
