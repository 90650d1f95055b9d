//! Mathematics: numeric equivalence of LaTeX and plain expressions, with equality of text as the fall-back.
//!
//! Expressions with the same variables are compared by their values at fixed points, which finds `x^2+2x+1` equal to
//! `(x+1)^2` without a computer algebra system. Sets, tuples and intervals are compared member by member.

mod expression;

use expression::Expression;

/// Relative and (for values that are not tiny) absolute distance of equal numbers: six digits, as the reference rounds.
const TOLERANCE: f64 = 5e-7;
/// Longer answers are no final results.
const MAX_BYTES: usize = 4096;
/// Sets are compared pair by pair; longer ones count as text.
const MAX_MEMBERS: usize = 64;
/// Values of the variables at which expressions are compared: nothing special about them, so coincidences are unlikely.
const POINTS: [f64; 3] = [0.731_958, 1.414_823, 2.236_791];

/// 1 if the answer is equivalent to the truth, otherwise 0.
pub(super) fn score(answer: &str, truth: &str) -> f64 {
    if answer.len() > MAX_BYTES || truth.len() > MAX_BYTES || truth.trim().is_empty() {
        return 0.0;
    }
    let (answer, truth) = (Answer::read(answer), Answer::read(truth));
    f64::from(u8::from(answer.equals(&truth)))
}

/// A final result, read.
struct Answer {
    /// Without wrappers and without what does not matter, for the comparison as text.
    text: String,
    unit: Option<String>,
    parts: Parts,
}

enum Parts {
    /// One expression, or text that is none.
    One(Option<Expression>),
    /// The members between brackets; a set has no order.
    Many { open: char, close: char, members: Vec<Answer> },
    /// `left < right` or `left <= right`.
    Less { strict: bool, left: Option<Expression>, right: Option<Expression> },
}

impl Answer {
    fn read(raw: &str) -> Self {
        let text = unwrap(raw);
        let parts = read_many(&text).or_else(|| read_less(&text));
        if let Some(parts) = parts {
            return Self { text, unit: None, parts };
        }
        let value = last_side(&text);
        if let Some(expression) = Expression::parse(value) {
            return Self { parts: Parts::One(Some(expression)), text, unit: None };
        }
        let (number, unit) = split_unit(value);
        let expression = number.and_then(Expression::parse).or_else(|| only_number(value));
        let unit = unit.filter(|_| number.is_some());
        Self { parts: Parts::One(expression), text, unit }
    }

    fn equals(&self, other: &Self) -> bool {
        if !self.text.is_empty() && self.text.eq_ignore_ascii_case(&other.text) {
            return true;
        }
        if let (Some(left), Some(right)) = (&self.unit, &other.unit)
            && left != right
        {
            return false;
        }
        match (&self.parts, &other.parts) {
            (Parts::One(Some(left)), Parts::One(Some(right))) => same_value(left, right),
            (
                Parts::Many { open, close, members },
                Parts::Many { open: other_open, close: other_close, members: others },
            ) => {
                let same_brackets = (open, close) == (other_open, other_close) && members.len() == others.len();
                let found = |member: &Answer| others.iter().any(|other| member.equals(other));
                same_brackets
                    && match open {
                        '{' => members.iter().all(found) && others.iter().all(|o| members.iter().any(|m| o.equals(m))),
                        _ => members.iter().zip(others).all(|(left, right)| left.equals(right)),
                    }
            }
            (
                Parts::Less { strict, left: Some(left), right: Some(right) },
                Parts::Less { strict: other_strict, left: Some(other_left), right: Some(other_right) },
            ) => strict == other_strict && same_value(left, other_left) && same_value(right, other_right),
            _ => false,
        }
    }
}

/// Equal at every point, or equal as percentages: `50%` is 50 and 0.5.
fn same_value(left: &Expression, right: &Expression) -> bool {
    let equal_at = |scale: f64| {
        left.variables() == right.variables()
            && POINTS.iter().all(|&point| is_close(left.value(point) * scale, right.value(point)))
    };
    equal_at(1.0)
        || (left.is_percentage() != right.is_percentage() && equal_at(if left.is_percentage() { 0.01 } else { 100.0 }))
}

