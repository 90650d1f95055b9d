//! What a model says, as it comes: thinking to stderr, the answer to stdout.

use owlet::{TextDecoder, ThinkEvent, ThinkSplitter};

use super::{failure::Result, output::Output};

/// Turns tokens into what is said, and keeps it.
pub(crate) struct Speaker {
    output: Output,
    is_silent: bool,
    decoder: TextDecoder,
    splitter: ThinkSplitter,
    pub(crate) thinking: String,
    pub(crate) answer: String,
}

impl Speaker {
    /// A silent one only keeps.
    pub(crate) fn new(output: Output, is_silent: bool) -> Self {
        let (decoder, splitter) = (TextDecoder::default(), ThinkSplitter::new());
        Self { output, is_silent, decoder, splitter, thinking: String::new(), answer: String::new() }
    }

    /// The bytes of the next token.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let text = self.decoder.push(bytes);
        let events = self.splitter.push(&text);
        self.say(events)
    }

    /// The end of the tokens.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let text = self.decoder.finish();
        let mut events = self.splitter.push(&text);
        events.extend(self.splitter.finish());
        self.say(events)?;
        if self.is_silent || self.answer.is_empty() { Ok(()) } else { self.output.data("\n") }
    }

    fn say(&mut self, events: Vec<ThinkEvent>) -> Result<()> {
        events.into_iter().try_for_each(|event| self.hear(event))
    }

    /// What was made out of the tokens.
    pub(crate) fn hear(&mut self, event: ThinkEvent) -> Result<()> {
        match event {
            ThinkEvent::Thinking(text) => {
                self.thinking.push_str(&text);
                if !self.is_silent {
                    self.output.aside(&text);
                }
            }
            ThinkEvent::Answer(text) => {
                let is_first = self.answer.is_empty() && !self.thinking.is_empty();
                self.answer.push_str(&text);
                if !self.is_silent {
                    if is_first {
                        self.output.say("");
                    }
                    self.output.data(text)?;
                }
            }
        }
        Ok(())
    }
}
