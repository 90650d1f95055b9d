//! The demo's report: one HTML page that needs nothing beside itself, made from plain data.
//!
//! [`DemoReport`] -> `svg` (curves, whiskers, pictures with boxes) -> `page` (the document).
//! Boxes are `[x1, y1, x2, y2]` on the model's grid, 0..1000 in both directions of the picture.

use owlet::Interval;
use serde::Serialize;

mod page;
mod svg;

pub(crate) use page::html;

/// Everything that the page shows.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DemoReport {
    /// The page's heading.
    pub(crate) title: String,
    /// What happened, in a sentence or two.
    pub(crate) summary: String,
    /// How it was run: (name, value), in the order shown.
    pub(crate) configuration: Vec<(String, String)>,
    /// Held-out results of every task, then over all of them.
    pub(crate) results: Vec<TaskResult>,
    /// One entry a training step.
    pub(crate) steps: Vec<StepPoint>,
    /// Questions asked before and after.
    pub(crate) examples: Vec<Example>,
}

/// Mean accuracy reward (0..=1) of greedy answers on the same held-out pictures, before and after.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TaskResult {
    pub(crate) task: String,
    pub(crate) before: Interval,
    pub(crate) after: Interval,
}

/// Means over the rollouts of one training step.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StepPoint {
    pub(crate) step: u64,
    pub(crate) reward: f64,
    pub(crate) accuracy: f64,
    /// Nats a token; `None` where nothing was learned from.
    pub(crate) entropy: Option<f64>,
    /// Tokens a response.
    pub(crate) length: f64,
}

/// A held-out question with both replies.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Example {
    pub(crate) task: String,
    pub(crate) question: String,
    pub(crate) truth: String,
    pub(crate) truth_box: Option<[f64; 4]>,
    pub(crate) picture: Picture,
    pub(crate) before: Reply,
    pub(crate) after: Reply,
}

/// An encoded picture and its size in pixels.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Picture {
    #[serde(skip)]
    pub(crate) png: Vec<u8>,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// What the model said, taken apart.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reply {
    pub(crate) thinking: String,
    pub(crate) answer: String,
    /// The box of the answer, if it holds one.
    pub(crate) answer_box: Option<[f64; 4]>,
    /// Accuracy reward of the answer, 0..=1.
    pub(crate) accuracy: f64,
}