fn is_close(left: f64, right: f64) -> bool {
    // Numbers too large for f64 are all infinite, but not equal.
    if !(left.is_finite() && right.is_finite()) {
        return false;
    }
    let distance = (left - right).abs();
    distance <= TOLERANCE * right.abs() || (distance <= TOLERANCE && right.abs() >= 1e-3) || left == right
}

/// Takes off `$`, `\(..\)`, `\boxed{..}`, spaces and sizes, and writes Unicode and wordy LaTeX in one way.
fn unwrap(raw: &str) -> String {
    let mut text = raw.trim().trim_end_matches('.').to_owned();
    if let Some(start) = text.find("\\boxed{") {
        let inner = &text[start + "\\boxed{".len()..];
        text = inner[..matching_brace(inner)].to_owned();
    } else if let Some(inner) = between_dollars(&text) {
        text = inner.to_owned();
    }
    for (from, to) in [
        ("\\left", ""),
        ("\\right", ""),
        ("\\!", ""),
        ("\\,", ""),
        ("\\;", ""),
        ("\\ ", " "),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("{,}", ","),
        ("\\$", ""),
        ("$", ""),
        ("\\(", ""),
        ("\\)", ""),
        ("\\leq", "<="),
        ("\\geq", ">="),
        ("\\le", "<="),
        ("\\ge", ">="),
        ("≤", "<="),
        ("≥", ">="),
        ("π", "\\pi "),
        ("√", "\\sqrt "),
        ("−", "-"),
        ("×", "*"),
        ("÷", "/"),
        ("^{\\circ}", "°"),
        ("^\\circ", "°"),
        ("\\degree", "°"),
        ("degrees", "°"),
        ("\\%", "%"),
        ("percent", "%"),
    ] {
        text = text.replace(from, to);
    }
    for wrapper in ["\\text{", "\\mathrm{", "\\textbf{", "\\mathbf{"] {
        while let Some(start) = text.find(wrapper) {
            let inner = &text[start + wrapper.len()..];
            let end = matching_brace(inner);
            let rest = inner.get(end + 1..).unwrap_or_default();
            text = format!("{} {} {rest}", &text[..start], &inner[..end]);
        }
    }
    text.trim().to_owned()
}

/// The text of the only `$..$` or `$$..$$` pair.
fn between_dollars(text: &str) -> Option<&str> {
    let pieces: Vec<&str> = text.split('$').collect();
    match pieces.as_slice() {
        [_, inner, _] | [_, "", inner, "", _] => Some(inner),
        _ => None,
    }
}

