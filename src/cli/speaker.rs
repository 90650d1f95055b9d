//! What a model says, as it comes: thinking to stderr, the answer to stdout.

use owlet::ThinkEvent;

use super::{failure::Result, output::Output};

/// Says what it hears.
pub(crate) struct Speaker {
    output: Output,
    is_silent: bool,
    has_thought: bool,
    has_answered: bool,
}

impl Speaker {
    /// A silent one says nothing.
    pub(crate) fn new(output: Output, is_silent: bool) -> Self {
        Self { output, is_silent, has_thought: false, has_answered: false }
    }

    /// The next piece.
    pub(crate) fn hear(&mut self, event: &ThinkEvent) -> Result<()> {
        if self.is_silent {
            return Ok(());
        }
        match event {
            ThinkEvent::Thinking(text) if text.is_empty() => {}
            ThinkEvent::Thinking(text) => {
                self.has_thought = true;
                self.output.aside(text);
            }
            ThinkEvent::Answer(text) => {
                if self.has_thought && !self.has_answered {
                    self.output.say("");
                }
                self.has_answered = true;
                self.output.data(text)?;
            }
        }
        Ok(())
    }

    /// The end of the answer.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if self.has_answered { self.output.data("\n") } else { Ok(()) }
    }
}
