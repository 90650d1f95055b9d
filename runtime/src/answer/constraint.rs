//! What an answer has to look like: JSON of a schema, or a text of a grammar.
//!
//! Schemas and grammars come from apps and their users, so their size and depth are bounded before anything is built of
//! them; what a small one can still blow up (repetitions of repetitions) ends at the limits of the grammar engine.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// Most bytes of a schema (as JSON) or a grammar.
const MAX_BYTES: usize = 256 << 10;
/// Deepest nesting of a schema's values or a grammar's brackets. Building either recurses.
const MAX_DEPTH: usize = 64;

/// What an answer has to look like. It concerns the answer alone: thinking is free, and so are the tags `<think>`, `<thinking>`
/// and `<answer>` before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Constraint {
    /// JSON that is valid under this JSON Schema. Keywords that are not supported are refused, not passed over; references
    /// are followed within the schema only.
    JsonSchema(Value),
    /// A text of this context-free grammar, in the Lark dialect of the crate `llguidance`: `start: "yes" | "no" | /[0-9]+/`.
    Lark(String),
}

impl Constraint {
    /// # Errors
    /// `Limit` for a schema or grammar that is too large or nested too deeply.
    pub(super) fn check(&self) -> Result<()> {
        let (n_bytes, depth) = match self {
            Self::JsonSchema(schema) => (value_bytes(schema), value_depth(schema)),
            Self::Lark(text) => (text.len(), bracket_depth(text)),
        };
        let limit = |got: String, needed: String| {
            Err(Error::new(ErrorKind::Limit, "constraint out of bounds").at(self.name()).got(got).needed(needed))
        };
        if depth > MAX_DEPTH {
            return limit(format!("more than {MAX_DEPTH} levels"), format!("at most {MAX_DEPTH}"));
        }
        if n_bytes > MAX_BYTES {
            return limit(format!("more than {MAX_BYTES} bytes"), format!("at most {MAX_BYTES}"));
        }
        Ok(())
    }

    /// What kind of constraint it is.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Lark(_) => "grammar",
        }
    }
}

/// About as many bytes as `value` has as JSON; some more than [`MAX_BYTES`] if it has more.
fn value_bytes(value: &Value) -> usize {
    let mut waiting = vec![value];
    let mut n_bytes = 0;
    while let Some(value) = waiting.pop().filter(|_| n_bytes <= MAX_BYTES) {
        n_bytes += 2;
        match value {
            Value::String(text) => n_bytes += text.len(),
            Value::Array(values) => waiting.extend(values),
            Value::Object(fields) => {
                n_bytes += fields.keys().map(|key| key.len() + 3).sum::<usize>();
                waiting.extend(fields.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => n_bytes += 4,
        }
    }
    n_bytes
}

/// Levels of `value`, counted no further than one more than [`MAX_DEPTH`].
fn value_depth(value: &Value) -> usize {
    let mut level: Vec<&Value> = vec![value];
    let mut depth = 0;
    while !level.is_empty() && depth <= MAX_DEPTH {
        depth += 1;
        level = level
            .into_iter()
            .flat_map(|value| match value {
                Value::Array(values) => values.iter().collect(),
                Value::Object(fields) => fields.values().collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    depth
}

/// The deepest nesting of brackets; those in strings and expressions count as well.
fn bracket_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
