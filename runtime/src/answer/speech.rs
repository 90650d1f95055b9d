//! Tokens as thinking and answer.

use super::stop::{Scanned, StopScanner};
use crate::{
    model::Model,
    prompt::{EncodedPrompt, Segment},
    text::TextDecoder,
    think::{Piece, THINK_TAGS, ThinkEvent, ThinkSplitter, ThinkTags, tell},
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
    /// Bytes of `raw` that the template wrote.
    n_opened: usize,
    /// Where the answer stands in `raw`: its runs between tags, each as the bytes of the answer before it and its place.
    runs: Vec<(usize, usize)>,
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
            n_opened: raw.len(),
            raw,
            runs: Vec::new(),
            found: None,
        }
    }

    /// Whether what comes next belongs to the thinking.
    pub(super) fn is_thinking(&self) -> bool {
        self.splitter.is_thinking()
    }

    /// The tags of the thinking under way.
    pub(super) fn thinking_tags(&self) -> Option<&'static ThinkTags> {
        THINK_TAGS.iter().filter(|_| self.is_thinking()).max_by_key(|tags| self.raw.rfind(tags.opening))
    }

    /// Text that may be the start of a tag.
    pub(super) fn held(&self) -> &str {
        self.splitter.held()
    }

    /// Whether nothing was answered yet.
    pub(super) fn is_silent(&self) -> bool {
        self.answer.is_empty() && self.scanner.n_held() == 0
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
    pub(super) fn push(&mut self, bytes: &[u8]) -> Said {
        let text = self.decoder.push(bytes);
        let pieces = self.splitter.split(&text);
        let n_before =
            pieces.iter().rposition(|piece| matches!(piece.event, ThinkEvent::Thinking(_))).map_or(0, |n| n + 1);
        let answer = pieces[n_before..].iter().map(|piece| piece.event.text()).collect();
        Said { events: self.hear(&text, pieces), answer }
    }

    /// All that was held back: no further token comes.
    pub(super) fn finish(&mut self) -> Vec<ThinkEvent> {
        let text = self.decoder.finish();
        let mut pieces = self.splitter.split(&text);
        pieces.extend(self.splitter.release());
        let mut said = self.hear(&text, pieces);
        if self.found.is_none() {
            let rest = self.scanner.finish();
            self.answered(rest, &mut said);
        }
        said
    }

    /// What may be told of `pieces`, which are certain with the next `text`.
    fn hear(&mut self, text: &str, pieces: Vec<Piece>) -> Vec<ThinkEvent> {
        self.raw += text;
        let mut said = Vec::new();
        for Piece { event, end } in pieces {
            match event {
                ThinkEvent::Thinking(text) => {
                    // A stop string does not begin before thoughts and end behind them.
                    let rest = self.scanner.finish();
                    self.answered(rest, &mut said);
                    self.thinking += &text;
                    tell(ThinkEvent::Thinking(text), &mut said);
                }
                ThinkEvent::Answer(text) => {
                    self.note_place(self.n_opened + end - text.len());
                    let Scanned { text, found } = self.scanner.push(&text);
                    self.answered(text, &mut said);
                    if found.is_some() {
                        self.found = found;
                        self.raw.truncate(self.place_of_end());
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
            tell(ThinkEvent::Answer(text), said);
        }
    }

    /// Notes that the answer goes on at byte `place` of `raw`.
    fn note_place(&mut self, place: usize) {
        let n_before = self.answer.len() + self.scanner.n_held();
        if self.runs.last().is_none_or(|(n, start)| start + (n_before - n) != place) {
            self.runs.push((n_before, place));
        }
    }

    /// Where the answer so far ends in `raw`, what is held back left out.
    fn place_of_end(&self) -> usize {
        let n_told = self.answer.len();
        let run = self.runs.iter().rev().find(|(n_before, _)| *n_before <= n_told);
        run.map_or(self.raw.len(), |(n_before, place)| place + (n_told - n_before))
    }
}

/// What became certain with a token.
pub(super) struct Said {
    /// What may be told.
    pub(super) events: Vec<ThinkEvent>,
    /// What the token says behind thoughts, whether it may be told or not.
    pub(super) answer: String,
}

/// Where a template opens answers with thinking (`<think>`), that opening as the answer's own beginning; otherwise nothing.
fn thinking_opened(model: &Model, prompt: &EncodedPrompt) -> String {
    let Some(Segment::Tokens(tokens)) = prompt.segments.last() else { return String::new() };
    // More than the longest tag has, if every byte is a token.
    let end = model.detokenize(&tokens[tokens.len().saturating_sub(16)..]);
    let mut opened = THINK_TAGS.iter().map(|tags| tags.opening).filter(|tag| end.trim_end().ends_with(tag));
    let opening = opened.find_map(|tag| end.rfind(tag));
    opening.map_or_else(String::new, |at| end[at..].to_owned())
}
