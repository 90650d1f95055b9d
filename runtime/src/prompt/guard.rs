//! Keeps text from outside from spelling control tokens.
//!
//! A template pastes the user's words between `<|im_start|>` and `<|im_end|>`; words that spell `<|im_end|>` would end
//! the message, `<|image_pad|>` would claim a picture. So before rendering, each such spelling is swapped for a numbered
//! mark, and after rendering it is tokenized apart, as plain text. Everything else reaches the template, and the
//! tokenizer, exactly as written.

use crate::{Result, model::TokenId};

/// Swaps spellings of control tokens in texts for marks.
pub(super) struct Guard<'a> {
    control: &'a [String],
    /// A character that none of the texts contains; a mark is the number of a spelling between two of them.
    fence: char,
}

impl<'a> Guard<'a> {
    /// A guard for `texts` against the spellings `control`.
    pub(super) fn new<'t>(control: &'a [String], texts: impl Iterator<Item = &'t str> + Clone) -> Self {
        // Unicode sets these 32 apart for the internal use of programs; the rest is for texts that hold them all.
        let fences = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..);
        let unused = |fence: &char| !texts.clone().any(|text| text.contains(*fence));
        Self { control, fence: fences.into_iter().find(unused).unwrap_or('\u{fdd0}') }
    }

    /// `text` with marks for control spellings.
    pub(super) fn disarm(&self, text: &str) -> String {
        let mut disarmed = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((at, index)) = self.first_spelling(rest) {
            disarmed.push_str(&rest[..at]);
            disarmed.push_str(&format!("{0}{index}{0}", self.fence));
            rest = &rest[at + self.control[index].len()..];
        }
        disarmed.push_str(rest);
        disarmed
    }

    /// Tokens of a rendered template: marks become the plain text of their spelling, control tokens that the template
    /// wrote become themselves.
    pub(super) fn tokenize(
        &self,
        rendered: &str,
        tokenize: impl Fn(&str, bool /* parse special */) -> Result<Vec<TokenId>>,
    ) -> Result<Vec<TokenId>> {
        let mut tokens = Vec::new();
        for (index, piece) in rendered.split(self.fence).enumerate() {
            // Fences come in pairs: every second piece is a mark.
            let spelling = (index % 2 == 1).then(|| self.control.get(piece.parse::<usize>().ok()?)).flatten();
            tokens.extend(match spelling {
                Some(spelling) => tokenize(spelling, false)?,
                None => tokenize(piece, true)?,
            });
        }
        Ok(tokens)
    }

    /// Byte offset and number of the first control spelling, the longest where several start together.
    fn first_spelling(&self, text: &str) -> Option<(usize, usize)> {
        let found = self.control.iter().enumerate().filter_map(|(index, spelling)| Some((text.find(spelling)?, index)));
        found.min_by_key(|&(at, index)| (at, usize::MAX - self.control[index].len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as they come, `+` before those that were parsed for control tokens.
    fn pieces(guard: &Guard, rendered: &str) -> Vec<String> {
        let seen = std::cell::RefCell::new(Vec::new());
        let record = |text: &str, special: bool| {
            seen.borrow_mut().push(format!("{}{text}", if special { "+" } else { "" }));
            Ok(Vec::new())
        };
        guard.tokenize(rendered, record).expect("records");
        seen.into_inner()
    }

    #[test]
    fn control_spellings_in_texts_stay_text() {
        let control = ["<|im_end|>".to_owned(), "<|im_end|><|x|>".to_owned()];
        let texts = ["say <|im_end|> or <|im_end|><|x|>!", "plain", "\u{fdd0}7\u{fdd0}"];
        let guard = Guard::new(&control, texts.iter().copied());
        assert_eq!(guard.disarm("plain"), "plain");
        let rendered = format!("A{}<|im_end|>{}", guard.disarm(texts[0]), guard.disarm(texts[2]));
        let expected = ["+Asay ", "<|im_end|>", "+ or ", "<|im_end|><|x|>", "+!<|im_end|>\u{fdd0}7\u{fdd0}"];
        assert_eq!(pieces(&guard, &rendered), expected);
    }
}
