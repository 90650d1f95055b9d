//! One box or many, and how much two sets of them overlap.

use serde_json::Value;

use crate::reward::{coordinates, intersection_over_union};

/// Larger sets are no answers: two are compared pair by pair.
const MAX_BOXES: usize = 256;

/// A box and what it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledBox {
    /// x1, y1, x2, y2.
    pub corners: [f64; 4],
    /// In lower case, where it is told.
    pub label: Option<String>,
}

/// The boxes of an answer in JSON, in a code block or not: `{"boxes": [x1, y1, x2, y2]}`, `{"boxes": [[..], ..]}`, Qwen's
/// `[{"bbox_2d": [..], "label": ".."}, ..]`, or bare lists. `None` where it is anything else, holds a box without an area, none,
/// or more than 256.
pub fn parse_boxes(answer: &str) -> Option<Vec<LabelledBox>> {
    let answer = answer.trim();
    let inner = answer.strip_prefix("```json").or_else(|| answer.strip_prefix("```"));
    let answer = inner.and_then(|inner| inner.strip_suffix("```")).unwrap_or(answer);
    let boxes = boxes_of(&serde_json::from_str(answer).ok()?)?;
    (1..=MAX_BOXES).contains(&boxes.len()).then_some(boxes)
}

fn boxes_of(value: &Value) -> Option<Vec<LabelledBox>> {
    match value {
        Value::Object(fields) => {
            let places = ["boxes", "bbox_2d", "bbox"].iter().find_map(|key| fields.get(*key))?;
            let label = fields.get("label").and_then(Value::as_str).map(|label| label.trim().to_lowercase());
            let mut boxes = boxes_of(places)?;
            boxes.iter_mut().filter(|found| found.label.is_none()).for_each(|found| found.label.clone_from(&label));
            Some(boxes)
        }
        Value::Array(items) if items.iter().all(|item| item.is_array() || item.is_object()) => {
            let sets = items.iter().map(boxes_of).collect::<Option<Vec<_>>>()?;
            Some(sets.into_iter().flatten().collect())
        }
        Value::Array(items) => {
            let corners @ [x1, y1, x2, y2] = coordinates(items)?;
            (x1 < x2 && y1 < y2).then(|| vec![LabelledBox { corners, label: None }])
        }
        _ => None,
    }
}

/// How much two sets of boxes are the same, 0..=1: `2 sum IoU / (n + m)` over a one-to-one matching, for single boxes their
/// intersection over union. The matching is greedy, the pair of the largest IoU first; boxes with different labels do not match.
pub fn boxes_overlap(left: &[LabelledBox], right: &[LabelledBox]) -> f64 {
    let mut pairs = Vec::new();
    for (i, one) in left.iter().enumerate() {
        for (j, other) in right.iter().enumerate() {
            let may_match = one.label.is_none() || other.label.is_none() || one.label == other.label;
            let overlap = if may_match { intersection_over_union(one.corners, other.corners) } else { 0.0 };
            if overlap > 0.0 {
                pairs.push((overlap, i, j));
            }
        }
    }
    // Equal ones in the order of the boxes.
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut left_taken, mut right_taken) = (vec![false; left.len()], vec![false; right.len()]);
    let mut total = 0.0;
    for (overlap, i, j) in pairs {
        if !left_taken[i] && !right_taken[j] {
            (left_taken[i], right_taken[j]) = (true, true);
            total += overlap;
        }
    }
    let n = left.len() + right.len();
    if n == 0 { 0.0 } else { 2.0 * total / n as f64 }
}
