//! Multiple choice: the letter of the option, however it is dressed.

/// 1 if `answer` names the options of `truth`, otherwise 0.
///
/// `truth` is a letter, a list of letters (a set: the order does not matter), or a word such as `yes`. The answer may be
/// the letter in brackets, bold, `\boxed{}` or a sentence such as `Option A` or `the answer is A`; the letter with the
/// text of its option; or the text of the option alone. An answer that names two options for one is wrong.
pub(super) fn score(answer: &str, truth: &str, options: &[String]) -> f64 {
    let (answer, truth) = (undress(answer), undress(truth));
    let is_right = same_text(answer, truth)
        || letters(truth).is_some_and(|truth| match letters(answer) {
            Some(letters) => letters == truth,
            None => named_letter(answer, options).is_some_and(|letter| truth == [letter]),
        });
    f64::from(u8::from(is_right))
}

/// Removes LaTeX wrappers and everything at the ends that is neither letter nor digit: `(A)`, `**A**`, `$A$`, `A.`.
fn undress(text: &str) -> &str {
    let trimmed = text.trim_matches(|c: char| !c.is_alphanumeric());
    for wrapper in ["boxed{", "text{", "mathrm{", "textbf{", "mathbf{"] {
        if let Some(inner) = trimmed.strip_prefix(wrapper) {
            return undress(inner);
        }
    }
    trimmed
}

fn same_text(left: &str, right: &str) -> bool {
    !right.is_empty() && left.to_lowercase() == right.to_lowercase()
}

/// The sorted option letters of a text that is nothing else: `A`, `b`, `A,B`, `A and C`.
fn letters(text: &str) -> Option<Vec<char>> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == ';' || c == '&').map(undress);
    let mut letters = words
        .filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case("and"))
        .map(single_letter)
        .collect::<Option<Vec<char>>>()?;
    letters.sort_unstable();
    letters.dedup();
    (!letters.is_empty()).then_some(letters)
}

fn single_letter(word: &str) -> Option<char> {
    let mut chars = word.chars();
    let letter = chars.next().filter(char::is_ascii_alphabetic)?;
    chars.next().is_none().then_some(letter.to_ascii_uppercase())
}

/// The one letter that a longer answer names.
fn named_letter(answer: &str, options: &[String]) -> Option<char> {
    let option_text = |letter: char| {
        let labelled = options.iter().find_map(|option| split_label(option).filter(|(label, _)| *label == letter));
        labelled.map(|(_, text)| text)
    };
    if let Some((letter, text)) = split_label(answer) {
        let fits = match option_text(letter) {
            Some(option) => same_text(undress(text), undress(option)),
            // Without the options at hand: no second label may hide in the text.
            None => !text.split_whitespace().any(|word| split_label(word).is_some() || single_letter(word).is_some()),
        };
        return fits.then_some(letter);
    }
    let by_text = options.iter().filter_map(|option| split_label(option));
    let mut matching = by_text.filter(|(_, text)| same_text(answer, undress(text))).map(|(letter, _)| letter);
    if let Some(letter) = matching.next() {
        return matching.next().is_none().then_some(letter);
    }
    let lower = answer.to_lowercase();
    let lead_ins =
        ["the answer is option ", "the correct answer is ", "the answer is ", "answer: ", "option ", "choice "];
    let rest = lead_ins.iter().find_map(|lead_in| lower.strip_prefix(lead_in))?;
    single_letter(undress(rest))
}

/// `A. text`, `A) text`, `(A) text` or `A: text` as the letter and the text.
fn split_label(text: &str) -> Option<(char, &str)> {
    let text = text.trim().trim_start_matches('(');
    let letter = text.chars().next().filter(char::is_ascii_alphabetic)?;
    let rest = text[1..].strip_prefix(['.', ')', ':'])?;
    Some((letter.to_ascii_uppercase(), rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_found_in_all_dresses() {
        let options = ["A. clothing".to_owned(), "B. two dogs".to_owned(), "C. a".to_owned()];
        for (answer, truth, expected) in [
            ("A", "A", 1.0),
            ("**a**", "A", 1.0),
            ("\\boxed{A}", "A", 1.0),
            ("$\\text{A}$", "A", 1.0),
            ("A. clothing", "A", 1.0),
            ("A) Clothing.", "A", 1.0),
            ("clothing", "A", 1.0),
            ("the answer is B", "B", 1.0),
            ("Option (B)", "B", 1.0),
            ("B and A", "A,B", 1.0),
            ("B. clothing", "A", 0.0),
            ("A. two dogs", "A", 0.0),
            ("A, B", "A", 0.0),
            ("A or B", "A", 0.0),
            ("AB", "A", 0.0),
            ("", "A", 0.0),
            ("clothing or dogs", "A", 0.0),
            ("Yes", "yes", 1.0),
        ] {
            assert_eq!(score(answer, truth, &options), expected, "{answer:?} {truth:?}");
        }
        assert_eq!(score("A. or B. dogs", "A", &[]), 0.0);
    }
}
