//! Tokens as thinking and answer.

use super::stop::{Scanned, StopScanner};
use crate::{
    model::Model,
    prompt::{EncodedPrompt, Segment},
    text::TextDecoder,
    think::{ThinkEvent, ThinkSplitter},
};

/// What an answer said so far.
#[derive(Clone, Debug)]
pub(super) struct Speech {
    decoder: TextDecoder,
    splitter: ThinkSplitter,
    scanner: StopScanner,
    pub(super) thinking: String,
    pub(super) answer: String,
    /// All text with its tags, what the template opened included.
    pub(super) raw: String,
    /// The stop string that ended it.
    pub(super) found: Option<usize>,
}

impl Speech {
    /// The beginning of an answer to `prompt` that ends before any of the strings `stop`.
    pub(super) fn new(model: &Model, prompt: &EncodedPrompt, stop: &[String]) -> Self {
        let raw = thinking_opened(model, prompt);
        Self {
            decoder: TextDecoder::default(),
            splitter: if raw.is_empty() { ThinkSplitter::new() } else { ThinkSplitter::inside_thinking() },
            scanner: StopScanner::new(stop),
            thinking: String::new(),
            answer: String::new(),
            raw,
            found: None,
        }
    }

    /// Whether what comes next belongs to the thinking.
    pub(super) fn is_thinking(&self) -> bool {
        self.splitter.is_thinking()
    }

    /// The tag that opened the thinking under way.
    pub(super) fn thinking_tag(&self) -> Option<&'static str> {
        if !self.is_thinking() {
            return None;
        }
        ["<think>", "<thinking>"].into_iter().max_by_key(|tag| self.raw.rfind(tag))
    }

    /// Text that may be the start of a tag.
    pub(super) fn held(&self) -> &str {
        self.splitter.held()
    }

    /// Whether nothing was answered yet.
    pub(super) fn is_silent(&self) -> bool {
        self.answer.is_empty() && self.scanner.is_empty()
    }

    /// Ends all thinking: what follows is the answer.
    pub(super) fn settle(&mut self) {
        self.splitter.settle();
    }

    /// From here on all text is the answer, tags as well.
    pub(super) fn read_literally(&mut self) {
        self.splitter.read_literally();
    }

    /// What is certain with the `bytes` of one more token.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<ThinkEvent> {
        let text = self.decoder.push(bytes);
        let events = self.splitter.push(&text);
        self.hear(&text, events)
    }

    /// All that was held back: no further token comes.
    pub(super) fn finish(&mut self) -> Vec<ThinkEvent> {
        let text = self.decoder.finish();
        let mut events = self.splitter.push(&text);
        events.extend(self.splitter.finish());
        let mut said = self.hear(&text, events);
        if self.found.is_none() {
            let rest = self.scanner.finish();
            self.answered(rest, &mut said);
        }
        said
    }

    /// What may be told of `events`, the pieces of `text`.
    fn hear(&mut self, text: &str, events: Vec<ThinkEvent>) -> Vec<ThinkEvent> {
        let n_before = self.raw.len();
        self.raw += text;
        let mut said = Vec::new();
        for event in events {
            match event {
                ThinkEvent::Thinking(text) => {
                    // A stop string does not begin before thoughts and end behind them.
                    let rest = self.scanner.finish();
                    self.answered(rest, &mut said);
                    self.thinking += &text;
                    said.push(ThinkEvent::Thinking(text));
                }
                ThinkEvent::Answer(text) => {
                    let Scanned { text, found } = self.scanner.push(&text);
                    self.answered(text, &mut said);
                    if let Some(index) = found {
                        self.found = found;
                        self.cut_raw(n_before, index);
                        break;
                    }
                }
            }
        }
        said
    }

    fn answered(&mut self, text: String, said: &mut Vec<ThinkEvent>) {
        if !text.is_empty() {
            self.answer += &text;
            said.push(ThinkEvent::Answer(text));
        }
    }

    /// Cuts the whole text before stop string `index`, which was complete behind byte `n_before`.
    fn cut_raw(&mut self, n_before: usize, index: usize) {
        let string = self.scanner.string(index);
        let mut from = n_before.saturating_sub(string.len());
        while !self.raw.is_char_boundary(from) {
            from -= 1;
        }
        // Not there where a tag, which is no part of the answer, stands within.
        if let Some(at) = self.raw[from..].find(string) {
            self.raw.truncate(from + at);
        }
    }
}

/// Where a template opens answers with thinking (`<think>`), that opening as the answer's own beginning; otherwise nothing.
fn thinking_opened(model: &Model, prompt: &EncodedPrompt) -> String {
    let Some(Segment::Tokens(tokens)) = prompt.segments.last() else { return String::new() };
    // More than the longest tag has, if every byte is a token.
    let end = model.detokenize(&tokens[tokens.len().saturating_sub(16)..]);
    let tags = ["<think>", "<thinking>"].into_iter();
    let opening = tags.filter(|tag| end.trim_end().ends_with(tag)).find_map(|tag| end.rfind(tag));
    opening.map_or_else(String::new, |at| end[at..].to_owned())
}
