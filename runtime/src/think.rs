//! Tells the model's thinking from its answer while the text streams.

/// A piece of the model's text, without its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThinkEvent {
    /// From between `<thinking>` and `</thinking>` (or `<think>`).
    Thinking(String),
    /// From anywhere else.
    Answer(String),
}

impl ThinkEvent {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Thinking(text) | Self::Answer(text) => text,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Thinking,
    Answer,
}

/// A pair of tags around thoughts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ThinkTags {
    pub(crate) opening: &'static str,
    pub(crate) closing: &'static str,
}

/// The tags that models put around their thoughts.
pub(crate) const THINK_TAGS: [ThinkTags; 2] = [
    ThinkTags { opening: "<thinking>", closing: "</thinking>" },
    ThinkTags { opening: "<think>", closing: "</think>" },
];
/// What may stand before an answer.
pub(crate) const ANSWER_TAG: &str = "<answer>";
/// What may stand behind it.
const ANSWER_END: &str = "</answer>";

/// All tags, and the side that begins after each.
fn tags() -> impl Iterator<Item = (&'static str, Side)> {
    let of_thinking = THINK_TAGS.iter().flat_map(|tags| [(tags.opening, Side::Thinking), (tags.closing, Side::Answer)]);
    of_thinking.chain([(ANSWER_TAG, Side::Answer), (ANSWER_END, Side::Answer)])
}

/// Whether `spelling` is a tag that begins or ends thinking.
pub(crate) fn is_thinking_tag(spelling: &str) -> bool {
    THINK_TAGS.iter().any(|tags| [tags.opening, tags.closing].contains(&spelling))
}

/// A piece of text without a tag in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) event: ThinkEvent,
    /// Where it ends in all text that was pushed, in bytes.
    pub(crate) end: usize,
}

/// Splits streamed text at thinking and answer tags. Tags may be split across pieces; blank space right after a tag is
/// dropped, and so is blank space before the next tag when nothing else stands between.
#[derive(Clone, Debug)]
pub struct ThinkSplitter {
    side: Side,
    /// Text that may be the start of a tag.
    held: String,
    /// Bytes that came before it.
    n_read: usize,
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
        Self {
            side: Side::Answer,
            held: String::new(),
            n_read: 0,
            after_tag: false,
            is_settled: false,
            is_literal: false,
        }
    }

    /// A splitter for text that begins in the middle of thinking, as after templates that end in `<think>`.
    pub fn inside_thinking() -> Self {
        Self { side: Side::Thinking, after_tag: true, ..Self::new() }
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
        joined(self.split(text))
    }

    /// Ends the text: what looked like the start of a tag was none.
    pub fn finish(&mut self) -> Vec<ThinkEvent> {
        joined(self.release())
    }

    /// [`ThinkSplitter::push`] with the places of what is certain.
    pub(crate) fn split(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while let Some(at) = self.held.find('<').filter(|_| !self.is_literal) {
            let rest = &self.held[at..];
            if let Some((tag, side)) = tags().find(|(tag, _)| rest.starts_with(tag)) {
                self.emit(at, &mut pieces);
                self.held.drain(..tag.len());
                self.n_read += tag.len();
                self.after_tag = true;
                if !self.is_settled {
                    self.side = side;
                }
            } else if tags().any(|(tag, _)| tag.starts_with(rest)) {
                self.emit(at, &mut pieces);
                return pieces;
            } else {
                self.emit(at + 1, &mut pieces);
            }
        }
        self.emit(self.held.len(), &mut pieces);
        pieces
    }

    /// [`ThinkSplitter::finish`] with the places of what was held.
    pub(crate) fn release(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.emit(self.held.len(), &mut pieces);
        pieces
    }

    /// Moves the first `n` held bytes to `pieces`.
    fn emit(&mut self, n: usize, pieces: &mut Vec<Piece>) {
        let text: String = self.held.drain(..n).collect();
        self.n_read += n;
        let text = if self.after_tag { text.trim_start() } else { &text };
        if text.is_empty() {
            return;
        }
        self.after_tag = false;
        let text = text.to_owned();
        let event = match self.side {
            Side::Thinking => ThinkEvent::Thinking(text),
            Side::Answer => ThinkEvent::Answer(text),
        };
        pieces.push(Piece { event, end: self.n_read });
    }
}

/// What `pieces` say, neighbours of one side together.
fn joined(pieces: Vec<Piece>) -> Vec<ThinkEvent> {
    let mut events = Vec::new();
    pieces.into_iter().for_each(|piece| tell(piece.event, &mut events));
    events
}

/// Appends `event` to what was `said`.
pub(crate) fn tell(event: ThinkEvent, said: &mut Vec<ThinkEvent>) {
    match (said.last_mut(), event) {
        (Some(ThinkEvent::Thinking(last)), ThinkEvent::Thinking(text))
        | (Some(ThinkEvent::Answer(last)), ThinkEvent::Answer(text)) => last.push_str(&text),
        (_, event) => said.push(event),
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
