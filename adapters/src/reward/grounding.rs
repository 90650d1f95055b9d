//! Boxes: `{"boxes": [x1, y1, x2, y2]}` on the 0..1000 grid, by intersection over union.

use serde_json::Value;

/// x1, y1, x2, y2.
type Box = [f64; 4];

/// Intersection over union of the two boxes, in 0..=1; 0 where one cannot be read or has no area.
pub(super) fn score(answer: &str, truth: &str) -> f64 {
    match (parse_box(answer), parse_box(truth)) {
        (Some(answer), Some(truth)) => intersection_over_union(answer, truth),
        _ => 0.0,
    }
}

/// The box of a JSON object under the key `boxes`: four finite numbers, which may be written as strings.
pub fn parse_box(answer: &str) -> Option<Box> {
    let object: Value = serde_json::from_str(answer).ok()?;
    coordinates(object.get("boxes")?.as_array()?)
}

/// Four finite numbers, which may be written as strings.
pub(crate) fn coordinates(items: &[Value]) -> Option<Box> {
    let corners: Vec<f64> = items.iter().map(coordinate).collect::<Option<_>>()?;
    corners.try_into().ok()
}

fn coordinate(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        _ => value.as_f64(),
    };
    number.filter(|number| number.is_finite())
}

/// In 0..=1.
pub(crate) fn intersection_over_union(left: Box, right: Box) -> f64 {
    let area = |[x1, y1, x2, y2]: Box| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let common = area([left[0].max(right[0]), left[1].max(right[1]), left[2].min(right[2]), left[3].min(right[3])]);
    let union = area(left) + area(right) - common;
    // Overflowing coordinates give an infinite union or NaN: not above 0, or a quotient that is not a number.
    let quotient = if union > 1e-12 { common / union } else { 0.0 };
    if quotient.is_finite() { quotient } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_that_are_none_score_nothing() {
        const TRUTH: &str = r#"{"boxes": [100, 100, 300, 300]}"#;
        for (answer, expected) in [
            (TRUTH, 1.0),
            (r#"{"boxes": ["100", "100", "300", "300"]}"#, 1.0),
            (r#"{"boxes": [300, 300, 100, 100]}"#, 0.0),
            (r#"{"boxes": [100, 100, 300]}"#, 0.0),
            (r#"{"boxes": [100, 100, 300, true]}"#, 0.0),
            (r#"{"boxes": [100, 100, 300, NaN]}"#, 0.0),
            (r#"{"boxes": [-1e308, -1e308, 1e308, 1e308]}"#, 0.0),
            (r#"{"boxes": ["nan", 0, 1, 1]}"#, 0.0),
            ("[100, 100, 300, 300]", 0.0),
            (&"[".repeat(100_000), 0.0),
        ] {
            assert_eq!(score(answer, TRUTH), expected, "{answer:.60}");
        }
    }
}
