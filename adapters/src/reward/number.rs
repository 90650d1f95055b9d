//! Numbers: equality to two decimals, and relative closeness.

/// 1 if both are numbers that agree after rounding to two decimals, otherwise 0.
///
/// Halves may be rounded either way: 2.675 is right for 2.68 and for 2.67.
pub(super) fn score_equal(answer: &str, truth: &str) -> f64 {
    let (Some(answer), Some(truth)) = (parse_number(answer), parse_number(truth)) else { return 0.0 };
    f64::from(u8::from(rounded(answer).iter().any(|value| rounded(truth).contains(value))))
}

/// The share of the ten thresholds .5, .55, ..., .95 for which `|answer - truth| / (|truth| + 1e-8) < 1 - threshold`.
///
/// This is VSI-Bench's mean relative accuracy; in f32, so that an answer on a threshold falls on the reference's side.
pub(super) fn score_close(answer: &str, truth: &str) -> f64 {
    let (Some(answer), Some(truth)) = (parse_number(answer), parse_number(truth)) else { return 0.0 };
    let (answer, truth) = (answer as f32, truth as f32);
    let error = (answer - truth).abs() / (truth.abs() + 1e-8);
    let passed = (0..10).filter(|&step| error < 1.0 - (0.5 + 0.05 * f64::from(step)) as f32).count();
    passed as f64 / 10.0
}

/// `value` in hundredths, rounded to nearest with halves down and up (the same unless `value` is halfway).
fn rounded(value: f64) -> [f64; 2] {
    // Beyond this f64 has no decimals, and a hundredfold could overflow.
    if value.abs() > 1e13 {
        return [value; 2];
    }
    // Decimal halves are not halves in binary: 2.675 is 2.67499999999999982.
    let half_width = 1e-9 * (1.0 + value.abs());
    [(value * 100.0 + 0.5 - half_width).floor(), (value * 100.0 + 0.5 + half_width).floor()]
}

/// A finite number that stands alone: sign, thousands commas, decimals, exponent; a currency or percent sign, a fraction
/// `a/b`, `$..$` and `\boxed{..}` around it are accepted. Words and units are not.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let text = text.strip_prefix("\\boxed{").and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
    let ascii: String = text.chars().map(to_ascii).filter(|c| !matches!(c, '$' | '€' | '£')).collect();
    let plain = ascii.strip_suffix("\\%").or_else(|| ascii.strip_suffix('%')).unwrap_or(&ascii).trim();
    let value = match plain.split_once('/') {
        Some((numerator, denominator)) => parse_decimal(numerator)? / parse_decimal(denominator)?,
        None => parse_decimal(plain)?,
    };
    value.is_finite().then_some(value)
}

/// Full-width digits and signs, which multilingual models write, as ASCII; the true minus sign too.
fn to_ascii(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        '\u{2212}' => '-',
        _ => c,
    }
}

fn parse_decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let (whole, rest) = text.split_at(text.find(['.', 'e', 'E']).unwrap_or(text.len()));
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, ',' | '.' | '+' | '-' | 'e' | 'E');
    if !text.chars().all(numeric) || rest.contains(',') {
        return None;
    }
    let groups: Vec<&str> = whole.trim_start_matches(['+', '-']).split(',').collect();
    if let [first, middle @ .., last] = groups.as_slice() {
        // Thousands, or the Indian style with pairs before the last three.
        let grouped =
            (1..=3).contains(&first.len()) && last.len() == 3 && middle.iter().all(|g| matches!(g.len(), 2 | 3));
        if !grouped {
            return None;
        }
    }
    text.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, expected) in [
            ("3", Some(3.0)),
            (" -3.50 ", Some(-3.5)),
            (".5", Some(0.5)),
            ("1e3", Some(1000.0)),
            ("1,234,567.5", Some(1_234_567.5)),
            ("12,34,567", Some(1_234_567.0)),
            ("$4.50", Some(4.5)),
            ("50%", Some(50.0)),
            ("3 / 4", Some(0.75)),
            ("\\boxed{7}", Some(7.0)),
            ("３", Some(3.0)),
            ("\u{2212}2", Some(-2.0)),
            ("1,2,3", None),
            ("1,23", None),
            ("1/0", None),
            ("0/0", None),
            ("5 apples", None),
            ("five", None),
            ("3 4", None),
            ("--3", None),
            ("0x10", None),
            ("1_000", None),
            ("inf", None),
            ("nan", None),
            ("1e400", None),
            ("", None),
            (",", None),
        ] {
            assert_eq!(parse_number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn halves_round_either_way_and_nothing_else_does() {
        for (answer, truth, expected) in [
            ("2.675", "2.68", 1.0),
            ("2.675", "2.67", 1.0),
            ("3.144", "3.136", 1.0),
            ("3.146", "3.14", 0.0),
            ("-0.001", "0", 1.0),
            ("1e300", "2e300", 0.0),
            ("1e300", "1e300", 1.0),
        ] {
            assert_eq!(score_equal(answer, truth), expected, "{answer} {truth}");
        }
    }
}
