//! What a sample answers, and whether two samples answer the same.

use super::boxes::{LabelledBox, boxes_overlap, parse_boxes};
use crate::{
    reward::{accuracy, canonical_choice, parse_number},
    task::ProblemType,
};

/// What kind of question has such `answers`: one of boxes, numbers or choices where more than half of them are, else an open one.
/// For hosts that do not know what they ask; a number is not told from a transcription of digits.
pub fn guess_problem<'a>(answers: impl IntoIterator<Item = &'a str>) -> ProblemType {
    let answers: Vec<_> = answers.into_iter().map(str::trim).collect();
    let kinds = [ProblemType::SpatialGrounding, ProblemType::Numerical, ProblemType::MultipleChoice];
    let n_like = |problem| answers.iter().filter(|answer| looks_like(answer, problem)).count();
    kinds.into_iter().find(|&problem| 2 * n_like(problem) > answers.len()).unwrap_or(ProblemType::OpenEnded)
}

fn looks_like(answer: &str, problem: ProblemType) -> bool {
    match (problem, Reading::of(answer, problem, &[])) {
        // Any text can be a choice.
        (ProblemType::MultipleChoice, Some(Reading::Choice(choice))) => matches!(choice.as_bytes(), [b'A'..=b'Z']),
        (_, reading) => reading.is_some(),
    }
}

/// An answer as its task understands it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    /// Letters, or the text of a choice without letters.
    Choice(String),
    Number {
        value: f64,
        text: String,
    },
    Boxes(Vec<LabelledBox>),
    /// Mathematics, compared by equivalence.
    Math(String),
    /// `plain` is what is compared, `text` what was said.
    Text {
        plain: String,
        text: String,
    },
}

impl Reading {
    /// `None` where `answer` is none that `problem` can have.
    pub(super) fn of(answer: &str, problem: ProblemType, options: &[String]) -> Option<Self> {
        if answer.is_empty() {
            return None;
        }
        let text = answer.to_owned();
        match problem {
            ProblemType::MultipleChoice => canonical_choice(answer, options).map(Self::Choice),
            ProblemType::Numerical | ProblemType::Regression => {
                parse_number(answer).map(|value| Self::Number { value, text })
            }
            ProblemType::SpatialGrounding => parse_boxes(answer).map(Self::Boxes),
            ProblemType::Math => Some(Self::Math(text)),
            ProblemType::Ocr => Some(Self::Text { plain: spaced(answer), text }),
            ProblemType::OpenEnded => {
                let plain = spaced(answer.trim_matches(|c: char| !c.is_alphanumeric())).to_lowercase();
                Some(Self::Text { plain, text }).filter(|_| answer.contains(char::is_alphanumeric))
            }
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number { value, .. }, Self::Number { value: other, .. }) => {
                (value - other).abs() <= 1e-9 * value.abs().max(other.abs())
            }
            (Self::Math(left), Self::Math(right)) => {
                left == right || accuracy(ProblemType::Math, left, right, &[]) == 1.0
            }
            (Self::Text { plain, .. }, Self::Text { plain: other, .. }) => plain == other,
            (left, right) => left == right,
        }
    }

    /// How right this answer would be if `truth` were, 0..=1.
    pub(super) fn agreement(&self, truth: &Self, problem: ProblemType, options: &[String]) -> f64 {
        match (self, truth) {
            (Self::Boxes(boxes), Self::Boxes(truth)) => boxes_overlap(boxes, truth),
            (Self::Choice(left), Self::Choice(right)) => f64::from(u8::from(left == right)),
            (Self::Number { text, .. }, Self::Number { text: truth, .. })
            | (Self::Math(text), Self::Math(truth))
            | (Self::Text { text, .. }, Self::Text { text: truth, .. }) => accuracy(problem, text, truth, options),
            _ => 0.0,
        }
    }
}

/// Its words with single spaces between.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
