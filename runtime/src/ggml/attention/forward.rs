//! The forward pass.

use std::ffi::{c_int, c_void};

use llama_cpp_sys_2 as sys;

use super::{
    super::product::{Left, ROWS},
    Work,
    panel::{Output, Panel, Strips, Sums, batch, numbers},
    tasks::{QueryPanel, batches, query_panels},
};
use crate::exponential::exp;

/// The callback of the custom operation that `Graph::attention` describes; its operands are queries, keys packed by vectors and
/// values packed by elements, its user data [`Work`].
pub(super) unsafe extern "C" fn attend(dst: *mut sys::ggml_tensor, _: c_int, n_threads: c_int, work: *mut c_void) {
    // SAFETY: ggml passes the tensor of a running operation, whose operands and user data `Graph::attention` has set and
    // checked; nobody changes them meanwhile.
    let (output, work, [head_dim, n_head, n_tokens, _], n_head_kv, q, keys, values) = unsafe {
        let [q, keys, values, ..] = (*dst).src;
        let (shape, n_head_kv) = ((*q).ne.map(|n| n as usize), (*keys).ne[2] as usize);
        let work = &*work.cast::<Work>();
        (Output::new(dst), work, shape, n_head_kv, numbers(q), Strips::new(keys), Strips::new(values))
    };
    let mut queries = Panel::new(head_dim);
    let (mut means, mut scores) = (Sums::new(head_dim), batch());
    let panels = query_panels(&work.branches, n_head, n_head_kv);
    for panel in work.take(&panels, n_threads as usize) {
        let row = |(token, head): (usize, usize)| token * n_head + head;
        queries.fill(panel.lanes.iter().map(|&lane| &q[row(lane) * head_dim..][..head_dim]));
        let (mut max, mut sum) = ([f32::NEG_INFINITY; ROWS], [0.0; ROWS]);
        means.clear();
        let mut n_seen = 0;
        for keys_of_batch in panel.keys.iter().cloned().flat_map(batches) {
            let scores = &mut scores[..keys_of_batch.len()];
            queries.products(&keys, panel.head, keys_of_batch.clone(), scores);
            panel.hide(scores, n_seen);
            n_seen += scores.len();
            let shrink = softmax(scores, &mut max, &mut sum);
            means.scale(&shrink);
            means.add(scores, &values, panel.head, keys_of_batch);
        }
        means.scale(&sum.map(|sum| 1.0 / sum));
        // SAFETY: no other task has these tokens and heads.
        unsafe {
            means.write(panel.lanes.len(), |lane, first, values| {
                output.write(row(panel.lanes[lane]) * head_dim + first, values);
            });
            for (index, &lane) in panel.lanes.iter().enumerate() {
                let log_sum = max[index] + sum[index].ln();
                output.write(head_dim * n_head * n_tokens + row(lane), &[log_sum]);
            }
        }
    }
}

/// Replaces scores by their exponentials relative to the largest so far, `max`, and adds these to `sum`; both are updated.
/// Returns the factor by which what was relative to the maximum before is to be multiplied.
#[inline(always)]
fn softmax(scores: &mut [Left], max: &mut Left, sum: &mut Left) -> Left {
    let before = *max;
    for row in scores.iter() {
        max.iter_mut().zip(row).for_each(|(max, &score)| *max = if score > *max { score } else { *max });
    }
    let mut shrink = [0.0; ROWS];
    for (lane, shrink) in shrink.iter_mut().enumerate() {
        *shrink = exp(before[lane] - max[lane]);
        sum[lane] *= *shrink;
    }
    for row in scores {
        for (lane, score) in row.iter_mut().enumerate() {
            *score = exp(*score - max[lane]);
            sum[lane] += *score;
        }
    }
    shrink
}

impl QueryPanel {
    /// Takes from the `scores` of keys `start..` of the sequence those that a lane must not see.
    pub(super) fn hide(&self, scores: &mut [Left], start: usize) {
        let first = self.n_visible[0];
        for (key, row) in (start..).zip(scores).skip(first.saturating_sub(start)) {
            for (score, &n_visible) in row.iter_mut().zip(&self.n_visible) {
                if key >= n_visible {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }
}