/// Where the brace closes that opened just before `text`; its end where it does not.
fn matching_brace(text: &str) -> usize {
    let mut depth = 1;
    for (index, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    text.len()
}

/// `x = 3` as `3`; anything else as it is.
fn last_side(text: &str) -> &str {
    match text.rsplit_once('=') {
        Some((left, right)) if left.trim().chars().count() <= 2 && !left.contains(['<', '>']) => right.trim(),
        _ => text,
    }
}

/// `(..)`, `[..]`, `[..)`, `\{..\}` with at least two members, or a set of one.
fn read_many(text: &str) -> Option<Parts> {
    let text = text.replace("\\{", "{").replace("\\}", "}");
    let (open, close) = (text.chars().next()?, text.chars().last()?);
    if !matches!(open, '(' | '[' | '{') || !matches!(close, ')' | ']' | '}') || text.len() < 2 {
        return None;
    }
    let members = split_commas(&text[1..text.len() - 1]);
    let is_list = (members.len() > 1 || open == '{') && members.len() <= MAX_MEMBERS;
    is_list.then(|| Parts::Many { open, close, members: members.into_iter().map(Answer::read_member).collect() })
}

fn read_less(text: &str) -> Option<Parts> {
    let index = text.find(['<', '>'])?;
    let flipped = text[index..].starts_with('>');
    let (left, right) = (&text[..index], &text[index + 1..]);
    let (strict, right) = right.strip_prefix('=').map_or((true, right), |right| (false, right));
    let (left, right) = (Expression::parse(left), Expression::parse(right));
    Some(if flipped { Parts::Less { strict, left: right, right: left } } else { Parts::Less { strict, left, right } })
}

impl Answer {
    /// A member is an expression or text; brackets inside brackets are text.
    fn read_member(text: &str) -> Self {
        let text = text.trim();
        Self { text: text.to_owned(), unit: None, parts: Parts::One(Expression::parse(text)) }
    }
}

/// Splits at commas outside brackets.
fn split_commas(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0i32, 0, Vec::new());
    for (index, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    members.push(&text[start..]);
    members
}

/// `5 cm` as `5` and `cm`: an expression and then words.
fn split_unit(text: &str) -> (Option<&str>, Option<String>) {
    let is_number_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '+' | '/' | ' ');
    let end = text.find(|c: char| !is_number_part(c)).unwrap_or(text.len());
    let (number, unit) = (text[..end].trim(), text[end..].trim());
    let words = unit.chars().all(|c| c.is_alphabetic() || matches!(c, '^' | '/' | ' ' | '²' | '³' | '2' | '3'));
    let hedges = unit.split_whitespace().any(|word| matches!(word, "or" | "and" | "to"));
    if number.is_empty() || unit.is_empty() || !words || hedges {
        return (None, None);
    }
    (Some(number), Some(unit.to_lowercase()))
}

/// The number of a sentence that has exactly one.
fn only_number(text: &str) -> Option<Expression> {
    let mut numbers = text
        .split(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '/')))
        .filter(|run| run.contains(|c: char| c.is_ascii_digit()));
    let only = numbers.next()?.trim_matches([',', '.', '/']);
    let is_sentence = text.contains(char::is_whitespace) && text.chars().any(char::is_alphabetic);
    if numbers.next().is_some() || !is_sentence || text.contains(['\\', '^', '(', '{']) {
        None
    } else {
        Expression::parse(only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_answers_are_right_and_others_wrong() {
        for (answer, truth, expected) in [
            ("0.5", "\\frac{1}{2}", 1.0),
            ("$1\\frac12$", "1.5", 1.0),
            ("\\sqrt{8}", "2\\sqrt{2}", 1.0),
            ("x^2+2x+1", "(x+1)^2", 1.0),
            ("x^2+2x+2", "(x+1)^2", 0.0),
            ("x+y", "y+x", 1.0),
            ("x", "y", 0.0),
            ("{2,1}", "\\{1,2\\}", 1.0),
            ("(1,2)", "(2,1)", 0.0),
            ("[0,1)", "(0,1)", 0.0),
            ("3>x", "x<3", 1.0),
            ("3 > x", "x <= 3", 0.0),
            ("50\\%", "0.5", 1.0),
            ("50%", "5", 0.0),
            ("5 m", "5 cm", 0.0),
            ("5 cm", "5", 1.0),
            ("The answer is 42.", "42", 1.0),
            ("42 or 43", "42", 0.0),
            ("\\log_2 8", "3", 1.0),
            ("\\sin 30^\\circ", "0.5", 1.0),
            ("1e-9", "2e-9", 0.0),
            ("yes", "Yes", 1.0),
            ("A", "B", 0.0),
            ("1,234", "1234", 1.0),
            ("", "42", 0.0),
            ("42", "", 0.0),
            (&"(".repeat(4000), "42", 0.0),
            (&"{".repeat(4000), "42", 0.0),
            (&"9".repeat(4000), &"8".repeat(4000), 0.0),
            (&format!("{{{}}}", "1,".repeat(1500)), "{1}", 0.0),
        ] {
            assert_eq!(score(answer, truth), expected, "{answer:.40} {truth}");
        }
    }
}
