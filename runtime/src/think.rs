//! Tells the model's thinking from its answer while the text streams.

/// A piece of the model's text, without its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThinkEvent {
    /// From between `<thinking>` and `</thinking>` (or `<think>`).
    Thinking(String),
    /// From anywhere else.
    Answer(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Thinking,
    Answer,
}

/// Tags, and the side that begins after each.
const TAGS: [(&str, Side); 6] = [
    ("<thinking>", Side::Thinking),
    ("<think>", Side::Thinking),
    ("</thinking>", Side::Answer),
    ("</think>", Side::Answer),
    ("<answer>", Side::Answer),
    ("</answer>", Side::Answer),
];

/// Whether `spelling` is a tag that begins or ends thinking.
pub(crate) fn is_thinking_tag(spelling: &str) -> bool {
    ["<think>", "</think>", "<thinking>", "</thinking>"].contains(&spelling)
}

/// Splits streamed text at thinking and answer tags. Tags may be split across pieces; blank space right after a tag is
/// dropped, and so is blank space before the next tag when nothing else stands between.
#[derive(Clone, Debug)]
pub struct ThinkSplitter {
    side: Side,
    /// Text that may be the start of a tag.
    held: String,
    /// Whether only blank space came since the last tag.
    after_tag: bool,
    /// Whether tags begin no more thinking.
    is_settled: bool,
    /// Whether there are no more tags at all.
    is_literal: bool,
}

impl Default for ThinkSplitter {
    fn default() -> Self {
        Self::new()
    }
}

impl ThinkSplitter {
    /// A splitter for text that begins outside of any tag.
    pub fn new() -> Self {
        Self { side: Side::Answer, held: String::new(), after_tag: false, is_settled: false, is_literal: false }
    }

    /// A splitter for text that begins in the middle of thinking, as after templates that end in `<think>`.
    pub fn inside_thinking() -> Self {
        Self { side: Side::Thinking, held: String::new(), after_tag: true, is_settled: false, is_literal: false }
    }

    pub(crate) fn is_thinking(&self) -> bool {
        self.side == Side::Thinking
    }

    /// Text that may be the start of a tag.
    pub(crate) fn held(&self) -> &str {
        &self.held
    }

    /// Takes all that follows for the answer, whatever its tags say.
    pub(crate) fn settle(&mut self) {
        (self.side, self.is_settled) = (Side::Answer, true);
    }

    /// Takes all that follows, what is held back included, for the answer as it stands.
    pub(crate) fn read_literally(&mut self) {
        (self.side, self.after_tag, self.is_literal) = (Side::Answer, false, true);
    }

    /// Takes the next piece of text and returns what is certain by now.
    pub fn push(&mut self, text: &str) -> Vec<ThinkEvent> {
        self.held.push_str(text);
        let mut events = Vec::new();
        while let Some(at) = self.held.find('<').filter(|_| !self.is_literal) {
            let rest = &self.held[at..];
            if let Some(&(tag, side)) = TAGS.iter().find(|(tag, _)| rest.starts_with(tag)) {
                self.emit(at, &mut events);
                self.held.drain(..tag.len());
                self.after_tag = true;
                if !self.is_settled {
                    self.side = side;
                }
            } else if TAGS.iter().any(|(tag, _)| tag.starts_with(rest)) {
                self.emit(at, &mut events);
                return events;
            } else {
                self.emit(at + 1, &mut events);
            }
        }
        self.emit(self.held.len(), &mut events);
        events
    }

    /// Ends the text: what looked like the start of a tag was none.
    pub fn finish(&mut self) -> Vec<ThinkEvent> {
        let mut events = Vec::new();
        self.emit(self.held.len(), &mut events);
        events
    }

    /// Moves the first `n` held bytes to `events`.
    fn emit(&mut self, n: usize, events: &mut Vec<ThinkEvent>) {
        let text: String = self.held.drain(..n).collect();
        let text = if self.after_tag { text.trim_start() } else { &text };
        if text.is_empty() {
            return;
        }
        self.after_tag = false;
        match (self.side, events.last_mut()) {
            (Side::Thinking, Some(ThinkEvent::Thinking(last))) | (Side::Answer, Some(ThinkEvent::Answer(last))) => {
                last.push_str(text);
            }
            (Side::Thinking, _) => events.push(ThinkEvent::Thinking(text.to_owned())),
            (Side::Answer, _) => events.push(ThinkEvent::Answer(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thinking and answer of `text`, fed `size` characters at a time.
    fn split(mut splitter: ThinkSplitter, text: &str, size: usize) -> (String, String) {
        let characters: Vec<char> = text.chars().collect();
        let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
        let mut events: Vec<_> = pieces.flat_map(|piece| splitter.push(&piece)).collect();
        events.extend(splitter.finish());
        let (mut thinking, mut answer) = (String::new(), String::new());
        for event in events {
            match event {
                ThinkEvent::Thinking(text) => thinking += &text,
                ThinkEvent::Answer(text) => answer += &text,
            }
        }
        (thinking, answer)
    }

    #[test]
    fn thinking_and_answer_are_told_apart_however_the_text_is_cut() {
        struct Case {
            text: &'static str,
            thinking: &'static str,
            answer: &'static str,
        }
        let cases = [
            Case { text: "<thinking>a b</thinking><answer>5</answer>", thinking: "a b", answer: "5" },
            Case { text: "<think>\na < b\n</think>\n\nYes.", thinking: "a < b\n", answer: "Yes." },
            Case { text: "no tags, 1 < 2 <b>", thinking: "", answer: "no tags, 1 < 2 <b>" },
            Case { text: "<thinking>never ends", thinking: "never ends", answer: "" },
            Case { text: "<answer>x</answer> tail <thin", thinking: "", answer: "xtail <thin" },
            Case { text: "<<think>é</think>", thinking: "é", answer: "<" },
            Case { text: "", thinking: "", answer: "" },
        ];
        for Case { text, thinking, answer } in cases {
            for size in 1..=12 {
                let got = split(ThinkSplitter::new(), text, size);
                assert_eq!(got, (thinking.to_owned(), answer.to_owned()), "{text}, {size} at a time");
            }
        }
        let got = split(ThinkSplitter::inside_thinking(), "\nhm</think>ok", 3);
        assert_eq!(got, ("hm".to_owned(), "ok".to_owned()));
    }

    #[test]
    fn text_is_given_out_as_soon_as_it_cannot_be_a_tag() {
        let mut splitter = ThinkSplitter::new();
        assert_eq!(splitter.push("abc<th"), [ThinkEvent::Answer("abc".into())]);
        assert_eq!(splitter.push("us"), [ThinkEvent::Answer("<thus".into())]);
    }
}
