//! A budget for thinking that leaves room for the answer.
//!
//! When the thinking has used its budget, the tokens of its closing tag are put in by force; the model goes on behind them.
//! So that an answer always comes, the room of an answer (its `max_new_tokens`, or what the context leaves) is divided
//! beforehand: [`ANSWER_TOKENS`], at most half of the room, are kept for what follows the thinking. Thinking is closed when
//! only they and the closing tag are left, even where the budget is larger. Then the model does not end the answer before
//! it said something, and what it says is the answer: it cannot think again. Nor does it end the answer within its thoughts:
//! that closes them too, also without a budget where the answer has to look like something.

use std::collections::VecDeque;

use super::speech::Speech;
use crate::{
    Error, Result,
    model::{Model, TokenId},
    think::{THINK_TAGS, ThinkTags},
};

/// Tokens kept for the answer, where they are not more than half of its room.
const ANSWER_TOKENS: usize = 256;

/// How thinking is closed.
pub(super) struct Budget {
    /// Most tokens of thinking; `None` closes it only where the model would end the answer within.
    n_tokens: Option<usize>,
    /// One for each of [`THINK_TAGS`].
    closings: Vec<Closing>,
}

/// A closing tag with the line breaks that the model's template puts around it.
struct Closing {
    tags: &'static ThinkTags,
    before: String,
    after: String,
    /// Tokens of all that.
    n_tokens: usize,
    /// Whether the model's template or vocabulary has such tags.
    is_known: bool,
}

impl Budget {
    /// A budget of `n_tokens` for thinking by `model`, if any.
    ///
    /// # Errors
    /// `Limit` when a tag is too long to tokenize, which none is.
    pub(super) fn new(model: &Model, n_tokens: Option<usize>) -> Result<Self> {
        let template = model.template().source();
        let closing = |tags: &'static ThinkTags| {
            let (before, after) = line_breaks(template, tags.closing);
            let n_tokens = model.tokenize(&format!("{before}{}{after}", tags.closing), true)?.len();
            let is_in_template = [tags.opening, tags.closing].iter().any(|tag| template.contains(tag));
            let is_known = is_in_template || model.tokenize(tags.opening, true)?.len() == 1;
            Ok(Closing { tags, before, after, n_tokens, is_known })
        };
        Ok(Self { n_tokens, closings: THINK_TAGS.iter().map(closing).collect::<Result<_>>()? })
    }

    /// Refuses a room of `n_room` tokens that could not hold a closing tag and an answer, if the model is known to think.
    ///
    /// # Errors
    /// `error`, with the numbers.
    pub(super) fn check(&self, n_room: usize, error: Error) -> Result<()> {
        let known = self.closings.iter().filter(|closing| self.n_tokens.is_some() && closing.is_known);
        // Opening and closing tag, a token of thinking and one of the answer.
        let n_least = known.map(|closing| 2 * (1 + closing.n_tokens)).max().unwrap_or(0);
        if n_room >= n_least {
            return Ok(());
        }
        Err(error.got(format!("{n_room} tokens")).needed(format!("at least {n_least} with a thinking budget")))
    }

    /// The tokens that close the thinking of `speech` if it is time, of which `n_thought` tokens were written, with `n_left` of
    /// `n_room` tokens left; `is_over` when the model would end the answer within its thoughts.
    ///
    /// # Errors
    /// As [`Model::tokenize`].
    pub(super) fn close(
        &self,
        model: &Model,
        speech: &Speech,
        n_thought: usize,
        room: Room,
        is_over: bool,
    ) -> Result<VecDeque<TokenId>> {
        let tags = speech.thinking_tags();
        let Some(closing) = self.closings.iter().find(|closing| Some(closing.tags) == tags) else {
            return Ok(VecDeque::new());
        };
        let n_kept = ANSWER_TOKENS.min(room.n_tokens / 2) + closing.n_tokens;
        let is_spent = self.n_tokens.is_some_and(|n_tokens| n_thought >= n_tokens || room.n_left <= n_kept);
        if !is_spent && !is_over {
            return Ok(VecDeque::new());
        }
        let Closing { tags: ThinkTags { closing: tag, .. }, before, after, .. } = closing;
        // The model may be about to close it by itself.
        let text = match tag.strip_prefix(speech.held()) {
            Some(rest) if !speech.held().is_empty() => format!("{rest}{after}"),
            _ if speech.thinking.ends_with('\n') => format!("{tag}{after}"),
            _ => format!("{before}{tag}{after}"),
        };
        Ok(model.tokenize(&text, true)?.into())
    }
}

/// Tokens of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// In all.
    pub(super) n_tokens: usize,
    /// Not written yet.
    pub(super) n_left: usize,
}

/// The line breaks that a chat template (a Jinja program, so they are spelled `\n`) puts before and after `tag` where it
/// writes an answer's thinking: none if it does not mention the tag. At most one before and two after.
fn line_breaks(template: &str, tag: &str) -> (String, String) {
    const BREAK: &str = "\\n";
    let (mut before, mut after) = (0, 0);
    for (at, _) in template.match_indices(tag) {
        let rest = &template[at + tag.len()..];
        before = before.max(usize::from(template[..at].ends_with(BREAK)));
        after = after.max((0..2).take_while(|&n| rest.starts_with(&BREAK.repeat(n + 1))).count());
    }
    ("\n".repeat(before), "\n".repeat(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_around_a_tag_are_those_of_the_template() {
        let qwen =
            r"{%- if '</think>' in content %}{{- '<think>\n' + thinking + '\n</think>\n\n' + content }}{%- endif %}";
        for (template, tag, expected) in [
            (qwen, "</think>", ("\n", "\n\n")),
            (qwen, "</thinking>", ("", "")),
            (r"{{ '</think>\n' }}", "</think>", ("", "\n")),
            (r"{{ '\n</think>\n\n\n\n' }}", "</think>", ("\n", "\n\n")),
            ("", "</think>", ("", "")),
        ] {
            let (before, after) = line_breaks(template, tag);
            assert_eq!((before.as_str(), after.as_str()), expected, "{template}");
        }
    }
}
